"""The runs of one worker that are in a log: who owns them, who reads them, who is gone.

::

    claim ──► a lease ──► production ──► events ──► the log ──► clients of any worker
                 ▲  beat, every third of the lease      ▲
                 └── lapsed: whoever looks ends it, or goes on with it

Whoever has a client of a run, opens it or claims it looks at its lease; now and then each worker
looks at all of them. One that has lapsed is ended by a compare-and-set (`owner_lost`), or taken
over, if the app can go on with it. So exactly one worker does either.

A run is given up when for `grace` seconds no worker had a client of it. Workers tell each other by
the presence that topics have.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

import trio

from flowstream._clock import chance, clock
from flowstream._closing import CloseReason
from flowstream._errors import FencedError, LogFullError, LogUnavailableError
from flowstream.abc import Lease
from flowstream.logs._append_arguments import check_topic
from flowstream.runs._durable_run import DurableRun
from flowstream.runs._lease_keeper import LeaseKeeper
from flowstream.runs._log_production import LogProduction
from flowstream.runs._log_runs_options import LogRunsOptions
from flowstream.runs._lost_run import LostRun, Resume, ResumedSource
from flowstream.runs._run_end import RunEnd, owner_lost
from flowstream.runs._run_errors import NoSuchRunError, RunExistsError, TooManyRunsError
from flowstream.runs._run_records import RunRecords
from flowstream.runs._run_watch import RunWatch
from flowstream.sources import Source
from flowstream.tasks._supervised import supervised_nursery
from flowstream.topics._engine import Engine
from flowstream.topics._presence import PresenceTopic

logger = logging.getLogger("flowstream")

# Seconds between two looks of who waits for the end of a run on another worker.
_LOOK_SECONDS = 0.25
# Seconds for which clients that are about to leave may read a run that was given up.
_GIVEN_UP_SECONDS = 1.0


class RunsInLog:
    """The runs of this worker in one log: a job of the app's nursery.

    Args:
        engine: connects this process with the log.
        options: what `Runs` was given.

    Attributes:
        started, lost, reaped, resumed: runs so far: claimed here, lost by this worker, ended here
            since their worker was gone, gone on with here.
        ended: runs of this worker that have ended, by reason.
    """

    def __init__(self, engine: Engine, options: LogRunsOptions) -> None:
        self.name: str = f"the runs {options.name!r}"
        self._engine = engine
        self._log = engine.log
        self._options = options
        self._owner = chance.token_hex(12)
        self._prefix = options.prefix
        self._records = RunRecords(self._log, self._owner, options, engine.patience)
        self._into = PresenceTopic(f"readers:{options.name}", 1, 60.0, 1 << 16, keyed=False)
        self._keeper = LeaseKeeper(self.name, self._log, self._owner, options.lease)
        self._owned = self._keeper.owned
        self._known: dict[str, DurableRun] = {}
        self._claiming: set[str] = set()
        self._left: set[int] = set()  # tokens of runs that this worker has let go
        self._watch = RunWatch(
            self.name,
            self._log,
            self._records,
            options,
            self._owned,
            self._known,
            lambda run: engine.presence.total(self._into, run.topic),
            self._see_to,
        )
        self._closing = trio.Event()
        self.started: int = 0
        self.lost: int = 0
        self.reaped: int = 0
        self.resumed: int = 0
        self.ended: Counter[str] = Counter()
        engine.control.add(self)

    @property
    def running(self) -> int:
        """How many this worker runs, or is about to."""
        return len(self._owned) + len(self._claiming)

    @property
    def attached(self) -> int:
        """Clients of this worker."""
        return sum(run.attached for run in self._known.values())

    # -- what an app calls -----------------------------------------------------------------

    async def claim(self, key: str, source: Source) -> DurableRun:
        """Start `source` as the run of that key on this worker; **waits** for the log.

        Raises:
            RunExistsError: it runs on some worker.
            TooManyRunsError: there is no room for another.
            LogUnavailableError: the log is away.
        """
        topic = self._prefix + key
        if topic in self._owned or topic in self._claiming:
            raise RunExistsError
        if self.running >= self._options.max_running:
            raise TooManyRunsError
        self._claiming.add(topic)
        try:
            since, lease = await self._take(topic)
            self._engine.pages.forget(topic)
            run = self._new(topic, key, lease.token)
            self._begin(run, source, since)
        finally:
            self._claiming.discard(topic)
        self.started += 1
        return run

    async def open(self, key: str) -> DurableRun:
        """Return the run of that key, on whatever worker it is; **waits** for the log.

        Raises:
            NoSuchRunError: there is none.
            LogUnavailableError: the log is away.
        """
        topic = self._find(key)
        owned = self._owned.get(topic)
        if owned is not None:
            await trio.lowlevel.checkpoint()
            return owned
        lease = await self._look_at(topic)
        if lease is None:
            raise NoSuchRunError
        run = self._owned.get(topic) or self._known.get(topic)
        if run is None or run.token != lease.token:
            if run is None or run.publisher.follower.is_over or not run.attached:
                run = self._new(topic, key, lease.token)
            run.token = lease.token
        if lease.ended and run.publisher.follower.last is None:
            await self._read_end(run)
        return run

    async def stop(self, key: str) -> None:
        """Stop the run of that key on whatever worker it is; **wait** until it has ended.

        Raises:
            NoSuchRunError: there is none.
            TooSlowError: it has not ended within the lease and `cleanup_timeout`.
            LogUnavailableError: the log is away.
        """
        topic = self._find(key)
        owned = self._owned.get(topic)
        if owned is not None and owned.production is not None:
            owned.production.stop(CloseReason.STOPPED, "Runs.stop()")
            await owned.production.over.wait()
            return
        lease = await self._look_at(topic)
        if lease is None:
            raise NoSuchRunError
        if lease.ended:
            return
        bound = self._options.lease + self._options.cleanup_timeout
        with trio.move_on_after(bound) as scope:
            await self._engine.control.send("stop_run", topic=topic, token=str(lease.token))
            while True:
                now = await self._look_at(topic)
                if now is None or now.ended or now.token != lease.token:
                    return
                await trio.sleep(_LOOK_SECONDS)
        if scope.cancelled_caught:
            raise trio.TooSlowError(
                f"the run {key!r} has not ended within {bound:g} s: its worker still cleans up, or "
                "can't be reached; try again"
            )

    async def wait(self, run: DurableRun) -> CloseReason:
        """**Wait** until a run is over, and return the reason.

        Raises:
            NoSuchRunError: it is no longer kept.
        """
        while True:
            production = run.production
            if production is not None and not production.is_lost:
                await production.over.wait()
            last = run.publisher.follower.last
            if last is not None:
                return last.reason
            lease = await self._look_at(run.topic)
            if lease is None:
                raise NoSuchRunError
            if lease.ended:
                await self._read_end(run)
            else:
                await trio.sleep(_LOOK_SECONDS)

    # -- leases ----------------------------------------------------------------------------

    async def _take(self, topic: str) -> tuple[float, Lease]:
        """Return a lease of a new run, and when it was asked for."""
        instead: int | None = None
        while True:
            since = clock.current_time()
            lease = await self._records.claim(topic, instead)
            if lease.owner == self._owner and not lease.ended:
                if lease.token not in self._left:
                    return since, lease
                # This worker has let it go, and nobody has ended it yet.
                await self._records.end(topic, lease.token, owner_lost())
            elif not lease.ended and lease.seconds <= 0:
                await self._reap(topic, lease)
            elif not lease.ended or instead == lease.token:
                raise RunExistsError
            instead = lease.token

    async def _look_at(self, topic: str) -> Lease | None:
        """Return the lease of a topic; if it has lapsed, see to the run first."""
        lease = await self._records.lease(topic)
        if lease is None or lease.ended or lease.seconds > 0 or topic in self._owned:
            return lease
        await self._see_to(topic, lease)
        return await self._records.lease(topic)

    async def _see_to(self, topic: str, lease: Lease) -> None:
        """Go on with a run whose lease has lapsed, or end it."""
        options = self._options
        if options.resume is None or self._closing.is_set():
            await self._reap(topic, lease)
        elif self.running < options.max_running and topic not in self._claiming:
            await self._go_on(topic, lease, options.resume)

    async def _reap(self, topic: str, lease: Lease) -> None:
        try:
            ended = await self._records.end(topic, lease.token, owner_lost(), lapsed=True)
        except FencedError:
            return  # somebody else has seen to it
        if ended is not None and ended.ended:
            self._left.discard(lease.token)
            self.reaped += 1
            self._mark_stale(topic)

    async def _go_on(self, topic: str, lease: Lease, resume: Resume) -> None:
        self._claiming.add(topic)
        try:
            since = clock.current_time()
            got = await self._records.claim(topic, lease.token)
            if got.owner != self._owner or got.ended:
                return
            self._left.discard(got.token)
            key = topic.removeprefix(self._prefix)
            known = self._known.get(topic)
            if known is None or known.publisher.follower.is_over:
                known = self._new(topic, key, got.token)
            known.token = got.token

            async def read() -> LostRun:
                return LostRun(key, await self._records.read_events(topic))

            self._begin(known, ResumedSource(resume, read), since)
            self.resumed += 1
        finally:
            self._claiming.discard(topic)

    def _begin(self, run: DurableRun, source: Source, since: float) -> None:
        options = self._options
        run.publisher.own(run.token, options.lease)
        run.attended = clock.current_time()

        async def finish(end: RunEnd) -> None:
            await self._finish(run, end)

        production = LogProduction(
            run.publisher.name,
            source,
            run.publisher,
            options.cleanup_timeout,
            lambda: self._note_end(run, production),
            finish,
            options.lease,
        )
        self._left.add(run.token)  # unless the job is started
        supervised_nursery().start(production)
        self._left.discard(run.token)
        run.production = production
        self._keeper.add(run, since)

    async def _finish(self, run: DurableRun, end: RunEnd) -> None:
        """Put the end of a run of this worker into the log."""
        options, production = self._options, run.production
        try:
            await run.publisher.flush()
            is_shutdown = production is not None and production.reason is CloseReason.SHUTDOWN
            if is_shutdown and options.resume is not None:
                await self._let_go(run)
                return
            given_up = production is not None and (
                production.reason is CloseReason.CLIENT_DISCONNECTED
            )
            seconds = _GIVEN_UP_SECONDS if given_up else options.keep
            await self._records.end(run.topic, run.token, end, seconds, patience=options.lease)
        except FencedError:
            if production is not None:
                production.is_lost = True
        except (LogUnavailableError, LogFullError, RuntimeError) as error:
            self._left.add(run.token)
            logger.error("%s has ended, and the log does not say so yet: %s", self.name, error)

    async def _let_go(self, run: DurableRun) -> None:
        """Let another worker go on with a run at once."""
        await self._records.let_go(run.topic, run.token)
        self._left.add(run.token)
        await self._engine.control.send("run_left", topic=run.topic)

    def _note_end(self, run: DurableRun, production: LogProduction) -> None:
        if production.is_lost:
            self._left.add(run.token)
            self.lost += 1
            self.ended["lost"] += 1
        elif production.reason is not None:
            self.ended[production.reason.value] += 1
        self._keeper.remove(run)

    # -- what is known of runs -------------------------------------------------------------

    def _find(self, key: str) -> str:
        """Return the topic of a key that a client may have sent.

        Raises:
            NoSuchRunError: no topic can have that name.
        """
        try:
            check_topic(topic := self._prefix + key)
        except ValueError:
            raise NoSuchRunError from None
        return topic

    def _new(self, topic: str, key: str, token: int) -> DurableRun:
        run = DurableRun(self, self._engine, topic, key, self._options.replay, token)
        self._known[topic] = run
        return run

    def _mark_stale(self, topic: str) -> None:
        run = self._known.get(topic)
        if run is not None:
            run.publisher.follower.mark_stale()

    async def _read_end(self, run: DurableRun) -> None:
        """Read the last record of a run that has ended."""
        run.publisher.follower.learn(*await self._records.read_end(run.topic))

    def count_changed(self, run: DurableRun) -> None:
        """Tell all workers how many clients of a run are here."""
        self._engine.presence.share(self._into, run.topic, run.attached)

    # -- control messages ------------------------------------------------------------------

    def hear_control(self, what: str, fields: Mapping[str, Any]) -> None:
        """Stop a run of this worker, if another one asks for it; see to one that was let go."""
        topic = fields.get("topic")
        if what == "stop_run" and isinstance(topic, str):
            run = self._owned.get(topic)
            production = None if run is None else run.production
            if run is not None and production is not None and fields.get("token") == str(run.token):
                production.stop(CloseReason.STOPPED, "Runs.stop()")
        elif what == "run_left" and isinstance(topic, str):
            self._watch.hear_left(topic)

    def miss_control(self) -> None:
        """Do nothing: who wants a run stopped looks whether it is, and asks again."""

    # -- its job ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Renew leases and look at those of others, until `shut_down` and the last run's end."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keeper.beat_for_ever)
            nursery.start_soon(self._keeper.watch_for_ever)
            nursery.start_soon(self._watch.run_for_ever)
            await self._closing.wait()
            while self._owned:
                await self._keeper.news.park()
            nursery.cancel_scope.cancel()

    def shut_down(self) -> None:
        """End when the productions have ended, which are told so, too."""
        self._closing.set()
