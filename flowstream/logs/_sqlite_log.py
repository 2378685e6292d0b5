"""A log in a file of SQLite: any number of processes of one machine, no server.

::

    append ──► writer thread ──► the file ──► tail thread of each process ──► hints
                     └───────── rings their bells ──────┘
    read, heads, latest ──► four reader threads, each with a connection

Every call of SQLite is in a thread, so that a slow disk never stops the event loop. The threads
are this log's own: none takes a token of Trio's default limiter.
"""

from __future__ import annotations

import os
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

import trio

from flowstream.abc import (
    Appended,
    Head,
    Hint,
    LatestPage,
    Lease,
    Log,
    LogEntry,
    Position,
    Record,
    Stale,
)
from flowstream.limits import Replay, check_positive
from flowstream.logs import _sqlite_append as jobs
from flowstream.logs import _sqlite_leases as leases
from flowstream.logs._append_arguments import (
    check_append,
    check_limit,
    check_topic,
    check_topics,
)
from flowstream.logs._bells import Bells
from flowstream.logs._lease_rules import check_beat, check_claim, check_seconds, check_token
from flowstream.logs._log_clock import LogClock
from flowstream.logs._log_run import LogRun, not_open
from flowstream.logs._sqlite_faults import fault
from flowstream.logs._sqlite_file import SQLiteFile, Synchronous
from flowstream.logs._sqlite_read import read_heads, read_latest, read_names, read_page
from flowstream.logs._sqlite_tail import SQLiteTail
from flowstream.logs._sqlite_transaction import Transaction
from flowstream.logs._sqlite_writer import SQLiteWriter

T = TypeVar("T")

# Before all events: what proves nothing.
_NOWHERE: Position = ("", 0)

# Threads that read, for all topics: a disk gets no faster by more.
_READERS = 4


