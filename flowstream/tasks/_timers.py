"""Timers: one task that looks at everything that has a deadline.

Each stream must be checked now and then: is a heartbeat due, does the client still read? A task for
each stream would cost some 2 KB for each idle stream. So one system task checks all of them. It
starts with the first timer and ends with the last.
"""

from __future__ import annotations

import heapq
import logging
import math
from collections.abc import Callable
from itertools import count

import trio

from flowstream._clock import clock
from flowstream.tasks._failure import passes

logger = logging.getLogger("flowstream")

Look = Callable[[float], float]

# After this many looks other tasks run, because each look may end a stream.
_BURST = 64


class Timer:
    """One thing that is looked at again and again. `start_timer` makes it."""

    __slots__ = ("_timers", "look")

    def __init__(self, timers: _Timers, look: Look) -> None:
        self._timers = timers
        self.look: Look | None = look

    def stop(self) -> None:
        """Look at it no more. Does nothing if it is called again."""
        if self.look is not None:
            self.look = None  # the entry stays until it is due, but holds nothing
            self._timers.stopped += 1
            self._timers.tidy()


def start_timer(at: float, look: Look) -> Timer:
    """Call `look(now)` at time `at`, and then at each time that it returns.

    `look` must not wait. It is not called again after it returned infinity, or raised; what it
    raised is logged. Call this in a Trio run. The timer ends with that run.
    """
    timers = _of_this_run.get()
    if timers is None:
        timers = _Timers()
        _of_this_run.set(timers)
    return timers.start(at, look)


class _Timers:
    """The timers of one Trio run."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._number = count()
        self._scope: trio.CancelScope | None = None  # around the task's sleep
        self._running = False
        self.stopped = 0

    def start(self, at: float, look: Look) -> Timer:
        """Add a timer."""
        timer = Timer(self, look)
        self._push(at, timer)
        if not self._running:
            self._running = True
            trio.lowlevel.spawn_system_task(self._run, name="flowstream timers")
        elif self._scope is not None and at < self._scope.deadline:
            self._scope.deadline = at
        return timer

    def tidy(self) -> None:
        """Drop stopped timers once most are stopped. End the task with the last timer."""
        most = self.stopped > 64 and self.stopped * 2 > len(self._heap)
        if most or self.stopped >= len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].look is not None]
            heapq.heapify(self._heap)
            self.stopped = 0
            if not self._heap and self._scope is not None:
                self._scope.cancel()

    def _push(self, at: float, timer: Timer) -> None:
        heapq.heappush(self._heap, (at, next(self._number), timer))

    async def _run(self) -> None:
        try:
            while self._heap:
                with trio.CancelScope(deadline=self._heap[0][0]) as self._scope:
                    await trio.sleep_forever()
                self._scope = None
                await self._look_at_what_is_due()
        finally:
            self._running = False
            self._scope = None

    async def _look_at_what_is_due(self) -> None:
        looks = 0
        while self._heap and self._heap[0][0] <= (now := clock.current_time()):
            timer = heapq.heappop(self._heap)[2]
            look = timer.look
            if look is None:
                self.stopped = max(0, self.stopped - 1)
                continue
            try:
                again = look(now)
            except BaseException as error:  # noqa: ASYNC103  # see `passes`
                if passes(error):
                    raise
                logger.exception("a timer failed")
                again = math.inf
            if again < math.inf:
                self._push(again, timer)  # also if it stopped itself, because `stopped` counts it
            else:
                timer.look = None
            looks += 1
            if looks % _BURST == 0:
                await trio.lowlevel.checkpoint()


_of_this_run: trio.lowlevel.RunVar[_Timers | None] = trio.lowlevel.RunVar("flowstream timers", None)
