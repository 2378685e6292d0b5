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
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import trio

from flowstream._clock import clock
from flowstream._closing import CloseReason
from flowstream._errors import NotFoundError, PublicError, SourceError
from flowstream.limits import Replay, check_count, check_positive
from flowstream.runs._run import Run, RunStatistics
from flowstream.sources import Source, SourceLike, as_source
from flowstream.sources._feed import Feeds
from flowstream.tasks._supervised import supervised_nursery
from flowstream.tasks._timers import Timer, start_timer

__all__ = [
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


class NoSuchRunError(NotFoundError, KeyError):
    """There is no such run: it never was, nobody read it, or it ended long ago. 404."""

    def __init__(self) -> None:
        super().__init__("There is no such run.", code="no_such_run")

    def __str__(self) -> str:
        return Exception.__str__(self)  # that of KeyError would show a repr


class RunExistsError(PublicError):
    """A run of that key is still running; `Runs.get_or_start` attaches to it. 409."""

    def __init__(self) -> None:
        super().__init__("run_exists", "This is running already.", status=409)


class TooManyRunsError(PublicError):
    """`max_running` runs are running. 503."""

    def __init__(self) -> None:
        super().__init__("too_many_runs", "Too much is going on now.", retryable=True, status=503)


@dataclass(frozen=True, slots=True)
class RunsStatistics:
    """A moment of all runs."""

    running: int
    """Runs that are running or cleaning up."""
    limit: int
    """How many there may be."""
    kept: int
    """Runs that are over and that clients can still attach to."""
    attached: int
    """Streams and subscriptions of all of them."""
    started: int
    """Runs started so far."""
    ended: Mapping[str, int]
    """Runs that have ended so far, by reason."""


class Runs(Feeds):
    """Producers that outlive their clients, by key.

    They run in the nursery that `Flowstream(app)` keeps open while the app is served (outside
    Quart: ``async with Flowstream():``). A run that fails does not disturb the others. All of
    them belong to one Trio run; the next one begins with none.

    Args:
        grace: seconds that a run goes on without a reader, from its start or since the last
            client left; None for as long as it takes.
        replay: how much is kept of each run; usually all of it.
        max_running: how many may run at once, with those that clean up.
        keep: seconds for which clients can attach to a run that has ended.
        max_kept: how many such runs are kept; the one that ended first is dropped first.
        cleanup_timeout: seconds that a run's producer may take to end when it is told to.

    Raises:
        TypeError, ValueError: an argument is not what is said above.
    """

    _one = "runs[key]"

    def __init__(
        self,
        grace: float | None = 30.0,
        *,
        replay: Replay = Replay(items=10_000, bytes=1 << 20),  # noqa: B008  # a frozen value
        max_running: int = 1000,
        keep: float = 60.0,
        max_kept: int = 1000,
        cleanup_timeout: float = 5.0,
    ) -> None:
        if grace is not None:
            check_positive("grace", grace, unit="seconds")
        if not isinstance(replay, Replay):
            raise TypeError(f"replay must be a Replay, not {type(replay).__name__}")
        check_count("max_running", max_running, unit="runs")
        check_positive("keep", keep, unit="seconds")
        check_count("max_kept", max_kept, unit="runs")
        check_positive("cleanup_timeout", cleanup_timeout, unit="seconds")
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
        opened = _opened(source)
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
        opened = _opened(source)
        found = self._by_key().get(key)
        if found is None:
            return self.start(key, opened)
        with contextlib.suppress(RuntimeError):  # the app shuts down, and the run with it
            supervised_nursery().start(_Discarding(opened, self._cleanup_timeout))
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

        Raises:
            NoSuchRunError: there is none.
        """
        await self[key].stop()

    def statistics(self) -> RunsStatistics:
        """Return how they are doing."""
        self._by_key()
        return RunsStatistics(
            running=len(self._running),
            limit=self._max_running,
            kept=len(self._kept),
            attached=sum(run.attached for run in {*self._running, *self._kept}),
            started=self._started,
            ended=dict(self._ended),
        )

    def _by_key(self) -> dict[Hashable, Run]:
        """Return the runs of this Trio run. Those of an earlier one are gone, with its clock."""
        if trio.lowlevel.in_trio_run():
            token = trio.lowlevel.current_trio_token()
            if self._token is not token:
                self._token, self._timer = token, None
                for left in (self._runs, self._running, self._kept):
                    left.clear()
        return self._runs

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


def _opened(source: Any) -> Source:
    opened = as_source(source)
    if not isinstance(opened, Source):
        raise SourceError("a topic needs no run: it has no client to outlive")
    return opened


class _Discarding:
    """Releases a source that is not needed, because its run exists already."""

    name = "a source that was not needed"

    def __init__(self, source: Source, timeout: float) -> None:
        self._source = source
        self._timeout = timeout

    async def run(self) -> None:
        with trio.move_on_after(self._timeout, shield=True):
            await self._source.discard()

    def shut_down(self) -> None:
        """Do nothing: it ends soon by itself."""
