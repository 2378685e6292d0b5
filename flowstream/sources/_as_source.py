"""What an app may pass to `stream()` and the others, and which source it becomes.

Who runs a source again after it has failed asks for `first_and_next`. A generator is used up when
it has failed, and so is a channel. The function that makes one is not, nor is a list, or an
object that can be iterated again.
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
from flowstream.sources._feed import Feed, Feeds, HasFeed
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
"""What is run anew after each failure: a source that can be, or a function that makes one."""

_EXPECTED = (
    "expected an async iterable, an async generator function of no arguments, a producer "
    "function `async def produce(out)`, a sync iterable or a Trio receive channel"
)


def as_source(given: Any) -> Source | Feed:
    """Return the source that `given` is, without starting it.

    Raises:
        SourceError: if it is none. A `str`, bytes or mapping is refused although Python
            can iterate it: character by character or key by key is never what was meant.
    """
    if type(given) is AsyncGeneratorType:  # the usual one: the classes below are slow to ask
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
            f"the class {given.__qualname__} is no source of items: hand over an instance; "
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
            "a coroutine is no source: hand over the producer function itself, uncalled, "
            f"and it will be called with the stream's outlet; {_EXPECTED}"
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
            f"{type(given).__name__} is no source of items: hand over one of them, {given._one}"
        )
    if hasattr(given, "__iter__"):
        return ThreadedIteration(given)
    if callable(given):
        return _from_function(given)
    raise SourceError(f"a {type(given).__name__} is no source of items; {_EXPECTED}")


def _is_to_be_run(item: Any) -> bool:
    """Return whether `item` is a source itself, and nothing that a format could write."""
    return (
        isinstance(item, (Source, trio.abc.ReceiveChannel))
        or hasattr(item, "__aiter__")
        or inspect.isfunction(item)
    )


def _joined(given: Sequence[Any]) -> Feed:
    feeds: list[Feed] = []
    for one in given:
        if not isinstance(one, (Feed, HasFeed)):
            raise SourceError(
                f"a list of topics must have only topics in it, not {type(one).__name__}"
            )
        feeds.append(one if isinstance(one, Feed) else one._feed)
    return feeds[0].beside(feeds[1:]) if len(feeds) > 1 else feeds[0]


def resumable(function: Callable[[str | None], SourceLike]) -> Source:
    """Return a source that goes on where a client left off, from the app's own history.

    Args:
        function: called with the id that the client saw last (``Last-Event-ID``, or
            ``?lastEventId=``), or None if it is new. Returns what a source can be made of,
            most often as an async generator function: its events must have ids.

    Raises:
        SourceError: it is no function of one argument.
    """
    return resumable_with(as_source, function)


def first_and_next(given: Any) -> tuple[Source, Source | None]:
    """Return the source that `given` is, and one to be run each time after it; None if none can.

    A function that returns a source is called, at once and then for each run.

    Raises:
        SourceError: `given` is no source, or a topic.
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
    """A source that is made when it is run, each time."""

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
            "a topic or run is no source for a topic: subscribe in a generator function, "
            "`async with other.subscribe() as events: async for event in events: yield event`"
        )
    return source


def _is_called_for_a_source(given: Any) -> bool:
    """Return whether `given` is a function of no arguments that returns a source, perhaps.

    No generator function is meant, nor a producer function: these are sources themselves.
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
        raise SourceError(f"{_name(function)} is no source of items; {_EXPECTED}") from None
    called = function if inspect.isroutine(function) else _unwrapped(function)
    if inspect.isasyncgenfunction(called):
        if _takes(signature):
            return AsyncGeneratorFunction(function)
        raise SourceError(
            f"the async generator function {_name(function)} wants {_wanted(signature)}: call "
            "it and hand over the generator, or hand over one of no arguments"
        )
    if inspect.isgeneratorfunction(called):
        if _takes(signature):
            return ThreadedIteration(function, call=True)
        raise SourceError(
            f"the generator function {_name(function)} wants {_wanted(signature)}: call it and "
            "hand over the generator"
        )
    if inspect.iscoroutinefunction(called):
        if _takes(signature, None):
            return Producer(function)
        raise SourceError(
            f"the async function {_name(function)} wants {_wanted(signature)}; a producer "
            "function takes one by position, the outlet: "
            "`async def produce(out): await out.send(item)`"
        )
    raise SourceError(f"the function {_name(function)} is no source of items; {_EXPECTED}")


def _unwrapped(function: Callable[..., Any]) -> Any:
    """Return the function behind a partial, or the ``__call__`` of a callable object."""
    while isinstance(function, functools.partial):
        function = function.func
    return function if inspect.isroutine(function) else type(function).__call__


def _takes(signature: inspect.Signature, *arguments: None) -> bool:
    """Return whether it can be called with that many arguments by position, and no more."""
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
