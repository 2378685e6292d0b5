"""Pools of worker threads: one for each kind of work, so that one kind can't stop another.

Work in a thread can't be interrupted. A generator that blocks holds its thread until it returns,
even if its client left long ago. With one pool for everything, forty such clients would stop every
download. So work that takes as long as an app's code likes is kept apart from short work:

=============  ======================================================================
pool           what its threads do
=============  ======================================================================
``iterables``  get the next items of an app's sync iterables and generators
``closing``    close them, when no thread is inside any more
``files``      read files, and look whether one that is followed has grown
``cursors``    wait for databases
``processes``  start programs
=============  ======================================================================

None of them takes a token of Trio's default limiter: that is left to the app.

A thread whose stream has ended counts until it returns, since it still exists: it has a stack,
and it holds whatever the app's code holds. While all threads of a pool are busy, a stream waits
for one. Only its source waits: the stream's head and heartbeats are sent meanwhile, and
cancellation ends the wait.

A wait of a few milliseconds is ordinary. One of a second is logged, at most once a minute, and so
is its end. (Turned down: a bound after which a waiting stream fails. An app that wants one has
`with_timeout`.)
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import trio

from flowstream._clock import clock
from flowstream.tasks._failure import passes
from flowstream.tasks._timers import Timer, start_timer

logger = logging.getLogger("flowstream")

T = TypeVar("T")

# As many as in Trio's default limiter.
_THREADS = 40

# Seconds that a stream waits for a thread before the log says so.
_PATIENCE = 1.0
# Seconds between two such lines of one pool.
_LOG_EVERY = 60.0


@dataclass(frozen=True, slots=True)
class ThreadPoolStatistics:
    """A moment of one pool of worker threads."""

    limit: float
    """Threads at once, at the most: the limiter's ``total_tokens``."""
    busy: int
    """Threads at work now."""
    left: int
    """How many of these work for a stream that has ended. They count until they return."""
    waiting: int
    """Streams that wait for a thread now."""
    exhausted: float
    """Seconds since when all threads have been busy; 0 if one is free."""
    exhausted_total: float
    """Seconds in which all were busy since the Trio run began, with those of now."""


@dataclass(frozen=True, slots=True)
class ThreadStatistics:
    """A moment of all pools of worker threads of a Trio run."""

    iterables: ThreadPoolStatistics
    """Threads that iterate an app's sync iterables and generators."""
    closing: ThreadPoolStatistics
    """Threads that close these, when no thread is inside any more."""
    files: ThreadPoolStatistics
    """Threads that read files, for `file_chunks` and `follow`."""
    cursors: ThreadPoolStatistics
    """Threads that wait for databases, for `sqlite_rows` and `postgres_rows`."""
    processes: ThreadPoolStatistics
    """Threads that start programs, for `process_output`."""


class Seat:
    """A place in a pool for one call in a thread. It has the methods of a limiter.

    Args:
        pool: the pool.
        granted: called when the place is free.
    """

    __slots__ = ("_granted", "_left", "_pool", "_taken")

    def __init__(self, pool: Pool, granted: Callable[[], None] | None = None) -> None:
        self._pool = pool
        self._granted = granted
        self._taken = False
        self._left = False

    async def acquire(self) -> None:
        """**Wait** until a place is free, and take it."""
        await self._pool.grant(self)
        self._taken = True
        if self._granted is not None:
            self._granted()

    def release(self) -> None:
        """Give the place back, because the thread has returned."""
        self._taken = False
        if self._left:
            self._left = False
            self._pool.left -= 1
        self._pool.take_back(self)

    def leave(self) -> None:
        """Note that nobody waits for the thread any more. May be called again."""
        if self._taken and not self._left:
            self._left = True
            self._pool.left += 1

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        """Do what `acquire` does, for Trio."""
        await self.acquire()

    def release_on_behalf_of(self, borrower: object) -> None:
        """Do what `release` does, for Trio."""
        self.release()


