"""The buffer: the bounded channel between a producer and one client's writer.

A `Queue` holds the items and knows the rules; this module adds the waiting. There are two
doorbells: one wakes the writer when there is something to write, one wakes the producer when there
is room. It is not a Trio memory channel, because that can't count bytes, and can't drop an item
from its middle. Speed is not the reason: for a client that keeps up both cost about the same.
``benchmarks/buffer.py`` measures them, and docs/explanation/buffer.md has the reasons.

A doorbell is rung only while a task waits at it, so the producer of a busy stream never pays for
one. It uses the same parts of Trio as Trio's own locks and channels. A memory channel of one slot
would do the same, but takes 2 KB for each idle stream.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from flowstream._clock import clock
from flowstream._live_stream import BufferStatistics
from flowstream.abc import Policy
from flowstream.buffer._keyed_queue import KeyedQueue
from flowstream.buffer._ordered_queue import OrderedQueue
from flowstream.buffer._queue import Gap, Outcome, Queue
from flowstream.limits import Buffer


class Doorbell:
    """Wakes the one task that waits at it.

    Attributes:
        waiting: the task that waits; None if there is none.
    """

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting: trio.lowlevel.Task | None = None

    def ring(self) -> None:
        """Wake the task that waits; do nothing if none does."""
        task = self.waiting
        if task is not None:
            self.waiting = None
            trio.lowlevel.reschedule(task)

    async def wait(self) -> None:
        """**Wait** until somebody rings. Only one task at a time may wait."""
        self.waiting = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._cancelled)

    def _cancelled(self, _: object) -> trio.lowlevel.Abort:
        self.waiting = None
        return trio.lowlevel.Abort.SUCCEEDED


class EventBuffer:
    """One client's buffer: a queue, a doorbell at each end, and whether it is finished.

    Args:
        bounds, policy: as `Queue` takes them.
        prefix: as `OrderedQueue` takes it.

    Attributes:
        queue: the queue. After you offer to it directly, ring `filled`.
        filled: rings when there is something to take, or nothing more will come.
        room: rings when something was taken.
        finished: whether no more items will be offered.
    """

    __slots__ = ("_bounds", "_warned", "filled", "finished", "prefix", "queue", "room")

    def __init__(self, bounds: Buffer, policy: Policy, prefix: str | None = None) -> None:
        self.queue: Queue = open_queue(bounds, policy, clock.current_time, prefix)
        self.prefix: str | None = prefix
        self.filled: Doorbell = Doorbell()
        self.room: Doorbell = Doorbell()
        self.finished: bool = False
        self._bounds = bounds
        self._warned = False

    def offer(
        self,
        payload: bytes,
        id: str | None = None,
        *,
        essential: bool = False,
        key: object = None,
        bare: bytes | None = None,
    ) -> Outcome:
        """Offer one item (see `Queue.offer`) and wake the writer."""
        outcome = self.queue.offer(payload, id, essential=essential, key=key, bare=bare)
        if self.filled.waiting:
            self.filled.ring()
        return outcome

    def take(self, limit: int) -> list[bytes | Gap]:
        """Take up to `limit` bytes of items (see `Queue.take`) and wake the producer."""
        pieces = self.queue.take(limit)
        if self.room.waiting:
            self.room.ring()
        return pieces

    def warning(self) -> tuple[int, int] | None:
        """Return (queued, limit) in items if the buffer has just passed its warning mark.

        The writer calls this before it takes. It warns again only after the buffer was half empty.
        """
        mark = self._bounds.warn_at
        if mark is None:
            return None
        level = self.queue.level
        if self._warned:
            self._warned = level > min(mark, 0.5)
            return None
        if level <= mark:
            return None
        self._warned = True
        return self.queue.items, self._bounds.items

    def finish(self) -> None:
        """Note that no more items will come. Queued items may still be taken."""
        self.finished = True
        self.filled.ring()
        self.room.ring()

    def abandon(self) -> None:
        """Drop the queued items and finish: nobody will take them."""
        self.queue.clear()
        self.finish()

    def statistics(self) -> BufferStatistics:
        """Return how full the buffer is, and how many items were offered, dropped and so on."""
        queue = self.queue
        return BufferStatistics(
            items=queue.items,
            bytes=queue.bytes,
            max_items=self._bounds.items,
            max_bytes=self._bounds.bytes,
            offered=queue.offered,
            dropped=queue.dropped,
            gaps=queue.gaps,
        )


def open_queue(
    bounds: Buffer, policy: Policy, clock: Callable[[], float], prefix: str | None = None
) -> Queue:
    """Return the queue that `policy` needs. Takes the arguments of `OrderedQueue`."""
    if policy.keyed:
        return KeyedQueue(bounds, policy, clock)
    return OrderedQueue(bounds, policy, clock, prefix)
