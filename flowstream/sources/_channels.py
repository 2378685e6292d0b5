"""Trio receive channels: what another task of the app sends is streamed.

The stream owns the channel from the moment it runs: it is closed with the stream, so the
app's senders get `trio.BrokenResourceError` when the client has gone.
"""

from __future__ import annotations

from typing import Any

import trio

from flowstream.buffer._outlet import Outlet
from flowstream.sources._source import Source


class Channel(Source):
    """A Trio receive channel; the stream is complete when every sender has closed it."""

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
        """Close the channel, so that its senders learn that nobody listens."""
        await self._channel.aclose()


async def _drain(channel: trio.MemoryReceiveChannel[Any], out: Outlet) -> None:
    """Take all that is there after each wait: a wait costs 20 times a `receive_nowait`."""
    async for item in channel:
        await out.send(item)
        while True:
            try:
                item = channel.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                break
            await out.send(item)
