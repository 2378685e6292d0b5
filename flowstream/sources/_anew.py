"""What makes a source anew, for who runs it again after it has failed.

A generator is used up when it has failed, and so is a channel. The function that makes one
is not, nor is a list, or an object that can be iterated again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from flowstream._errors import SourceError
from flowstream.buffer._outlet import Outlet
from flowstream.sources._as_source import as_source, is_called_for_a_source
from flowstream.sources._feed import Feed
from flowstream.sources._source import Source
from flowstream.sources._source_like import SourceLike

SourceMaker: TypeAlias = SourceLike | Callable[[], SourceLike]


def first_and_next(given: Any) -> tuple[Source, Source | None]:
    """Return the source that `given` is, and one to be run each time after it; None if none can.

    A function that returns a source is called, at once and then for each run.

    Raises:
        SourceError: `given` is no source, or a topic.
        Exception: what the function raised.
    """
    if is_called_for_a_source(given):
        made = given()
        if made is None:
            raise SourceError(
                f"the function {given!r} returned None: it must return a source of items"
            )
        return _source(made), _Made(given)
    first = _source(given)
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
        await _source(self._make()).run(out)


def _source(given: Any) -> Source:
    source = as_source(given)
    if isinstance(source, Feed):
        raise SourceError(
            "a topic or run is no source for a topic: subscribe in a generator function, "
            "`async with other.subscribe() as events: async for event in events: yield event`"
        )
    return source
