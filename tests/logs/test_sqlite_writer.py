"""What the writer thread of a log on SQLite takes into one commit, and what it leaves alone."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from flowstream import Replay
from flowstream.abc import Log, LogEntry
from flowstream.logs import SQLiteLog, open_log

Aeventually = Callable[..., Awaitable[None]]
KEEP = Replay(items=10_000, bytes=1 << 30)


async def append(log: Log, token: str, size: int = 1) -> None:
    await log.append("news", [LogEntry(bytes(size))], keep=KEEP, token=token)


@asynccontextmanager
async def busy_writer(
    path: Path, aeventually: Aeventually
) -> AsyncIterator[tuple[Log, trio.Nursery, list[str]]]:
    """Have the thread wait for the lock with one append, until the block ends; then all is done.

    What the block starts waits for the next commit. The last value has the thread's statements.
    """
    async with open_log(SQLiteLog(path, patience=60)) as log:
        await append(log, "first")
        writer = log._open.writer  # type: ignore[attr-defined]
        statements: list[str] = []
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("begin immediate")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(append, log, "waits")
            await trio.testing.wait_all_tasks_blocked(0.01)
            await aeventually(lambda: not writer._waiting, "it is taken")
            yield log, nursery, statements
            writer._db.set_trace_callback(statements.append)
            other.execute("rollback")
        other.close()


@pytest.mark.parametrize(
    ("count", "size", "commits"),
    [(60, 10, 1), (256, 10, 1), (257, 10, 2), (3, 3 << 20, 3), (4, 2 << 20, 2), (1, 9 << 20, 1)],
)
async def test_appends_that_wait_share_commits(
    count: int, size: int, commits: int, tmp_path: Path, aeventually: Aeventually
) -> None:
    """Up to 256 appends, or 4 MiB, go into one; one that is larger goes alone."""
    async with busy_writer(tmp_path / "events.db", aeventually) as (log, nursery, statements):
        writer = log._open.writer  # type: ignore[attr-defined]
        rings = writer._bell.qsize()
        for number in range(count):
            nursery.start_soon(append, log, f"{number}", size)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert len(writer._waiting) == count
        assert writer._bell.qsize() == rings + 1  # one for all of them
    assert [one.lower() for one in statements].count("commit") == commits + 1


async def test_an_append_that_is_cancelled_before_it_is_taken_is_withdrawn(
    tmp_path: Path, aeventually: Aeventually
) -> None:
    """The one beside it, and the one that the thread has taken, are appended."""
    path = tmp_path / "events.db"
    async with busy_writer(path, aeventually) as (log, nursery, _):
        scope = trio.CancelScope()

        async def give_up() -> None:
            with scope:
                await append(log, "withdrawn")

        nursery.start_soon(give_up)
        nursery.start_soon(append, log, "beside")
        await trio.testing.wait_all_tasks_blocked(0.01)
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked(0.01)
    db = sqlite3.connect(path)
    tokens = {token for (token,) in db.execute("select token from token")}
    db.close()
    assert tokens == {"first", "waits", "beside"}


async def test_a_job_that_fails_fails_alone(tmp_path: Path, aeventually: Aeventually) -> None:
    """Those that share its commit are done, each once, and it gets its own error."""
    failed: list[str] = []

    async def fail(log: Log) -> None:
        def work(tx: object) -> None:
            raise KeyError("mine")

        try:
            await log._open.writer.submit(work)  # type: ignore[attr-defined]
        except KeyError as error:
            failed.append(str(error))

    path = tmp_path / "events.db"
    async with busy_writer(path, aeventually) as (log, nursery, _):
        for call in (partial(append, log, "a"), partial(fail, log), partial(append, log, "b")):
            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked(0.01)
    assert failed == ["'mine'"]
    db = sqlite3.connect(path)
    assert db.execute("select token, number from token order by number").fetchall() == [
        ("first", 1),
        ("waits", 2),
        ("a", 3),
        ("b", 4),
    ]
    db.close()
