"""What may be handed over as a source, and what a mistake is answered with."""

from __future__ import annotations

import functools
from collections import deque

import pytest
import trio

from flowstream._errors import SourceError
from flowstream.sources import Source, as_source
from flowstream.sources._in_event_loop import (
    AsyncGeneratorFunction,
    AsyncIteration,
    Channel,
    InMemory,
    Producer,
)
from flowstream.sources.threads._threaded_iteration import ThreadedIteration


async def agen():
    yield 1
    yield 2


async def agen_of(count):
    for number in range(1, count + 1):
        yield number


def gen():
    yield 1
    yield 2


def gen_of(count):
    yield from range(1, count + 1)


async def produce(out):
    await out.send(1)
    await out.send(2)


async def produce_up_to(count, out):
    for number in range(1, count + 1):
        await out.send(number)


class Feed:
    """Callable in every way that a function is."""

    def __aiter__(self):
        return agen()

    async def agen(self):
        yield 1
        yield 2

    def gen(self):
        yield 1
        yield 2

    async def produce(self, out):
        await produce(out)

    @staticmethod
    async def static(out):
        await produce(out)

    @classmethod
    async def of_class(cls, out):
        await produce(out)


class Agen:
    async def __call__(self):
        yield 1
        yield 2


class Gen:
    def __call__(self):
        yield 1
        yield 2


class Produces:
    async def __call__(self, out):
        await produce(out)


class Awaitable:
    """A query that may be awaited whole or iterated, as some clients' are."""

    def __await__(self):
        raise AssertionError("not to be awaited")

    def __aiter__(self):
        return agen()


class Own(Source):
    async def run(self, out):
        await produce(out)


def full_channel():
    send, receive = trio.open_memory_channel(2)
    send.send_nowait(1)
    send.send_nowait(2)
    send.close()
    return receive


async def produce_with_options(out, *rest, count=2, **options):
    await produce(out)


async def produce_anything(*args):
    await produce(*args)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (agen, AsyncIteration),
        (Feed, AsyncIteration),
        (Awaitable, AsyncIteration),
        (lambda: agen, AsyncGeneratorFunction),
        (lambda: Feed().agen, AsyncGeneratorFunction),
        (lambda: functools.partial(agen_of, 2), AsyncGeneratorFunction),
        (lambda: functools.partial(functools.partial(agen_of), count=2), AsyncGeneratorFunction),
        (Agen, AsyncGeneratorFunction),
        (lambda: functools.partial(Agen()), AsyncGeneratorFunction),
        (lambda: produce, Producer),
        (lambda: produce_with_options, Producer),
        (lambda: produce_anything, Producer),
        (lambda: Feed().produce, Producer),
        (lambda: Feed.static, Producer),
        (lambda: Feed.of_class, Producer),
        (lambda: functools.partial(produce_up_to, 2), Producer),
        (Produces, Producer),
        (lambda: [1, 2], InMemory),
        (lambda: (1, 2), InMemory),
        (lambda: range(1, 3), InMemory),
        (gen, ThreadedIteration),
        (lambda: gen, ThreadedIteration),
        (lambda: Feed().gen, ThreadedIteration),
        (lambda: functools.partial(gen_of, 2), ThreadedIteration),
        (Gen, ThreadedIteration),
        (lambda: {1, 2}, ThreadedIteration),
        (lambda: deque([1, 2]), ThreadedIteration),
        (lambda: iter([1, 2]), ThreadedIteration),
        ({1: "a", 2: "b"}.keys, ThreadedIteration),
        (full_channel, Channel),
        (Own, Own),
    ],
)
async def test_each_kind_of_source_sends_its_items_in_order(make, kind, outlet):
    """Whatever it is made of, it is recognised, and its two items come out."""
    source = as_source(make())
    assert type(source) is kind
    await source.run(outlet)
    assert outlet.items == [1, 2]


async def test_a_source_of_ones_own_is_taken_as_it_is():
    """It is not wrapped, and may be discarded without having done anything for it."""
    own = Own()
    assert as_source(own) is own
    await own.discard()


@pytest.mark.parametrize(
    "item", ["text", b"bytes", bytearray(b"bytes"), memoryview(b"bytes"), {"a": 1}]
)
def test_one_item_is_no_source_though_python_can_iterate_it(item):
    """Characters, byte values and keys are never what was meant."""
    with pytest.raises(SourceError, match=f"^a {type(item).__name__} is one item, not a source"):
        as_source(item)


@pytest.mark.parametrize("called", [produce, Feed().produce])
def test_a_called_producer_is_refused_and_leaves_no_warning(called):
    """The message says to pass the function itself; the coroutine is closed."""
    with pytest.raises(SourceError, match="pass the producer function itself, without calling it"):
        as_source(called(None))


def test_an_awaitable_that_cannot_be_iterated_is_refused():
    """A future or a lazy query is not awaited on the app's behalf."""

    class Lazy:
        def __await__(self):
            yield

    with pytest.raises(SourceError, match="a coroutine is not a source"):
        as_source(Lazy())


@pytest.mark.parametrize("given", [Feed, list, Own, Agen])
def test_a_class_is_refused_even_if_its_instances_are_sources(given):
    """The message names the class and asks for an instance."""
    with pytest.raises(SourceError, match=f"the class {given.__name__} .* pass an instance"):
        as_source(given)


@pytest.mark.parametrize("given", [None, 7, 1.5, object()])
def test_what_cannot_be_iterated_or_called_is_refused(given):
    """The message names the type and lists what is expected."""
    with pytest.raises(SourceError, match=f"a {type(given).__name__} is not a source .*async iter"):
        as_source(given)


async def keyword_only(*, out):
    raise AssertionError


async def none():
    raise AssertionError


async def optional(out=None):
    await produce(out)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (agen_of, r"async generator function agen_of wants 1 argument\(s\) \(count\): call it"),
        (
            functools.partial(agen_of, 1, 2),
            r"partial\(.*agen_of.* is not a source of items; expected",
        ),
        (gen_of, r"the generator function gen_of wants 1 argument\(s\) \(count\): call it and"),
        (none, r"async function none wants 0 argument\(s\); a producer function takes one"),
        (produce_up_to, r"produce_up_to wants 2 argument\(s\) \(count, out\); a producer"),
        (keyword_only, r"keyword_only wants 1 argument\(s\) \(out\); .* one by position"),
        (functools.partial(produce, 1), r"wants 0 argument\(s\); a producer function takes one"),
        (lambda: [1, 2], "the function .*<lambda> is not a source of items; expected"),
        (len, "the function len is not a source of items"),
        (max, "max is not a source of items; expected"),
    ],
)
def test_a_function_of_the_wrong_shape_is_told_the_right_one(given, message):
    """The message names the function and what it wants, and says what to do instead."""
    with pytest.raises(SourceError, match=message):
        as_source(given)


async def test_a_producer_function_may_have_a_default_for_its_outlet(outlet):
    """It is called with the outlet all the same."""
    await as_source(optional).run(outlet)
    assert outlet.items == [1, 2]


def test_source_errors_are_type_errors():
    """Whoever catches TypeError for a wrong argument catches these."""
    with pytest.raises(TypeError):
        as_source("text")
