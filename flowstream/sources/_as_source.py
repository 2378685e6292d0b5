"""Turn what an app passes to `stream()` and the others into a source.

`first_and_next` is for code that runs a source again after a failure. A generator or a channel that
has failed is used up. A function that makes one can be called again, and a list, or an object that
can be iterated again, can be read again.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import AsyncGeneratorType
from typing import Any, TypeAlias

import trio

from flowstream._errors import SourceError
from flowstream.buffer._outlet import Outlet
from flowstream.sources._feed import Feed, Feeds, HasFeed, SingleFeed
from flowstream.sources._in_event_loop import (
    AsyncGeneratorFunction,
    AsyncIteration,
    Channel,
    InMemory,
    Producer,
)
from flowstream.sources._resumable import resumable_with
from flowstream.sources._source import Source
from flowstream.sources._source_like import SourceLike
from flowstream.sources.threads._threaded_iteration import ThreadedIteration

__all__ = ["SourceMaker", "as_source", "first_and_next", "resumable"]

SourceMaker: TypeAlias = SourceLike | Callable[[], SourceLike]
"""What can run again after each failure: a repeatable source, or a function that makes a source."""

_EXPECTED = (
    "expected an async iterable, an async generator function of no arguments, a producer "
    "function `async def produce(out)`, a sync iterable or a Trio receive channel"
)


def as_source(given: Any) -> Source | Feed:
    """Return a source for `given`, without starting it.

    Raises:
        SourceError: `given` can't be streamed. A `str`, bytes or mapping is refused although Python
            can iterate it: nobody means to stream it character by character or key by key.
    """
    if type(given) is AsyncGeneratorType:  # the usual case, first: the checks below are slow
        return AsyncIteration(given)
    if isinstance(given, (Source, Feed)):
        return given
    if isinstance(given, HasFeed):
        return given._feed
    if isinstance(given, (str, bytes, bytearray, memoryview, Mapping)):
        raise SourceError(
            f"a {type(given).__name__} is one item, not a source of items; {_EXPECTED}"
        )
    if isinstance(given, type):
        raise SourceError(
            f"the class {given.__qualname__} is not a source of items: pass an instance; "
            f"{_EXPECTED}"
        )
    if isinstance(given, trio.abc.ReceiveChannel):
        return Channel(given)
    if hasattr(given, "__aiter__"):
        return AsyncIteration(given)
    if inspect.isawaitable(given):
        if inspect.iscoroutine(given):
            given.close()  # else Python warns later that it was never awaited
        raise SourceError(
            "a coroutine is not a source: pass the producer function itself, without calling it; "
            f"it is called with the stream's outlet; {_EXPECTED}"
        )
    if isinstance(given, (list, tuple)) and any(isinstance(one, (Feed, HasFeed)) for one in given):
        return _joined(given)
    if isinstance(given, (list, tuple)) and given and _is_to_be_run(given[0]):
        raise SourceError(
            "a list of sources: merge(one, two) of flowstream.sources makes one of several; "
            "only topics and runs may come in a list"
        )
    if isinstance(given, (list, tuple, range)):
        return InMemory(given)
    if isinstance(given, Feeds):
        raise SourceError(
            f"{type(given).__name__} is not a source of items: pass one of them, {given._one}"
        )
    if hasattr(given, "__iter__"):
        return ThreadedIteration(given)
    if callable(given):
        return _from_function(given)
    raise SourceError(f"a {type(given).__name__} is not a source of items; {_EXPECTED}")


def _is_to_be_run(item: Any) -> bool:
    """Return whether `item` is itself a source, and not an item that a format could write."""
    return (
        isinstance(item, (Source, trio.abc.ReceiveChannel))
        or hasattr(item, "__aiter__")
        or inspect.isfunction(item)
    )


def _joined(given: Sequence[Any]) -> Feed:
    feeds: list[SingleFeed] = []
    for one in given:
        if not isinstance(one, (SingleFeed, HasFeed)):
            raise SourceError(
                f"a list of topics must have only topics in it, not {type(one).__name__}"
            )
        feeds.append(one if isinstance(one, SingleFeed) else one._feed)
    return feeds[0].beside(feeds[1:]) if len(feeds) > 1 else feeds[0]


def resumable(function: Callable[[str | None], SourceLike]) -> Source:
    """Return a source that goes on where a client left off, from the app's own history.

    Args:
        function: called with the last id that the client saw (``Last-Event-ID``, or
            ``?lastEventId=``), or None if the client is new. It returns anything that can be
            streamed, and is usually an async generator function. Its events must have ids.

    Raises:
        SourceError: it is not a function of one argument.
    """
    return resumable_with(as_source, function)


def first_and_next(given: Any) -> tuple[Source, Source | None]:
    """Return a source for the first run of `given`, and one for each later run, or None.

    If `given` is a function that returns a source, it is called now, and again for each run.

    Raises:
        SourceError: `given` is not a source, or a topic.
        Exception: what the function raised.
    """
    if _is_called_for_a_source(given):
        made = given()
        if made is None:
            raise SourceError(
                f"the function {given!r} returned None: it must return a source of items"
            )
        return _one_client(made), _Made(given)
    first = _one_client(given)
    if isinstance(given, Source):
        return first, given if given.repeatable else None
    used_up = hasattr(given, "__anext__") or hasattr(given, "__next__")
    return first, None if used_up else _Made(lambda: given)


class _Made(Source):
    """Makes a new source each time that it runs."""

    repeatable = True

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    async def run(self, out: Outlet) -> None:
        """Make the source and run it."""
        await _one_client(self._make()).run(out)


def _one_client(given: Any) -> Source:
    source = as_source(given)
    if isinstance(source, Feed):
        raise SourceError(
            "a topic or run is not a source for a topic: subscribe in a generator function, "
            "`async with other.subscribe() as events: async for event in events: yield event`"
        )
    return source


def _is_called_for_a_source(given: Any) -> bool:
    """Return whether `given` is a function without arguments that may return a source.

    A generator function or a producer function is not: it is itself a source.
    """
    if isinstance(given, (type, Source, Feed, Feeds, HasFeed)) or not callable(given):
        return False
    if any(hasattr(given, name) for name in ("__aiter__", "__iter__")):
        return False
    called = given if inspect.isroutine(given) else _unwrapped(given)
    if (
        inspect.isasyncgenfunction(called)
        or inspect.isgeneratorfunction(called)
        or inspect.iscoroutinefunction(called)
    ):
        return False
    try:
        return _takes(inspect.signature(given))
    except ValueError:  # a builtin whose signature Python does not know
        return False


def _from_function(function: Callable[..., Any]) -> Source:
    try:
        signature = inspect.signature(function)
    except ValueError:  # a builtin whose signature Python does not know
        raise SourceError(f"{_name(function)} is not a source of items; {_EXPECTED}") from None
    called = function if inspect.isroutine(function) else _unwrapped(function)
    if inspect.isasyncgenfunction(called):
        if _takes(signature):
            return AsyncGeneratorFunction(function)
        raise SourceError(
            f"the async generator function {_name(function)} wants {_wanted(signature)}: call "
            "it and pass the generator, or pass a function without arguments"
        )
    if inspect.isgeneratorfunction(called):
        if _takes(signature):
            return ThreadedIteration(function, call=True)
        raise SourceError(
            f"the generator function {_name(function)} wants {_wanted(signature)}: call it and "
            "pass the generator"
        )
    if inspect.iscoroutinefunction(called):
        if _takes(signature, None):
            return Producer(function)
        raise SourceError(
            f"the async function {_name(function)} wants {_wanted(signature)}; a producer "
            "function takes one by position, the outlet: "
            "`async def produce(out): await out.send(item)`"
        )
    raise SourceError(f"the function {_name(function)} is not a source of items; {_EXPECTED}")


def _unwrapped(function: Callable[..., Any]) -> Any:
    """Return the function behind a partial, or the ``__call__`` of a callable object."""
    while isinstance(function, functools.partial):
        function = function.func
    return function if inspect.isroutine(function) else type(function).__call__


def _takes(signature: inspect.Signature, *arguments: None) -> bool:
    """Return whether a function can be called with exactly these positional arguments."""
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def _wanted(signature: inspect.Signature) -> str:
    wanted = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    return f"{len(wanted)} argument(s)" + (f" ({', '.join(wanted)})" if wanted else "")


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))
