"""Edges of the log on SQLite: tokens behind a delete, a replaced file's tail, a long backlog."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from flowstream import Replay
from flowstream.abc import LogEntry
from flowstream.logs import SQLiteLog, open_log
from flowstream.logs import _sqlite_retention as retention

Aeventually = Callable[..., Awaitable[None]]


async def test_a_token_behind_a_delete_is_new_though_all_is_one_batch(
    tmp_path: Path, aeventually: Aeventually
) -> None:
    """Append, delete, and the same append again, in one transaction: the second one counts."""
    found: list[int] = []
    path = tmp_path / "events.db"
    async with open_log(SQLiteLog(path, patience=60)) as log:

        async def append(token: str) -> None:
            (done,) = await log.append("news", [LogEntry(b"x")], keep=Replay(), token=token)
            found.append(done.number)

        await append("first")
        writer = log._open.writer  # type: ignore[attr-defined]
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("begin immediate")  # so the thread waits, and the rest is one batch
        async with trio.open_nursery() as nursery:
            nursery.start_soon(append, "waits")
            await trio.testing.wait_all_tasks_blocked(0.01)
            await aeventually(lambda: not writer._waiting, "it is taken")  # type: ignore[misc]
            for call in (partial(append, "t"), partial(log.delete, "news"), partial(append, "t")):
                nursery.start_soon(call)
                await trio.testing.wait_all_tasks_blocked(0.01)
            assert len(writer._waiting) == 3
            other.execute("rollback")
        other.close()
        assert sorted(found) == [1, 2, 3, 4]
        head = (await log.heads(["news"]))["news"]
        assert (head.number, head.first) == (4, 4)


async def test_who_reads_a_file_that_was_replaced_is_told_that_all_is_stale(
    tmp_path: Path, aeventually: Aeventually
) -> None:
    """What was in the old file is gone, and hints of the new one follow on nothing."""
    path, other = tmp_path / "events.db", tmp_path / "other.db"
    stale: list[str | None] = []
    async with open_log(SQLiteLog(other)) as log:
        await log.append("news", [LogEntry(b"new")], keep=Replay(), token="t")
    async with open_log(SQLiteLog(path), stale=stale.append) as log:
        await log.watch(["news"])
        await log.append("news", [LogEntry(b"old")], keep=Replay(), token="t")
        for name in (path, f"{path}-wal", f"{path}-shm"):
            os.unlink(name)
        os.rename(other, path)
        await aeventually(lambda: None in stale, "all is stale")  # type: ignore[misc]


async def test_a_backlog_is_deleted_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits long for the lock; what is left is due at once, and the newest part stays."""
    monkeypatch.setattr(retention, "_SWEEP_ROWS", 100)
    monkeypatch.setattr(retention, "PASSING_SECONDS", -1.0)
    async with open_log(SQLiteLog(tmp_path / "events.db")) as log:
        keep = Replay(items=1000)
        await log.append("news", [LogEntry(b"x")] * 950, keep=keep, token="t")
        await log.trim("news", Replay(items=10))
        writer = log._open.writer  # type: ignore[attr-defined]
        left: list[int] = []

        def count(tx: object) -> None:
            retention.sweep(tx)  # type: ignore[arg-type]
            found = tx.db.execute("select count(*), min(due) from event, topic")  # type: ignore[attr-defined]
            left.append(found.fetchone()[0])

        for _ in range(10):
            await writer.submit(count)
        assert left == [750, 650, 550, 450, 350, 250, 150, 50, 10, 10]
