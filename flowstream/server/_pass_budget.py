"""Limit how much of each pass of the event loop goes to the requests of clients.

In one pass Trio runs every task that is ready. Then it looks at timers and sockets again. When
fifty clients send without a pause, each pass takes as long as the work for all fifty, and
everybody else's events wait for its end. One client can do the same: five thousand requests over
HTTP/2 are a few kilobytes, and would start as many applications in one pass.

So the work that a client causes (a read, a request, a message, a TLS handshake) begins in a turn. A
pass spends two milliseconds on turns; later ones wait in a queue for the next passes. A client that
has sent much needs several turns: one for each piece that is read, and one for each further request
in a piece. Work that has begun needs no more turns: responses and streams are never in the queue.
An application starts in the pass after its turn. So a pass takes two milliseconds of turns, and
the first steps of as many applications as the last pass had turns.

There are two queues, so that an occasional request does not wait behind clients that send without a
pause. The second one is for clients that had many turns lately. In each pass it gets the turns that
the first queue leaves, but at least one.

While there is time left, and nobody in the queues, a turn costs one reading of a clock.

A response that is written without a wait lets others run when its pass has no time left (`pause`).
To let them run after each write would double the cost of a write.
"""

from __future__ import annotations

import math
from time import perf_counter

import trio

# Twice as long as a producer may hold the event loop (`flowstream.tasks._pace`). With half of it a
# server that is asked without a pause makes so many more passes that a request costs 5 % more.
_SECONDS = 0.002
# The most turns that the queues get in one pass, if turns turn out to be short.
_MOST = 64
# Turns in a second after which a client goes into the second queue.
_MANY = 20


class PassBudget(trio.abc.Instrument):
    """Gives the clients of one server their turns. Without `run` nobody ever waits for one."""

    def __init__(self) -> None:
        self._few = trio.lowlevel.ParkingLot()
        self._busy = trio.lowlevel.ParkingLot()
        self._wanted = trio.lowlevel.ParkingLot()  # `run` waits here until a queue is in use
        self._since = 0.0  # when this pass began
        self._until = math.inf  # when its time for turns is over
        self._at_once = 1  # how many turns the queues get in the next pass

    @property
    def is_spent(self) -> bool:
        """Whether this pass has no more time for turns."""
        return perf_counter() >= self._until

    async def turn(self, share: Share) -> None:
        """Return at once if this pass has time left; otherwise **wait** for a later pass."""
        now = perf_counter()
        queue = self._busy if share.is_busy(now) else self._few
        if queue or now >= self._until:
            self._wanted.unpark()
            await queue.park()

    async def pause(self) -> None:
        """Let others run if this pass has no time left. **Checkpoint** then, and without `run`."""
        if not perf_counter() < self._until < math.inf:
            await trio.lowlevel.checkpoint()

    async def run(self) -> None:
        """Give turns until cancelled."""
        trio.lowlevel.add_instrument(self)
        try:
            while True:
                await self._wanted.park()
                while self._few or self._busy:  # noqa: ASYNC110  # a pass has no event
                    await trio.lowlevel.checkpoint()  # makes another pass begin at once
        finally:
            trio.lowlevel.remove_instrument(self)
            self._until = math.inf
            self._few.unpark_all()
            self._busy.unpark_all()

    def after_io_wait(self, timeout: float) -> None:
        """Begin a pass: give turns to those who wait in the queues."""
        now = perf_counter()
        if self._few or self._busy:
            was_short = now - self._since < _SECONDS
            self._at_once = min(2 * self._at_once, _MOST) if was_short else self._at_once // 2 or 1
            left = self._at_once - len(self._few)
            self._few.unpark(count=self._at_once)
            self._busy.unpark(count=max(1, left))
        self._since, self._until = now, now + _SECONDS


class Share:
    """Counts the turns that one connection had in about the last second."""

    __slots__ = ("_since", "_turns")

    def __init__(self) -> None:
        self._since = 0.0
        self._turns = 0

    def is_busy(self, now: float) -> bool:
        """Count one turn at time `now` (`perf_counter`); return whether there were many."""
        if now - self._since > 1:
            self._since, self._turns = now, 0
        self._turns += 1
        return self._turns > _MANY
