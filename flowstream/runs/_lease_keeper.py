"""The leases of a worker: it renews all of them with one call, or stops what it can't renew.

A worker stops a production by itself when its beats have failed for as long as the lease, counted
from when they were sent: so before the log lets another worker have the run. If it was frozen, it
could not. Then the log refuses what the production appends, and the next beat finds out, too.
"""

from __future__ import annotations

import logging
import math

import trio

from flowstream._clock import chance, clock
from flowstream._errors import LogUnavailableError
from flowstream.abc import Log
from flowstream.runs._durable_run import DurableRun

logger = logging.getLogger("flowstream")

# Beats in the time of a lease.
BEATS = 3
# The part of a lease by which its owner stops before it may lapse.
_MARGIN = 15
# Seconds between two tries of a beat that failed, at the most.
_BEAT_RETRY = 1.0


class LeaseKeeper:
    """The leases of one worker in one log.

    Args:
        name: what they are for, in the program's log.
        log: the log.
        owner: who this worker is.
        lease: seconds after which a lease lapses.

    Attributes:
        owned: the runs of this worker, by topic.
        news: is unparked when one comes or goes.
    """

    def __init__(self, name: str, log: Log, owner: str, lease: float) -> None:
        self._name = name
        self._log = log
        self._owner = owner
        self._lease = lease
        self.owned: dict[str, DurableRun] = {}
        self.news = trio.lowlevel.ParkingLot()

    def add(self, run: DurableRun, since: float) -> None:
        """Keep the lease of a run, which was asked for at that time."""
        run.safe_until = since + self._lease
        self.owned[run.topic] = run
        self.news.unpark_all()

    def remove(self, run: DurableRun) -> None:
        """Keep it no more."""
        if self.owned.get(run.topic) is run:
            del self.owned[run.topic]
        self.news.unpark_all()

    async def beat_for_ever(self) -> None:
        """Renew all leases of this worker, three times in the time of a lease."""
        pause = self._lease / BEATS
        while True:
            since = clock.current_time()
            failed = False
            try:
                if self.owned:
                    await self._beat(since)
            except Exception as error:  # noqa: BLE001  # whatever a log raises
                failed = True
                logger.warning("%s: leases were not renewed: %s", self._name, error)
            wait = min(pause, _BEAT_RETRY) if failed else pause
            await trio.sleep(wait * chance.uniform(0.9, 1.0))

    async def _beat(self, since: float) -> None:
        runs = dict(self.owned)
        tokens = {topic: run.token for topic, run in runs.items()}
        with trio.move_on_after(self._lease / BEATS):
            leases = await self._log.beat(self._owner, tokens, seconds=self._lease)
            for topic, run in runs.items():
                lease = leases[topic]
                production = run.production
                if lease is not None and (lease.token, lease.owner) == (run.token, self._owner):
                    if not lease.ended:
                        run.safe_until = since + self._lease
                        continue
                    if production is not None and production.reason is not None:
                        continue  # it has just ended by itself
                if production is not None and self.owned.get(topic) is run:
                    logger.error("%s: the run %r has lost its lease", self._name, run.key)
                    production.lose()
            return
        raise LogUnavailableError("the log does not answer")

    async def watch_for_ever(self) -> None:
        """Stop each run of this worker before another one may have it."""
        margin = self._lease / _MARGIN
        while True:
            due = min((run.safe_until for run in self.owned.values()), default=math.inf)
            with trio.move_on_at(due - margin) as scope:
                await self.news.park()
            if scope.cancelled_caught:
                self._let_lapse(due)

    def _let_lapse(self, due: float) -> None:
        for run in list(self.owned.values()):
            production = run.production
            if run.safe_until > due or production is None:
                continue
            run.safe_until = math.inf  # it is told once
            if production.reason is None:
                logger.error(
                    "%s: the run %r is stopped, since its lease can't be renewed",
                    self._name,
                    run.key,
                )
                production.lose()