class SQLiteLog(Log):
    """A log in a file, for any number of processes on one machine.

    Beside the file lie ``-wal`` and ``-shm``, which are SQLite's, and the folder ``-bells``. All
    processes must run as one user. The file must be on a disk of the machine.

    Args:
        path: the file; it is made if it is not there, its folder is not.
        synchronous: ``"FULL"`` flushes each commit to the disk: what `append` returned survives a
            power cut. ``"NORMAL"`` does not flush: it survives the end of any process, and if the
            machine itself ends, the last events may be lost. Then topics begin a new epoch.
        patience: seconds that `append` waits while another program has the file locked.

    Attributes:
        path: the file, from the root.

    Raises:
        TypeError, ValueError: an argument is none of these.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        synchronous: Synchronous = "FULL",
        *,
        patience: float = 5.0,
    ) -> None:
        name = os.fspath(path) if isinstance(path, os.PathLike) else path
        if not isinstance(name, str):
            raise TypeError(f"path must be a str or a Path, not {type(path).__name__}")
        if not name or name == ":memory:" or "\0" in name:
            raise ValueError(f"path must name a file, not {name!r}: for memory, write MemoryLog()")
        if synchronous not in ("FULL", "NORMAL"):
            raise ValueError(f"synchronous must be 'FULL' or 'NORMAL', not {synchronous!r}")
        self.path: str = os.path.abspath(name)
        check_positive("patience", patience, unit="seconds")
        self._patience = patience
        self._file = SQLiteFile(self.path, synchronous, LogClock())
        self._open: _OpenLog | None = None
        self._running = LogRun()

    async def run(  # noqa: ASYNC114  # `open_log` starts it
        self, hint: Hint, stale: Stale, *, task_status: Any = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Hold the log open: see `flowstream.abc.Log.run`.

        Raises:
            LogUnavailableError: the file can't be used; the message says why.
        """
        with self._running.hold():
            await _in_thread(self._file.prepare)
            bells = await _in_thread(partial(Bells, self._file.path))
            opened = _OpenLog(self._file, bells, self._patience, hint, stale)
            try:
                await _in_thread(opened.tail.start)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_in_thread, opened.writer.work)
                    nursery.start_soon(_in_thread, opened.tail.work)
                    try:
                        await opened.writer.submit(_look)
                        self._open = opened
                        task_status.started()
                        await trio.sleep_forever()
                    finally:
                        self._open = None
                        opened.stop()
            finally:
                opened.close()

    async def append(
        self,
        topic: str,
        entries: Sequence[LogEntry],
        *,
        keep: Replay,
        token: str,
        fence: int | None = None,
    ) -> list[Appended]:
        """Append all entries or none: see `flowstream.abc.Log.append`."""
        opened = self._opened()
        size = check_append(topic, entries, keep, token)
        if fence is not None:
            check_token("fence", fence)
            fenced = partial(
                leases.append,
                name=topic,
                entries=tuple(entries),
                keep=keep,
                token=token,
                fence=fence,
            )
            return await opened.writer.submit(fenced, size)
        if not entries:
            await trio.lowlevel.checkpoint()
            return []
        work = partial(jobs.append, name=topic, entries=tuple(entries), keep=keep, token=token)
        return await opened.writer.submit(work, size)

    async def read(
        self, topic: str, after: Position, limit: int, *, mine: bool = False
    ) -> tuple[Head, bool, list[Record]]:
        """Return what follows `after`: see `flowstream.abc.Log.read`."""
        opened = self._opened()
        check_topic(topic)
        check_limit(limit)
        work = partial(read_page, clock=self._file.clock, name=topic, after=after, limit=limit)
        page = await opened.read(work)
        if page.passed or (mine and page.evidence):
            position = after if mine else _NOWHERE
            await opened.writer.submit(partial(jobs.touch, name=topic, after=position))
            page = await opened.read(work)
        return page.head, page.known, page.records

    async def heads(self, topics: Iterable[str]) -> dict[str, Head]:
        """Return each topic's head: see `flowstream.abc.Log.heads`."""
        opened = self._opened()
        names = check_topics(topics)
        work = partial(read_heads, clock=self._file.clock, names=names)
        heads, passed = await opened.read(work)
        if passed:
            for name in passed:
                await opened.writer.submit(partial(jobs.touch, name=name, after=_NOWHERE))
            heads, _ = await opened.read(work)
        return heads

    async def watch(self, topics: Iterable[str]) -> None:
        """Have hints of these topics: see `flowstream.abc.Log.watch`."""
        self._opened().tail.watch(check_topics(topics))
        await trio.lowlevel.checkpoint()

    async def unwatch(self, topics: Iterable[str]) -> None:
        """Have no more hints of these topics."""
        self._opened().tail.unwatch(check_topics(topics))
        await trio.lowlevel.checkpoint()

    async def latest(self, topic: str, cursor: str | None = None) -> LatestPage:
        """Return the newest events by key: see `flowstream.abc.Log.latest`."""
        opened = self._opened()
        check_topic(topic)
        work = partial(read_latest, clock=self._file.clock, name=topic, cursor=cursor or "")
        page, passed = await opened.read(work)
        if passed:
            await opened.writer.submit(partial(jobs.touch, name=topic, after=_NOWHERE))
            page, _ = await opened.read(work)
        return page

    async def topics(
        self, prefix: str = "", cursor: str | None = None
    ) -> tuple[list[str], str | None]:
        """Return names of topics: see `flowstream.abc.Log.topics`."""
        opened = self._opened()
        return await opened.read(
            partial(read_names, clock=self._file.clock, prefix=prefix, cursor=cursor or "")
        )

    async def trim(self, topic: str, keep: Replay | None = None) -> int:
        """Forget what is not kept: see `flowstream.abc.Log.trim`."""
        opened = self._opened()
        check_topic(topic)
        return await opened.writer.submit(partial(jobs.trim, name=topic, keep=keep))

    async def delete(self, topic: str) -> None:
        """Forget the topic: see `flowstream.abc.Log.delete`."""
        opened = self._opened()
        check_topic(topic)
        await opened.writer.submit(partial(jobs.delete, name=topic))

    async def claim(
        self, topic: str, owner: str, *, seconds: float, instead: int | None = None
    ) -> Lease:
        """Take the topic's lease, if it has none: see `flowstream.abc.Log.claim`."""
        opened = self._opened()
        check_claim(topic, owner, seconds, instead)
        return await opened.writer.submit(
            partial(leases.claim, name=topic, owner=owner, seconds=seconds, instead=instead)
        )

    async def beat(
        self, owner: str, tokens: Mapping[str, int], *, seconds: float
    ) -> dict[str, Lease | None]:
        """Renew leases: see `flowstream.abc.Log.beat`."""
        opened = self._opened()
        check_beat(owner, tokens, seconds)
        return await opened.writer.submit(
            partial(leases.beat, owner=owner, tokens=dict(tokens), seconds=seconds)
        )

    async def end(
        self,
        topic: str,
        fence: int,
        entry: LogEntry,
        *,
        keep: Replay,
        token: str,
        seconds: float,
        lapsed: bool = False,
    ) -> Lease | None:
        """Append the last event and end the lease: see `flowstream.abc.Log.end`."""
        opened = self._opened()
        size = check_append(topic, [entry], keep, token)
        check_token("fence", fence)
        check_seconds(seconds)
        work = partial(
            leases.end,
            name=topic,
            fence=fence,
            entry=entry,
            keep=keep,
            token=token,
            seconds=seconds,
            lapsed=lapsed,
        )
        return await opened.writer.submit(work, size)

    async def leases(self, topics: Iterable[str]) -> dict[str, Lease | None]:
        """Return each topic's lease: see `flowstream.abc.Log.leases`."""
        opened = self._opened()
        names = check_topics(topics)
        return await opened.read(partial(leases.read_leases, clock=self._file.clock, names=names))

    async def new_epoch(self) -> None:
        """Have every topic begin a new epoch, for a file that was restored from a copy.

        What was appended after the copy was made is gone, and its numbers will be given again.
        Nobody can tell that by the file alone if no process lived through it. Clients that had such
        events are then told that they missed some.

        Raises:
            LogUnavailableError: the file can't be written.
        """
        await self._opened().writer.submit(Transaction.begin_life)

    async def aclose(self) -> None:
        """End `run`, and wait until it has returned."""
        await self._running.close()

    def _opened(self) -> _OpenLog:
        if self._open is None:
            raise not_open()
        return self._open


