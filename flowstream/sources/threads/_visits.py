"""Visits: use something that blocks in worker threads, one call after another.

A database driver blocks, so it is called in a thread. Between two calls no thread is held. A
call can take as long as a query computes, and the client may leave meanwhile. So a call can be
interrupted, from another thread. When no more calls are wanted, the last user closes the driver's
object: the thread that is in it, as it leaves, or else a new one. That holds even if the thread
comes back hours after everybody else has left.

One lock keeps two rules of the drivers. An interruption must hit a running call; otherwise it hits
a later one, perhaps one of the app's own. And a call must not end while it is being interrupted;
otherwise the interruption hits the closing.

This uses `trio.lowlevel.start_thread_soon` and not `trio.to_thread`, because the waiting task looks
at the rows while the thread is away. With `to_thread` that would take a second task, a nursery, and
a scope between the two cancellations of `_shielding.py`.
"""

from __future__ import annotations

import abc
import contextlib
import contextvars
import logging
import math
import threading
from collections.abc import Callable
from typing import Any

import outcome
import trio

from flowstream._clock import clock
from flowstream.sources.threads._pools import Seat, pools
from flowstream.tasks._timers import start_timer

logger = logging.getLogger("flowstream")

# An interruption that comes an instant too early does nothing, so it is made again.
_AGAIN = 0.05
# Seconds that a thread may take to leave: less than a stream's cleanup may take.
_PATIENCE = 3.0


class Visited(abc.ABC):
    """Something that is used in threads. It knows how to be interrupted and closed."""

    @abc.abstractmethod
    def interrupt(self, attempt: int) -> None:
        """Make the running call fail soon.

        Called in a thread while another one runs the call, and again until that one has left.

        Args:
            attempt: 1 for the first time, some 50 ms apart.
        """

    @abc.abstractmethod
    def close(self, *, complete: bool) -> None:
        """Release everything. Called once, in a thread, when no other thread uses it.

        Args:
            complete: whether it was used to its end, with success.
        """


class Visit:
    """One call in a thread, as the task that waits for it sees it."""

    __slots__ = ("_back", "_result", "_ripe")

    def __init__(self) -> None:
        self._back = trio.Event()
        self._ripe = trio.Event()
        self._result: outcome.Outcome[Any] | None = None

    def is_back(self) -> bool:
        """Whether the thread has returned."""
        return self._back.is_set()

    async def wait(self) -> None:
        """Wait until the thread has returned."""
        await self._back.wait()

    async def wait_for(self, seconds: float) -> bool:
        """Wait until the thread has returned, or the time is up; return whether it has returned.

        It uses no cancel scope, whose end could hide the stream's cancellation (`_shielding.py`).
        """
        timer = start_timer(clock.current_time() + seconds, self._ripen)
        try:
            await self._ripe.wait()
        finally:
            timer.stop()
        return self.is_back()

    def result(self) -> Any:
        """Return what the call returned, or raise what it raised. The thread must be back."""
        assert self._result is not None
        return self._result.unwrap()

    def arrive(self, result: outcome.Outcome[Any]) -> None:
        """Note that the thread has returned."""
        self._result = result
        self._back.set()
        self._ripe.set()

    def _ripen(self, _: float) -> float:
        self._ripe.set()
        return math.inf


class Visits:
    """All calls of one stream. Made and used in its task, except for `close`.

    Args:
        visited: the object to use.
    """

    def __init__(self, visited: Visited) -> None:
        self._visited = visited
        self._pool = pools().cursors
        self._seat: Seat | None = None  # of the last visit
        # One for all calls: contextvars that are set in one are seen in the next.
        self._context = contextvars.copy_context()
        self._token = trio.lowlevel.current_trio_token()
        self._visit: Visit | None = None
        self._lock = threading.Lock()
        self._inside = False
        self._over = False
        self._closed = False

    async def start(self, call: Callable[[], Any]) -> Visit:
        """Begin to run `call` in a thread. **Waits** while there are too many threads."""
        visit, seat = Visit(), Seat(self._pool)
        await seat.acquire()
        try:
            trio.lowlevel.start_thread_soon(
                lambda: self._context.run(self._enter, call),
                lambda result: self._come_back(visit, seat, result),
                "flowstream cursor",
            )
        except BaseException:
            seat.release()
            raise
        self._visit, self._seat = visit, seat
        return visit

    async def run(self, call: Callable[[], Any]) -> Any:
        """Run `call` in a thread and return what it returns."""
        visit = await self.start(call)
        await visit.wait()
        return visit.result()

    def close(self, *, complete: bool) -> None:
        """Close the object, in the thread of a call that knows that it was the last one."""
        with self._lock:
            self._inside = False
            closed, self._closed = self._closed, True
        if not closed:
            self._visited.close(complete=complete)

    async def end(self) -> None:
        """Interrupt the running call, and close the object. Call it in a ``finally``.

        It shields itself for a few seconds if no stream does, because another source runs this one
        and cancels it.
        """
        with self._lock:
            self._over = True
        visit = self._visit
        if visit is None or (visit.is_back() and self._closed):
            return
        assert self._seat is not None
        self._seat.leave()
        cancelled = trio.current_effective_deadline() == -math.inf
        with trio.move_on_after(_PATIENCE, shield=cancelled):
            if not visit.is_back():
                await self._interrupt(visit)
            if not self._closed:
                await _in_some_thread(self._context.copy().run, self._close_quietly)
        if not visit.is_back():
            logger.warning(
                "a database did not let go of a thread within %s s of being told to; the thread "
                "closes what it has when it comes back",
                _PATIENCE,
            )

    async def _interrupt(self, visit: Visit) -> None:
        attempt = 1
        while not visit.is_back():
            await _in_some_thread(self._interrupt_once, attempt)
            with trio.move_on_after(_AGAIN):
                await visit.wait()
            attempt += 1

    # -- in threads ------------------------------------------------------------------------

    def _enter(self, call: Callable[[], Any]) -> Any:
        if self._goes(inside=True):  # before this thread got to run
            return None
        try:
            return call()
        except BaseException:
            self._close_quietly()
            raise
        finally:
            if self._goes(inside=False):
                self._close_quietly()

    def _goes(self, *, inside: bool) -> bool:
        """Note whether a thread is inside; return whether no more calls are wanted."""
        with self._lock:
            self._inside = inside and not self._over
            return self._over

    def _interrupt_once(self, attempt: int) -> None:
        with self._lock:
            if self._inside:
                self._visited.interrupt(attempt)

    def _close_quietly(self) -> None:
        try:
            self.close(complete=False)
        except Exception:
            logger.warning("a cursor could not be closed", exc_info=True)

    def _come_back(self, visit: Visit, seat: Seat, result: outcome.Outcome[Any]) -> None:
        # The Trio run may have ended while the thread was away.
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._arrive, visit, seat, result)

    def _arrive(self, visit: Visit, seat: Seat, result: outcome.Outcome[Any]) -> None:
        seat.release()
        visit.arrive(result)


async def _in_some_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    # In another pool than the threads that wait for databases: it is brief, and frees one of them.
    return await trio.to_thread.run_sync(
        function, *arguments, limiter=trio.CapacityLimiter(1), abandon_on_cancel=True
    )
