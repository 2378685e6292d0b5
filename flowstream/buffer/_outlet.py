"""The outlet: where a producer puts its items, whatever becomes of them there.

For the producer of a stream it is one client's buffer, for one inside a wrapper it is the
wrapper, for a run it is what the run's clients read. A producer can't tell, and need not.
"""

from __future__ import annotations

import abc
from collections.abc import AsyncIterator, Awaitable
from typing import Any

from flowstream.buffer._event_buffer import BufferStatistics


class Outlet(abc.ABC):
    """Where a producer function puts its items: ``await out.send(item)``.

    Any number of tasks may send; each item is whole, and items of one task stay in order.
    """

    __slots__ = ()

    @abc.abstractmethod
    async def send(self, item: Any) -> None:
        """Put one item into the stream.

        **Waits** while the buffer is full and its policy makes the producer wait; else it
        returns without waiting, but lets other tasks run once in 64 items or 1 ms.
        **Ends** by being cancelled when the client is gone or the stream is over.

        Args:
            item: a plain value or an `Event`.

        Raises:
            EncodingError: the item cannot be written in the stream's format.
            trio.BrokenResourceError: the stream is over, and this task is not one that
                was cancelled with it.
        """

    def put(self, item: Any) -> Awaitable[None] | None:
        """Put one item into the stream: `send`, for loops that run a million times a second.

        Returns:
            None if there is nothing to wait for, as is usual; else what must be awaited, at
            once and before the next item. A call costs half of what awaiting `send` costs.

        Raises:
            EncodingError: as for `send`; whatever else that raises is raised on awaiting.
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
        """Put one item into the stream, or raise at once where `send` would wait.

        For callbacks, which cannot wait. A task that uses this in a loop must let others
        run by itself.

        Raises:
            EncodingError: the item cannot be written in the stream's format.
            trio.WouldBlock: the buffer is full and its policy makes producers wait;
                nothing was put.
            trio.BrokenResourceError: the stream is over.
        """

    def reject(self, error: Exception) -> None:
        """Say that one item could not be made, as when a message can't be read.

        A stream fails with it. In `Topic.publish_from` it is counted and logged, and this
        returns: the producer goes on with the next item.

        Raises:
            Exception: `error`, where one bad item is the end.
        """
        raise error

    @abc.abstractmethod
    def statistics(self) -> BufferStatistics:
        """Return how full the client's buffer is and what became of what was sent."""
