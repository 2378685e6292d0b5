"""Sources that run in the event loop: async iterables, producer functions, channels, lists.

An async generator runs in one task from its first step to its close. So it may open and close
cancel scopes and nurseries between two items. In no async generator may one stay open across a
``yield``: use a producer function for that, and for several tasks that send.

A stream owns its receive channel from the moment it runs, and closes it at its end. So the app's
senders get `trio.BrokenResourceError` when the client has left.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import Any

import trio

from flowstream.buffer._outlet import Outlet
from flowstream.sources._source import Source


class AsyncIteration(Source):
    """An async iterable. An async generator is closed at the end."""

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
        """``aclose()`` the iterable, which has not run a line yet."""
        await _close(self._iterable)


class AsyncGeneratorFunction(Source):
    """An async generator function without arguments. It is called when the stream runs."""

    def __init__(self, function: Callable[[], AsyncIterable[Any]]) -> None:
        self._function = function

    async def run(self, out: Outlet) -> None:
        """Make the generator and send each of its items."""
        await AsyncIteration(self._function()).run(out)


class Producer(Source):
    """A producer function."""

    def __init__(self, function: Callable[[Outlet], Awaitable[None]]) -> None:
        self._function = function

    async def run(self, out: Outlet) -> None:
        """Call the function; the stream is complete when it returns."""
        await self._function(out)


class Channel(Source):
    """A Trio receive channel. The stream is complete when every sender has closed it."""

    def __init__(self, channel: trio.abc.ReceiveChannel[Any]) -> None:
        self._channel = channel

    async def run(self, out: Outlet) -> None:
        """Send each item that is received."""
        async with self._channel as channel:
            if isinstance(channel, trio.MemoryReceiveChannel):
                await _drain(channel, out)
            else:
                async for item in channel:
                    await out.send(item)

    async def discard(self) -> None:
        """Close the channel, so that its senders learn that nobody receives."""
        await self._channel.aclose()


class InMemory(Source):
    """A list, tuple or range. Reading it never blocks, so it needs no thread."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = items

    async def run(self, out: Outlet) -> None:
        """Send each item."""
        for item in self._items:
            await out.send(item)


async def _close(iterator: Any) -> None:
    # Look for the method, not the type: generators that tracing or the app has wrapped have it, too
    # (PEP 525 defines it for generators only).
    aclose = getattr(iterator, "aclose", None)
    if aclose is not None:
        await aclose()


async def _drain(channel: trio.MemoryReceiveChannel[Any], out: Outlet) -> None:
    """Take all items that are there after each wait: it costs 20 times a `receive_nowait`."""
    async for item in channel:
        await out.send(item)
        while True:
            try:
                item = channel.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                break
            await out.send(item)
