"""Sources that are iterated in the event loop: async iterables and generators.

The generator runs in one task from its first step to its close, so cancel scopes and
nurseries that it opens and closes between two items are safe in it. (One held open across
a ``yield`` is not safe in any async generator; a producer function is the place for that.)
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable
from typing import Any

from flowstream.buffer._outlet import Outlet
from flowstream.sources._source import Source


class AsyncIteration(Source):
    """An async iterable; an async generator is closed when it is over."""

    def __init__(self, iterable: AsyncIterable[Any]) -> None:
        self._iterable = iterable

    async def run(self, out: Outlet) -> None:
        """Send each item; then ``aclose()`` the iterator, if it has one."""
        iterator = aiter(self._iterable)
        try:
            await out.send_each(iterator)
        finally:
            await _close(iterator)  # noqa: ASYNC102  # see _shielding.py

    async def discard(self) -> None:
        """``aclose()`` what was handed over, which has not run a line yet."""
        await _close(self._iterable)


class AsyncGeneratorFunction(Source):
    """An async generator function of no arguments: nothing exists until the stream runs."""

    def __init__(self, function: Callable[[], AsyncIterable[Any]]) -> None:
        self._function = function

    async def run(self, out: Outlet) -> None:
        """Make the generator and send each of its items."""
        await AsyncIteration(self._function()).run(out)


class InMemory(Source):
    """A list, tuple or range: already here, so no thread is needed to fetch from it."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = items

    async def run(self, out: Outlet) -> None:
        """Send each item."""
        for item in self._items:
            await out.send(item)


async def _close(iterator: Any) -> None:
    # By the method and not by the type: generators wrapped by tracing or by the app's own
    # classes have it too (PEP 525 defines it for generators only).
    aclose = getattr(iterator, "aclose", None)
    if aclose is not None:
        await aclose()
