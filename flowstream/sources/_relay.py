"""Relay: an outlet that passes each item to a function, so that one source can run inside another.

A wrapper slows a source down, batches its items, or keeps them for several clients. It runs the
source with a relay instead of the stream's own outlet, and gets each item.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import trio

from flowstream._live_stream import BufferStatistics
from flowstream.buffer._outlet import Outlet


class Relay(Outlet):
    """Passes each item that a producer sends to ``take``.

    Args:
        take: called with each item, and awaited by the task that sends it. What it raises
            is raised in the producer.
        statistics: called for `statistics`; usually that of the stream's own outlet.
        take_nowait: like `take`, but raises `trio.WouldBlock` instead of waiting. None if that is
            impossible: then it always raises.
        reject: called with the error of an item that could not be made; usually that of the
            stream's own outlet. None raises the error in the producer.
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
        """Pass on one item."""
        await self._take(item)

    def _put(self, item: Any) -> Awaitable[None] | None:
        """Return an awaitable that passes on one item."""
        return self._take(item)

    def send_nowait(self, item: Any) -> None:
        """Pass on one item, or raise `trio.WouldBlock`."""
        self._take_nowait(item)

    def reject(self, error: Exception) -> None:
        """Pass on the error of an item that could not be made."""
        self._reject(error)

    def statistics(self) -> BufferStatistics:
        """Return what the argument `statistics` returns."""
        return self._statistics()


def _would_block(_: Any) -> NoReturn:
    raise trio.WouldBlock
