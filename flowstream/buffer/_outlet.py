"""The outlet: where a producer puts its items.

The items go to the buffer of one client, to a wrapper around the producer, or to the history that
the clients of a run read. A producer need not know which.
"""

from __future__ import annotations

import abc
from collections.abc import AsyncIterator, Awaitable
from typing import Any

from flowstream._live_stream import BufferStatistics


class Outlet(abc.ABC):
    """Where a producer function puts its items: ``await out.send(item)``.

    Any number of tasks may send. Items are never mixed, and those of one task stay in order.
    """

    __slots__ = ()

    @abc.abstractmethod
    async def send(self, item: Any) -> None:
        """Put one item into the stream.

        **Waits** while the buffer is full, if the policy makes the producer wait. Otherwise it
        returns at once, but lets other tasks run every 64 items or every millisecond.
        **Ends** by being cancelled, when the client has left or the stream is over.

        Args:
            item: a plain value or an `Event`.

        Raises:
            EncodingError: the item cannot be written in the stream's format.
            trio.BrokenResourceError: the stream is over, and this task was not cancelled
                with it.
        """

    def _put(self, item: Any) -> Awaitable[None] | None:
        """Put one item into the stream: `send`, for loops that run a million times a second.

        Returns:
            None if there is nothing to wait for, which is usual. Otherwise an awaitable: await it
            at once, before the next item. A call costs half of what awaiting `send` costs.

        Raises:
            EncodingError: as for `send`. What else `send` raises is raised on awaiting.
        """
        return self.send(item)

    async def send_each(self, items: AsyncIterator[Any]) -> None:
        """Send every item: `send` in a loop, for the iteration of a source.

        Raises:
            EncodingError, trio.BrokenResourceError: as for `send`.
        """
        async for item in items:
            await self.send(item)

    @abc.abstractmethod
    def send_nowait(self, item: Any) -> None:
        """Put one item into the stream, or raise at once if `send` would wait.

        For callbacks, which cannot wait. A task that uses this in a loop must itself let other
        tasks run.

        Raises:
            EncodingError: the item cannot be written in the stream's format.
            trio.WouldBlock: the buffer is full and its policy makes producers wait;
                nothing was put.
            trio.BrokenResourceError: the stream is over.
        """

    def reject(self, error: Exception) -> None:
        """Say that one item could not be made, for example because a message can't be read.

        A stream of one client fails with `error`. In `Topic.publish_from` the error is counted
        and logged, and this returns, so that the producer goes on with the next item.

        Raises:
            Exception: `error`, if one bad item ends the stream.
        """
        raise error

    @abc.abstractmethod
    def statistics(self) -> BufferStatistics:
        """Return how full the client's buffer is, and what became of the items that were sent."""