class _OpenLog:
    """What an open log has: a writer, a tail, and connections to read with."""

    def __init__(
        self, file: SQLiteFile, bells: Bells, patience: float, hint: Hint, stale: Stale
    ) -> None:
        self.writer = SQLiteWriter(file, bells, patience)
        self.tail = SQLiteTail(file, bells, self.writer, hint, stale)
        self._file = file
        self._bells = bells
        self._patience = patience
        self._limiter = trio.CapacityLimiter(_READERS)
        self._idle: deque[tuple[tuple[int, int], sqlite3.Connection]] = deque()

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call `work` with a connection, in a thread, and **wait** for what it returns."""
        return await trio.to_thread.run_sync(self._read, work, limiter=self._limiter)

    def stop(self) -> None:
        """Have the threads return, soon."""
        self.writer.stop()
        self._bells.stop()

    def close(self) -> None:
        """Close the connections and the bells. The threads must have returned."""
        self.tail.close()
        while self._idle:
            self._idle.pop()[1].close()
        self._bells.close()

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        identity = self._file.identity()
        try:
            with ExitStack() as stack:
                db = self._idle_one(identity) or self._file.connect(self._patience)
                stack.callback(db.close)
                found = work(db)
                stack.pop_all()  # it is as good as new
        except sqlite3.Error as error:
            raise fault(self._file.path, error) from error
        self._idle.append((identity, db))
        return found

    def _idle_one(self, identity: tuple[int, int]) -> sqlite3.Connection | None:
        """Return a connection that nobody uses; those to a file that was replaced are closed."""
        while self._idle:
            of, db = self._idle.pop()
            if of == identity:
                return db
            db.close()
        return None


async def _in_thread(function: Callable[[], T]) -> T:
    """Call a function that returns soon, or when the log is closed, in a thread of its own."""
    return await trio.to_thread.run_sync(function, limiter=trio.CapacityLimiter(1))


def _look(tx: Transaction) -> None:
    """Do nothing; the transaction sees whether the log may have lost something."""
