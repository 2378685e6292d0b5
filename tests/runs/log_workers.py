"""Several workers that have runs in one log, on Trio's virtual clock."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parent.parent / "topics"))

from shared_log import ALL_CALLS, FINE, Broker, Weather

from flowstream import Replay
from flowstream._errors import PublicError
from flowstream.runs._runs_in_log import LogRunsOptions, RunsInLog
from flowstream.sources import as_source
from flowstream.tasks._supervised import SupervisedNursery, prefer
from flowstream.topics._engine import Engine

LEASE_CALLS = frozenset({"claim", "beat", "end", "leases"})
AWAY = Weather(away=ALL_CALLS | LEASE_CALLS)
FROZEN = Weather(frozen=True)

__all__ = ["AWAY", "FINE", "FROZEN", "Broker", "RunsWorker", "Weather", "open_workers", "read_run"]


class RunsWorker:
    """One process: its view of the log, its engine, and its runs.

    Attributes:
        view: the log, as it reaches it.
        runs: its runs.
    """

    def __init__(self, broker, **options) -> None:
        self.view = broker.view()
        self.engine = Engine(self.view)
        given = {
            "name": "chats",
            "grace": 30.0,
            "replay": Replay(items=10_000, bytes=1 << 20),
            "max_running": 100,
            "keep": 60.0,
            "cleanup_timeout": 5.0,
            "lease": 15.0,
            "resume": None,
        }
        self._options = LogRunsOptions(**{**given, **options})
        self._stop = trio.Event()
        self._killed = trio.CancelScope()
        self.ended = trio.Event()
        self.runs = None

    async def run(self, *, task_status=trio.TASK_STATUS_IGNORED) -> None:
        """Be alive until `shut_down` or `kill`."""
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.engine.run)
                self.nursery = SupervisedNursery(self)
                async with self.nursery:
                    self.runs = RunsInLog(self.engine, self._options)
                    self.nursery.start(self.runs)
                    task_status.started()
                    await self._stop.wait()
                nursery.cancel_scope.cancel()
        finally:
            self.ended.set()

    async def shut_down(self) -> None:
        """End in an orderly way, as at a deploy."""
        self._stop.set()
        await self.ended.wait()

    def freeze(self) -> None:
        self.view.weather = FROZEN

    def thaw(self) -> None:
        self.view.weather = FINE

    async def claim(self, key, source):
        before = prefer(self.nursery)
        try:
            return await self.runs.claim(key, as_source(source))
        finally:
            prefer(before)

    async def open(self, key):
        before = prefer(self.nursery)
        try:
            return await self.runs.open(key)
        finally:
            prefer(before)


@asynccontextmanager
async def open_workers(count=2, **options):
    """Open a broker and `count` workers; yield all of them."""
    broker = Broker()
    with trio.fail_after(7200):  # virtual seconds
        async with trio.open_nursery() as outer:
            await outer.start(broker.run)
            async with trio.open_nursery() as nursery:
                workers = [RunsWorker(broker, **options) for _ in range(count)]
                for worker in workers:
                    await nursery.start(worker.run)
                yield (broker, *workers)
                for worker in workers:
                    worker.thaw()
                nursery.cancel_scope.cancel()
            outer.cancel_scope.cancel()


async def read_run(run, **options):
    """Return what a client of a run gets, and the code that it fails with, or None."""
    got = []
    try:
        async with run.subscribe(**options) as events:
            async for event in events:
                item = ("gap", event.data["missed"]) if event.type == "gap" else event.data
                got.append(item)  # what there is, if it fails
    except PublicError as error:
        return got, error.code
    return got, None
