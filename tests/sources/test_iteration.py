"""Sources that are iterated in the event loop: what is closed, and when."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from flowstream._errors import EncodingError
from flowstream.sources import as_source


class Recorded:
    """An async generator, and what happened to it."""

    def __init__(self, items: int, *, fail: BaseException | None = None) -> None:
        self.log: list[str] = []
        self._items = items
        self._fail = fail

    async def generate(self):
        try:
            self.log.append("started")
            for number in range(self._items):
                yield number
            if self._fail is not None:
                raise self._fail
            await trio.lowlevel.checkpoint()
        except BaseException as error:
            self.log.append(type(error).__name__)
            raise
        finally:
            self.log.append("closed")


async def test_a_generator_that_ends_is_closed(outlet):
    """Its items are sent and its `finally` has run when the source is through."""
    recorded = Recorded(3)
    await as_source(recorded.generate()).run(outlet)
    assert outlet.items == [0, 1, 2]
    assert recorded.log == ["started", "closed"]


async def test_a_generator_that_fails_is_closed_and_its_error_passed_on(outlet):
    """What it sent before is kept, and the error is the very one that it raised."""
    error = RuntimeError("upstream is gone")
    recorded = Recorded(2, fail=error)
    with pytest.raises(RuntimeError) as caught:
        await as_source(recorded.generate()).run(outlet)
    assert caught.value is error
    assert outlet.items == [0, 1]
    assert recorded.log[-1] == "closed"


async def test_a_generator_is_closed_when_its_item_cannot_be_sent(outlet):
    """It is suspended at its yield, gets GeneratorExit there, and is not iterated further."""
    recorded = Recorded(9)

    outlet.refuses = True
    with pytest.raises(EncodingError, match="refused"):
        await as_source(recorded.generate()).run(outlet)
    assert recorded.log == ["started", "GeneratorExit", "closed"]


async def test_a_generator_is_closed_when_it_is_cancelled_at_its_yield(outlet):
    """Waiting for a slow client it is closed in the same scheduler pass as the cancel."""
    recorded = Recorded(9)
    outlet.block_at = 2
    async with trio.open_nursery() as nursery:
        nursery.start_soon(as_source(recorded.generate()).run, outlet)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert recorded.log == ["started", "GeneratorExit", "closed"]
    assert outlet.items == [0, 1]


async def test_a_generator_is_cancelled_in_its_own_await(outlet):
    """Waiting for its upstream it sees Cancelled, as any code on Trio does."""
    log = []

    async def generate():
        yield 1
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            log.append("cancelled")
            raise

    async with trio.open_nursery() as nursery:
        nursery.start_soon(as_source(generate()).run, outlet)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert log == ["cancelled"]


async def test_a_wrapped_iterator_is_closed_by_its_aclose(outlet):
    """Whatever has the method is closed, not only what Python itself calls a generator."""

    class Wrapped:
        closed = 0
        left = 2

        def __aiter__(self):
            return self

        async def __anext__(self):
            if not self.left:
                raise StopAsyncIteration
            self.left -= 1
            return self.left

        async def aclose(self):
            self.closed += 1

    wrapped = Wrapped()
    await as_source(wrapped).run(outlet)
    assert (outlet.items, wrapped.closed) == ([1, 0], 1)
    await as_source(wrapped).discard()
    assert wrapped.closed == 2


async def test_an_iterator_that_cannot_be_closed_need_not_be(outlet):
    """An object with `__anext__` alone is a source like any other."""

    class Bare:
        def __aiter__(self):
            return self

        async def __anext__(self):
            raise StopAsyncIteration

    await as_source(Bare()).run(outlet)
    await as_source(Bare()).discard()
    assert outlet.items == []


async def test_a_discarded_generator_runs_not_a_line():
    """It is closed, so Python does not warn of it either, and its upstream never opened."""
    recorded = Recorded(3)
    await as_source(recorded.generate()).discard()
    assert recorded.log == []


async def test_a_discarded_generator_function_is_not_called():
    """For a HEAD request nothing is made that would have to be released."""

    async def generate():
        raise AssertionError
        yield

    await as_source(generate).discard()


async def test_a_generator_function_is_called_when_the_stream_runs(outlet):
    """And the generator that it makes is closed like one that was handed over."""
    recorded = Recorded(1)
    source = as_source(recorded.generate)
    assert recorded.log == []
    await source.run(outlet)
    assert recorded.log == ["started", "closed"]


async def test_a_list_needs_no_thread(outlet, monkeypatch):
    """What is already here is sent from the event loop."""

    def refuse(*args, **kwargs):
        raise AssertionError("no thread")

    monkeypatch.setattr(trio.to_thread, "run_sync", refuse)
    source = as_source([1, 2])
    await source.discard()
    await source.run(outlet)
    assert outlet.items == [1, 2]


async def test_a_producer_functions_error_is_passed_on(outlet):
    """The stream fails with what the function raised."""

    async def produce(out):
        await out.send(1)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        await as_source(produce).run(outlet)
    assert outlet.items == [1]
