"""Runs: producers that outlive the request that started them.

::

    runs = Runs(grace=30)

    @app.post("/chats/<id>")
    async def ask(id):
        runs.start(id, answer(await request.get_json()))
        return "", 202

    @app.get("/chats/<id>")
    async def read(id):
        return sse(runs[id])          # as often as the page is reloaded

    @app.delete("/chats/<id>")
    async def stop(id):
        await runs.stop(id)
        return "", 204

A connection that closes can mean three things; here each has its own way. A client that leaves (a
reload, a tunnel) only detaches. `stop` ends the run for all clients. And a run that nobody has
read for a while is cancelled, because nobody would see what it costs.

The events of a run are kept in a replay, from the beginning, and each client reads them there at
its own pace. So a run never waits for a client, and a client that comes late gets all that is
still kept.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Literal

import trio

from flowstream._clock import clock
from flowstream._closing import CloseReason
from flowstream.abc import Log
from flowstream.limits import Replay, check_count, check_positive
from flowstream.runs._log_runs_options import LogRunsOptions, check_log_options
from flowstream.runs._lost_run import LostRun, Resume
from flowstream.runs._run import Run, RunStatistics
from flowstream.runs._run_errors import NoSuchRunError, RunExistsError, TooManyRunsError
from flowstream.runs._runs_statistics import RunsStatistics
from flowstream.runs._unneeded_source import UnneededSource, opened_source
from flowstream.sources import SourceLike
from flowstream.sources._feed import Feeds
from flowstream.tasks._supervised import supervised_nursery
from flowstream.tasks._timers import Timer, start_timer
from flowstream.topics._app_log import find_log

if TYPE_CHECKING:
    from flowstream.runs._runs_in_log import RunsInLog

__all__ = [
    "LostRun",
    "NoSuchRunError",
    "Run",
    "RunExistsError",
    "RunStatistics",
    "Runs",
    "RunsStatistics",
    "TooManyRunsError",
]

# Reasons for which an ended run is kept. A run that was given up is forgotten, so that a client
# which does come back starts it again.
_KEPT = (CloseReason.COMPLETED, CloseReason.STOPPED, CloseReason.ERROR)


class Runs(Feeds):
    """Producers that outlive their clients, by key.

    They run in the nursery that `Flowstream(app)` keeps open while the app is served (outside
    Quart: ``async with Flowstream():``). A run that fails does not disturb the others. All of
    them belong to one Trio run; the next one begins with none.

    In a log, a run outlives its worker: clients read it on any worker, and find what there is when
    its worker was killed. There use `claim`, `open` and `stop`, which wait for the log. What does
    not wait (`start`, ``runs[key]``, `get`, ``in``, `get_or_start`) is for runs in memory.

    Args:
        name: tells these runs from others in the same log: up to 64 letters, digits, ``-``, ``_``
            and ``.``. A number, or None, is taken for `grace`.
        grace: seconds that a run goes on without a reader on any worker, from its start or since
            the last client left; None for as long as it takes. In a log it may be a third of the
            lease longer.
        replay: how much is kept of each run; usually all of it.
        max_running: how many may run at once, with those that clean up.
        keep: seconds for which clients can attach to a run that has ended.
        max_kept: how many such runs are kept; the one that ended first is dropped first.
        cleanup_timeout: seconds that a run's producer may take to end when it is told to.
        log: the log that the runs are in: one that a `Flowstream` or
            ``flowstream.starlette.lifespan`` was given and has open, or `MemoryLog()` for this
            process's memory. None for the log of the app in which they are first used; without
            one they are in memory.
        lease: in a log, seconds without a sign of life after which a run's worker counts as gone.
            Its worker gives a sign three times as often. While the log is away, a producer waits
            for as long.
        on_owner_lost: in a log, what becomes of a run whose worker is gone. ``"close"`` ends it,
            with ``failed`` and the code ``owner_lost``. A function, or an async one, gets a
            `LostRun` and returns a source that goes on with the run on one of the other workers,
            behind the events that there are; or None to end it.

    Raises:
        TypeError, ValueError: an argument is not what is said above.
    """

    _one = "runs[key], or await runs.open(key)"

    def __init__(
        self,
        name: str | float | None = "runs",
        *,
        grace: float | None = 30.0,
        replay: Replay = Replay(items=10_000, bytes=1 << 20),  # noqa: B008  # a frozen value
        max_running: int = 1000,
        keep: float = 60.0,
        max_kept: int = 1000,
        cleanup_timeout: float = 5.0,
        log: Log | None = None,
        lease: float = 15.0,
        on_owner_lost: Literal["close"] | Resume = "close",
    ) -> None:
        if not isinstance(name, str):
            grace, name = name, "runs"
        check_log_options(name, log, lease, on_owner_lost)
        if grace is not None:
            check_positive("grace", grace, unit="seconds")
        if not isinstance(replay, Replay):
            raise TypeError(f"replay must be a Replay, not {type(replay).__name__}")
        check_count("max_running", max_running, unit="runs")
        check_positive("keep", keep, unit="seconds")
        check_count("max_kept", max_kept, unit="runs")
        check_positive("cleanup_timeout", cleanup_timeout, unit="seconds")
        self._name = name
        self._log = log
        self._lease = lease
        self._resume = None if on_owner_lost == "close" else on_owner_lost
        self._is_bound = False
        self._was_in_log = False
        self._in_log: RunsInLog | None = None
        self._grace = math.inf if grace is None else grace
        self._replay = replay
        self._max_running = max_running
        self._keep = keep
        self._max_kept = max_kept
        self._cleanup_timeout = cleanup_timeout
        self._token: trio.lowlevel.TrioToken | None = None
        self._runs: dict[Hashable, Run] = {}
        self._running: set[Run] = set()
        self._kept: OrderedDict[Run, float] = OrderedDict()  # and when each has ended
        self._ended: Counter[str] = Counter()
        self._started = 0
        self._timer: Timer | None = None

    async def claim(self, key: Hashable, source: SourceLike) -> Run:
        """Start `source` under `key` on this worker; **wait** until the log knows that it has it.

        It is for runs in a log and for those in memory. Of several workers that claim a key at
        once, one gets it.

        Args:
            key: the name of the run; in a log a `str`. That of a run that is over can be used
                again: what that has left is forgotten.
            source: see `start`.

        Raises:
            RunExistsError: a run of that key is running, on any worker.
            LogUnavailableError: the log is away. Call it again.
            Exception: as `start`.
        """
        in_log = self._bind()
        if in_log is None:
            await trio.lowlevel.checkpoint()
            return self.start(key, source)
        return await in_log.claim(_text(key), opened_source(source))

    async def open(self, key: Hashable) -> Run:
        """Return the run of that key, which goes on or is kept; **wait** for the log.

        Pass it to `sse()`. It is for runs in a log and for those in memory.

        Raises:
            NoSuchRunError: there is none.
            LogUnavailableError: the log is away.
        """
        in_log = self._bind()
        if in_log is None:
            await trio.lowlevel.checkpoint()
            return self[key]
        return await in_log.open(_text(key))

    def start(self, key: Hashable, source: SourceLike) -> Run:
        """Start `source` under `key`. It goes on when the request is over.

        Args:
            key: the name of the run, such as the id of a chat. The key of a run that is over can
                be used again.
            source: anything that `stream` takes for one client. Best is a function that makes
                the generator, because it holds nothing until it runs.

        Raises:
            RunExistsError: a run of that key is still running.
            TooManyRunsError: there is no room for another.
            SourceError: `source` is not a source, or it is a topic, which needs no run.
            RuntimeError: there is no `Flowstream` to run it in.
            TypeError: `key` can't be hashed.
        """
        found = self._by_key().get(key)
        if found is not None and found in self._running:
            raise RunExistsError
        opened = opened_source(source)
        if len(self._running) >= self._max_running:
            raise TooManyRunsError
        supervised_nursery()  # first of all, since it raises if there is none
        run = Run(
            key,
            opened,
            self._replay,
            self._grace,
            self._cleanup_timeout,
            self._note_end,
            self._forget,
        )
        run._begin()
        if found is not None:
            self._kept.pop(found, None)
        self._runs[key] = run
        self._running.add(run)
        self._started += 1
        return run

    def get_or_start(self, key: Hashable, source: SourceLike) -> Run:
        """Return the run of that key, if it is running or kept; otherwise `start` it.

        Raises:
            Exception: as `start`, except `RunExistsError`.
        """
        opened = opened_source(source)
        found = self._by_key().get(key)
        if found is None:
            return self.start(key, opened)
        with contextlib.suppress(RuntimeError):  # the app shuts down, and the run with it
            supervised_nursery().start(UnneededSource(opened, self._cleanup_timeout))
        return found

    def __getitem__(self, key: Hashable) -> Run:
        """Return the run of that key, which goes on or is kept.

        Raises:
            NoSuchRunError: there is none; a `KeyError`, and a 404 to a client.
        """
        try:
            return self._by_key()[key]
        except KeyError:
            raise NoSuchRunError from None

    def get(self, key: Hashable) -> Run | None:
        """Return the run of that key, or None."""
        return self._by_key().get(key)

    def __contains__(self, key: Hashable) -> bool:
        """Return whether a run of that key goes on or is kept."""
        return key in self._by_key()

    def __iter__(self) -> Iterator[Hashable]:
        """Iterate over the keys of the runs that go on or are kept."""
        return iter(list(self._by_key()))

    def __len__(self) -> int:
        """Return how many go on or are kept."""
        return len(self._by_key())

    async def stop(self, key: Hashable) -> None:
        """Stop the run of that key for all clients, and **wait** until its producer has cleaned up.

        In a log the run may be another worker's, which is asked to stop it.

        Raises:
            NoSuchRunError: there is none.
            TooSlowError: the run of another worker has not ended within the lease and
                `cleanup_timeout`.
            LogUnavailableError: the log is away.
        """
        in_log = self._bind()
        if in_log is not None:
            await in_log.stop(_text(key))
        else:
            await self[key].stop()

    def statistics(self) -> RunsStatistics:
        """Return how they are doing; in a log, on this worker."""
        in_log = self._bind()
        if in_log is not None:
            return RunsStatistics(
                running=in_log.running,
                limit=self._max_running,
                kept=0,
                attached=in_log.attached,
                started=in_log.started,
                ended=dict(in_log.ended),
                lost=in_log.lost,
                reaped=in_log.reaped,
                resumed=in_log.resumed,
            )
        self._by_key()
        return RunsStatistics(
            running=len(self._running),
            limit=self._max_running,
            kept=len(self._kept),
            attached=sum(run.attached for run in {*self._running, *self._kept}),
            started=self._started,
            ended=dict(self._ended),
            lost=0,
            reaped=0,
            resumed=0,
        )

    def _by_key(self) -> dict[Hashable, Run]:
        """Return the runs of this Trio run. Those of an earlier one are gone, with its clock.

        Raises:
            RuntimeError: they are in a log.
        """
        if self._bind() is not None:
            raise RuntimeError(
                f"the runs {self._name!r} are in a log, which has to be waited for: write `await "
                "runs.claim(key, source)` to start one, and `await runs.open(key)` to read one; or "
                "make them with log=MemoryLog()"
            )
        return self._runs

    def _bind(self) -> RunsInLog | None:
        """Find the log that they are in; return what they have there, or None for memory."""
        if trio.lowlevel.in_trio_run():
            token = trio.lowlevel.current_trio_token()
            if self._token is not token:
                self._token, self._timer = token, None
                self._is_bound, self._was_in_log, self._in_log = False, False, None
                for left in (self._runs, self._running, self._kept):
                    left.clear()
            if not self._is_bound:
                self._find_log()
        return self._in_log

    def _find_log(self) -> None:
        opened = find_log(self._name, self._log, was_in_log=self._was_in_log)
        if opened is not None:
            assert opened.engine is not None
            from flowstream.runs._runs_in_log import RunsInLog

            options = LogRunsOptions(
                self._name,
                self._grace,
                self._replay,
                self._max_running,
                self._keep,
                self._cleanup_timeout,
                self._lease,
                self._resume,
            )
            in_log = RunsInLog(opened.engine, options)
            supervised_nursery().start(in_log)
            opened.add(self)
            self._in_log, self._was_in_log = in_log, True
        # In memory it is looked for again, until the first run: an app may be opened later.
        self._is_bound = opened is not None or bool(self._runs)

    def _unbind(self) -> None:
        """Be bound to a log again at the next use: this one is closed."""
        self._is_bound, self._in_log = False, None

    def _note_end(self, run: Run) -> None:
        run._leave_alone()
        self._running.discard(run)
        assert run.reason is not None
        self._ended[run.reason.value] += 1
        if run.reason not in _KEPT:
            self._forget(run)
            return
        self._kept[run] = now = clock.current_time()
        if len(self._kept) > self._max_kept:
            self._forget(next(iter(self._kept)))
        if self._timer is None:
            self._timer = start_timer(now + self._keep, self._forget_old)

    def _forget_old(self, now: float) -> float:
        for run, ended in list(self._kept.items()):
            if ended + self._keep > now:
                return ended + self._keep
            self._forget(run)
        self._timer = None
        return math.inf

    def _forget(self, run: Run) -> None:
        self._kept.pop(run, None)
        if self._runs.get(run.key) is run:
            del self._runs[run.key]


def _text(key: Hashable) -> str:
    if not isinstance(key, str):
        raise TypeError(f"the key of a run in a log must be a str, not {type(key).__name__}")
    return key