class Pool:
    """The threads of one kind of work, in one Trio run.

    Args:
        work: what they do, for the log: "all 40 threads that ... are busy".

    Attributes:
        limiter: bounds their number. An app may change its ``total_tokens``.
        left: how many of them work for a stream that has ended.
    """

    def __init__(self, work: str) -> None:
        self.limiter = trio.CapacityLimiter(_THREADS)
        self.left = 0
        self._work = work
        self._full_since: float | None = None
        self._full_before = 0.0
        self._timer: Timer | None = None
        self._logged_at = -math.inf
        self._logged = False  # that it is full now

    async def run(
        self,
        function: Callable[..., T],
        *arguments: Any,
        granted: Callable[[], None] | None = None,
    ) -> T:
        """Run a function in a thread. **Waits** for a free thread, and for the result.

        When cancelled it returns without the thread, which still counts until it returns.

        Args:
            function: what to run.
            arguments: of the function.
            granted: called when a thread is free, just before it starts.
        """
        seat = Seat(self, granted)
        try:
            return await trio.to_thread.run_sync(
                function,
                *arguments,
                # Trio takes whatever has these two methods for a limiter.
                limiter=cast(trio.CapacityLimiter, seat),
                abandon_on_cancel=True,
            )
        finally:
            seat.leave()

    async def run_surely(self, function: Callable[[], object]) -> None:
        """Do what `run` does. If it is cancelled before a thread is free, run the function later.

        For functions that close something. The caller may leave, but the thing must be closed, and
        not by the garbage collector, which would do so in the event loop.
        """
        begun = False

        def begin() -> None:
            nonlocal begun
            begun = True

        try:
            await self.run(function, granted=begin)
        except trio.Cancelled:
            if not begun:
                trio.lowlevel.spawn_system_task(self._run_later, function)
            raise

    async def _run_later(self, function: Callable[[], object]) -> None:
        try:
            await self.run(function)
        except BaseException as error:  # noqa: ASYNC103  # see `passes`
            if passes(error):
                raise
            logger.exception("threads that %s: one failed", self._work)

    async def grant(self, seat: Seat) -> None:
        """Wait until `seat` is free."""
        if self.limiter.available_tokens <= 0:
            self._watch()
        try:
            await self.limiter.acquire_on_behalf_of(seat)
        finally:
            self._look()

    def take_back(self, seat: Seat) -> None:
        """Free the place of `seat` for another call."""
        self.limiter.release_on_behalf_of(seat)
        self._look()

    def statistics(self) -> ThreadPoolStatistics:
        """Return how it is doing."""
        self._look()  # an app may have changed the limiter
        limiter = self.limiter.statistics()
        since, now = self._full_since, clock.current_time()
        exhausted = 0.0 if since is None else now - since
        return ThreadPoolStatistics(
            limit=limiter.total_tokens,
            busy=limiter.borrowed_tokens,
            left=self.left,
            waiting=limiter.tasks_waiting,
            exhausted=exhausted,
            exhausted_total=self._full_before + exhausted,
        )

    def _look(self) -> None:
        """Note whether all threads are busy, and whether somebody waits for one."""
        full = self.limiter.available_tokens <= 0
        since = self._full_since
        if full and since is None:
            self._full_since = clock.current_time()
        elif not full and since is not None:
            self._full_since = None
            self._become_free(clock.current_time() - since)
        if self._timer is not None and not self.limiter.statistics().tasks_waiting:
            self._timer.stop()
            self._timer = None

    def _become_free(self, seconds: float) -> None:
        self._full_before += seconds
        if self._logged:
            self._logged = False
            logger.warning(
                "threads that %s are free again: all were busy for %.0f s", self._work, seconds
            )

    def _watch(self) -> None:
        """Log the wait that begins now, if it gets long."""
        self._look()
        if self._timer is None:
            at = max(clock.current_time() + _PATIENCE, self._logged_at + _LOG_EVERY)
            self._timer = start_timer(at, self._tell)

    def _tell(self, now: float) -> float:
        statistics = self.statistics()
        if not statistics.waiting:
            self._timer = None
            return math.inf
        self._logged, self._logged_at = True, now
        logger.warning(
            "all %d threads that %s have been busy for %.0f s, and %d streams wait for one; "
            "%d of the threads work for streams that have ended, and count until they return",
            statistics.limit,
            self._work,
            statistics.exhausted,
            statistics.waiting,
            statistics.left,
        )
        return now + _LOG_EVERY


class Pools:
    """The pools of one Trio run; the table above says what each is for."""

    def __init__(self) -> None:
        self.iterables = Pool("iterate sync sources")
        self.closing = Pool("close sync sources")
        self.files = Pool("read files")
        self.cursors = Pool("wait for databases")
        self.processes = Pool("start programs")


_held: trio.lowlevel.RunVar[Pools] = trio.lowlevel.RunVar("flowstream threads")


def pools() -> Pools:
    """Return the pools of this Trio run."""
    try:
        return _held.get()
    except LookupError:
        found = Pools()
        _held.set(found)
        return found


def thread_limiter() -> trio.CapacityLimiter:
    """Return the limiter of the worker threads that iterate sync sources (40 at once).

    It belongs to the current Trio run. Set its ``total_tokens`` to change the bound. Files and
    databases have threads of their own.
    """
    return pools().iterables.limiter


def closing_limiter() -> trio.CapacityLimiter:
    """Return the limiter of the worker threads that close sync sources (40 at once).

    A source in which no thread runs is closed at once, even while others hold all threads of
    `thread_limiter`. It belongs to the current Trio run. Set its ``total_tokens`` to change the
    bound.
    """
    return pools().closing.limiter


def file_limiter() -> trio.CapacityLimiter:
    """Return the limiter of the worker threads that read files (40 at once).

    Those of `file_chunks` and `follow`. It belongs to the current Trio run. Set its
    ``total_tokens`` to change the bound.
    """
    return pools().files.limiter


def cursor_limiter() -> trio.CapacityLimiter:
    """Return the limiter of the worker threads that wait for databases (40 at once).

    Apart from `thread_limiter`, because a query that computes holds its thread: forty of them
    must not keep other streams from running. It belongs to the current Trio run. Set its
    ``total_tokens`` to change the bound; more than the database takes connections is no use.
    """
    return pools().cursors.limiter


def process_limiter() -> trio.CapacityLimiter:
    """Return the limiter of the worker threads that start programs (40 at once).

    A thread is held while a program is started, and not while it runs. It belongs to the
    current Trio run. Set its ``total_tokens`` to change the bound.
    """
    return pools().processes.limiter


def thread_statistics() -> ThreadStatistics:
    """Return how the worker threads of this Trio run are doing, in each pool.

    Raises:
        RuntimeError: no Trio run is under way in this thread.
    """
    held = pools()
    return ThreadStatistics(
        iterables=held.iterables.statistics(),
        closing=held.closing.statistics(),
        files=held.files.statistics(),
        cursors=held.cursors.statistics(),
        processes=held.processes.statistics(),
    )
