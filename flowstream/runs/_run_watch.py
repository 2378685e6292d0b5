"""The watch over runs: whose worker is gone, who is read by nobody, what is no longer kept.

A worker looks at the leases of the runs that its clients read, a little more often than it gives a
sign of life itself. Each minute it looks at all runs of the log, so that none stays open for ever.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from flowstream._clock import chance, clock
from flowstream._closing import CloseReason
from flowstream.abc import Lease, Log
from flowstream.runs._durable_run import DurableRun
from flowstream.runs._lease_keeper import BEATS
from flowstream.runs._log_runs_options import LogRunsOptions
from flowstream.runs._run_end import RunEnd, no_longer_kept
from flowstream.runs._run_records import AT_ONCE, RunRecords

logger = logging.getLogger("flowstream")

# Seconds between two looks at all runs, whoever reads them.
_SWEEP_SECONDS = 60.0
# Seconds that a run without a client stays known to its worker.
_IDLE_SECONDS = 30.0


class RunWatch:
    """The watch of one worker.

    Args:
        name: what it watches, in the program's log.
        log: the log.
        records: the runs in it.
        options: what `Runs` was given.
        owned: the runs of this worker, by topic.
        known: the runs that it knows.
        is_read: returns whether any worker has a client of a run.
        see_to: ends a run whose lease has lapsed, or goes on with it.
    """

    def __init__(
        self,
        name: str,
        log: Log,
        records: RunRecords,
        options: LogRunsOptions,
        owned: dict[str, DurableRun],
        known: dict[str, DurableRun],
        is_read: Callable[[DurableRun], object],
        see_to: Callable[[str, Lease], Awaitable[None]],
    ) -> None:
        self._name = name
        self._log = log
        self._records = records
        self._options = options
        self._prefix = options.prefix
        self._owned = owned
        self._known = known
        self._is_read = is_read
        self._see_to_run = see_to
        self._left_behind = trio.lowlevel.ParkingLot()
        self._leftovers: set[str] = set()  # runs that other workers have let go

    def hear_left(self, topic: str) -> None:
        """Hear that a worker has let a run go."""
        if topic.startswith(self._prefix):
            self._leftovers.add(topic)
            self._left_behind.unpark_all()

    async def run_for_ever(self) -> None:
        """Look again and again, a little more often than beats come."""
        pause = self._options.lease / BEATS
        swept = clock.current_time()
        while True:
            with trio.move_on_after(pause * chance.uniform(0.8, 1.0)):
                await self._left_behind.park()
            try:
                self._give_up()
                await self._look()
                now = clock.current_time()
                if now - swept >= max(_SWEEP_SECONDS, self._options.lease):
                    swept = now
                    await self._sweep()
            except Exception as error:  # noqa: BLE001  # whatever a log raises
                logger.warning("%s could not be looked at: %s", self._name, error)
                await trio.sleep(pause)

    def _give_up(self) -> None:
        """Stop runs of this worker that nobody reads on any worker."""
        now, grace = clock.current_time(), self._options.grace
        for run in list(self._owned.values()):
            if run.attached or self._is_read(run):
                run.attended = now
            elif now - max(run.attended, run.left) >= grace and run.production is not None:
                run.production.stop(CloseReason.CLIENT_DISCONNECTED, "the run was given up")

    async def _look(self) -> None:
        """See to runs of others that clients of this worker read."""
        now = clock.current_time()
        watched: list[str] = []
        for topic, run in list(self._known.items()):
            if topic in self._owned:
                continue
            if run.attached and not run.publisher.follower.is_over:
                watched.append(topic)
            elif not run.attached and now - run.left >= _IDLE_SECONDS:
                del self._known[topic]
        leftovers, self._leftovers = self._leftovers, set()
        await self._see_to_all([*{*watched, *leftovers}])

    async def _sweep(self) -> None:
        """See to all runs of the log whose workers are gone."""
        cursor: str | None = None
        while True:
            names, cursor = await self._log.topics(self._prefix, cursor)
            await self._see_to_all([name for name in names if name not in self._owned])
            if cursor is None:
                return

    async def _see_to_all(self, topics: list[str]) -> None:
        if not topics:
            return
        for topic, lease in (await self._records.leases(topics)).items():
            if lease is None:
                self._forget(topic)
            elif lease.ended:
                if topic in self._known:
                    self._known[topic].publisher.follower.mark_stale()
            elif lease.seconds <= AT_ONCE and topic not in self._owned:
                await trio.sleep(max(0.0, lease.seconds))
                await self._see_to_run(topic, lease)

    def _forget(self, topic: str) -> None:
        """End the clients of a run that is no longer kept."""
        run = self._known.get(topic)
        if run is not None and run.publisher.ending is None:
            end = RunEnd(CloseReason.ERROR, no_longer_kept(), "run: it is no longer kept")
            run.publisher.end_readers(end)
