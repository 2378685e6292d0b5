"""How much of a pass of the event loop may go to the requests of clients.

Trio runs every task that is ready, and then looks at the timers and the sockets again. When fifty
clients send without a pause, each of such passes takes as long as the work for all fifty, and the
events of everybody else wait for its end. One client can do the same: five thousand requests over
HTTP/2 are a few kilobytes a connection, and begun as they come they are as many applications in one
pass.

So the work that a client can cause (a read, a request, a message, a TLS handshake) begins in a
turn: as many turns as fit into a millisecond are in one pass, and who comes later is in a queue for
the next ones. To have read much is no reason to go on: each piece of it is a turn, and so is each
further request in a piece. What was begun goes on without one: responses and streams are never in
this queue. An application begins in the pass behind its turn, so a pass takes a millisecond of
turns, and the first steps of as many applications as the pass before had turns.

There are two queues, so that a request now and then does not wait behind those who send without a
pause: one for clients who have had many turns lately, which gets one in each pass and what the
other leaves.

While there is time left, and nobody in the queue, a turn costs one look at a clock.
"""

from __future__ import annotations

import math
from time import perf_counter

import trio

# As long as a producer may hold the loop (`flowstream.tasks._pace`).
_SECONDS = 0.001
# Turns that the queues get in one pass, at the most: short ones, as it turned out.
_MOST = 64
# Turns in a second that make a client a busy one.
_MANY = 20


class PassBudget(trio.abc.Instrument):
    """The turns of one server. They are unlimited while `run` does not run."""

    def __init__(self) -> None:
        self._few = trio.lowlevel.ParkingLot()
        self._busy = trio.lowlevel.ParkingLot()
        self._wanted = trio.lowlevel.ParkingLot()  # where `run` waits for a queue
        self._since = 0.0  # when this pass has begun
        self._until = math.inf  # when its time is spent
        self._at_once = 1  # turns that the queues get in the next pass

    @property
    def is_spent(self) -> bool:
        """Whether the time of this pass is spent."""
        return perf_counter() >= self._until

    async def turn(self, share: Share) -> None:
        """Return in this pass if there is time left, else **wait**; no checkpoint otherwise."""
        now = perf_counter()
        queue = self._busy if share.is_busy(now) else self._few
        if queue or now >= self._until:
            self._wanted.unpark()
            await queue.park()

    async def run(self) -> None:
        """Give turns until cancelled."""
        trio.lowlevel.add_instrument(self)
        try:
            while True:
                await self._wanted.park()
                while self._few or self._busy:  # noqa: ASYNC110  # there is no event for a pass
                    await trio.lowlevel.checkpoint()  # another pass, at once
        finally:
            trio.lowlevel.remove_instrument(self)
            self._until = math.inf
            self._few.unpark_all()
            self._busy.unpark_all()

    def after_io_wait(self, timeout: float) -> None:
        """Begin a pass."""
        now = perf_counter()
        if self._few or self._busy:
            was_short = now - self._since < _SECONDS
            self._at_once = min(2 * self._at_once, _MOST) if was_short else self._at_once // 2 or 1
            left = self._at_once - len(self._few)
            self._few.unpark(count=self._at_once)
            self._busy.unpark(count=max(1, left))
        self._since, self._until = now, now + _SECONDS


class Share:
    """How many turns one connection has had in the last second, more or less."""

    __slots__ = ("_since", "_turns")

    def __init__(self) -> None:
        self._since = 0.0
        self._turns = 0

    def is_busy(self, now: float) -> bool:
        """Count one turn, by `perf_counter`; return whether there were many."""
        if now - self._since > 1:
            self._since, self._turns = now, 0
        self._turns += 1
        return self._turns > _MANY
