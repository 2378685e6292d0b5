"""Relay: an outlet that hands each item to a function, so that one source can be run in another.

A wrapper around a source (to slow it down, to batch it, to keep its items for several clients) runs
the source with a relay instead of the stream's own outlet, and gets each item.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import trio

from flowstream._live_stream import BufferStatistics
from flowstream.buffer._outlet import Outlet


class Relay(Outlet):
    """Hands each item that a producer sends to ``take``.

    Args:
        take: called with each item, and awaited by the task that sends it. What it raises
            is raised in the producer.
        statistics: what `statistics` returns: that of the outlet behind, most often.
        take_nowait: the same without waiting; raises `trio.WouldBlock` where it would. None
            if that can't be.
        reject: told of an item that could not be made: `reject` of the outlet behind. None
            if it is raised in the producer.
    """

    __slots__ = ("_reject", "_statistics", "_take", "_take_nowait")

    def __init__(
        self,
        take: Callable[[Any], Awaitable[None]],
        statistics: Callable[[], BufferStatistics],
        take_nowait: Callable[[Any], None] | None = None,
        reject: Callable[[Exception], None] | None = None,
    ) -> None:
        self._take = take
        self._statistics = statistics
        self._take_nowait = _would_block if take_nowait is None else take_nowait
        self._reject = super().reject if reject is None else reject

    async def send(self, item: Any) -> None:
        """Hand on one item."""
        await self._take(item)

    def _put(self, item: Any) -> Awaitable[None] | None:
        """Return what hands on one item when it is awaited."""
        return self._take(item)

    def send_nowait(self, item: Any) -> None:
        """Hand on one item, or raise `trio.WouldBlock`."""
        self._take_nowait(item)

    def reject(self, error: Exception) -> None:
        """Tell the outlet behind of an item that could not be made."""
        self._reject(error)

    def statistics(self) -> BufferStatistics:
        """Return that of the outlet behind."""
        return self._statistics()


def _would_block(_: Any) -> NoReturn:
    raise trio.WouldBlock
