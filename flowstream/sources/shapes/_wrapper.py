"""Wrapper: a source that runs another one, and slows down, groups, times or counts its items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flowstream._errors import SourceError
from flowstream.buffer._outlet import Outlet
from flowstream.sources._as_source import as_source
from flowstream.sources._feed import Feed
from flowstream.sources._resumable import Resumable
from flowstream.sources._source import Source


class Wrapper(Source):
    """A source that runs another one.

    Args:
        inner: the source that it runs.
        alike: whether it sends the same items as the inner source, so that the response has the
            same status, headers and length.
    """

    def __init__(self, inner: Source, *, alike: bool) -> None:
        self._inner = inner
        self.typed = inner.typed
        if alike:
            self.status = inner.status
            self.headers = inner.headers
            self.length = inner.length

    async def discard(self) -> None:
        """Release what the inner source holds."""
        await self._inner.discard()


class _ResumableWrapper(Resumable):
    """A wrapper around a resumable source. It is resumable, too."""

    def __init__(self, inner: Resumable, wrapper: Callable[[Source], Source]) -> None:
        self._inner = inner
        self._wrapper = wrapper
        wrapped = wrapper(inner)
        self.status, self.headers, self.length = wrapped.status, wrapped.headers, wrapped.length
        self.typed = wrapped.typed

    def resumed(self, after: str | None) -> Source:
        """Return the source for one client, wrapped."""
        return self._wrapper(self._inner.resumed(after))

    async def run(self, out: Outlet) -> None:
        """Run it for a new client."""
        await self._wrapper(self._inner).run(out)

    async def discard(self) -> None:
        """Release what the inner source holds."""
        await self._inner.discard()


def wrap(given: Any, name: str, wrapper: Callable[[Source], Source]) -> Source:
    """Return a source for `given`, wrapped by `wrapper`.

    If the source is resumable, the result is, too.

    Args:
        given: what an app passed.
        name: the name of the function that it was passed to.
        wrapper: makes the wrapping source.

    Raises:
        SourceError: `given` is not a source, or its clients share it.
    """
    inner = as_source(given)
    if isinstance(inner, Feed):
        raise shared(name)
    if isinstance(inner, Resumable):
        return _ResumableWrapper(inner, wrapper)
    return wrapper(inner)


def shared(name: str) -> SourceError:
    """Return the error for a topic or run that was passed to the wrapper `name`."""
    return SourceError(
        f"{name}() shapes a source of one client, and a topic or run is shared by many: shape "
        "what publishes to it, or subscribe, `async with topic.subscribe() as events:`, and "
        "shape the subscription"
    )
