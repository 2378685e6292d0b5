"""Leases in a file of SQLite: files of earlier releases, clocks, what is deleted and when."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from test_sqlite_lives import Machine

from flowstream import Replay
from flowstream.abc import Log, LogEntry
from flowstream.logs import FencedError, open_log
from flowstream.logs import _sqlite_retention as retention
from flowstream.logs import _sqlite_writer as sqlite_writer
from flowstream.logs._append_arguments import FORGET_SECONDS
from flowstream.logs._sqlite_inspection import reading
from flowstream.logs._sqlite_verification import verify

KEEP = Replay()


async def put(log: Log, fence: int, token: str) -> None:
    await log.append("run", [LogEntry(b"x")], keep=KEEP, token=token, fence=fence)


async def end(log: Log, fence: int, seconds: float, *, lapsed: bool = False) -> None:
    await log.end(
        "run", fence, LogEntry(b"end"), keep=KEEP, token="end", seconds=seconds, lapsed=lapsed
    )


def without_leases(machine: Machine) -> None:
    """Make the file one of the release before there were leases."""
    db = sqlite3.connect(machine._path)
    db.executescript("drop table lease; drop table fence")
    assert db.execute("pragma user_version").fetchone() == (1,)
    db.close()


async def test_a_file_of_an_earlier_release_goes_on_and_has_leases(tmp_path: Path) -> None:
    """What it had is there, and the tables are added when it is opened."""
    machine = Machine(tmp_path)
    async with open_log(machine.log()) as log:
        await log.append("news", [LogEntry(b"old")], keep=KEEP, token="t")
    without_leases(machine)
    with reading(str(machine._path)) as db:  # to look at it adds nothing
        assert list(verify(db, lambda done, total: None)) == []
    assert machine.tables("select name from sqlite_master where name = 'lease'") == []
    async with open_log(machine.log()) as log:
        assert (await log.heads(["news"]))["news"].number == 1
        lease = await log.claim("run", "ada", seconds=15)
        await put(log, lease.token, "a")
    assert machine.tables("select owner, token from lease") == [("ada", lease.token)]


async def test_a_copy_of_an_earlier_release_that_is_put_in_place_goes_on(tmp_path: Path) -> None:
    """A process that has the file open finds the tables missing, and adds them."""
    machine = Machine(tmp_path)
    async with open_log(machine.log()) as log:
        await log.append("news", [LogEntry(b"old")], keep=KEEP, token="t")
    without_leases(machine)
    old = machine._path.read_bytes()
    async with open_log(machine.log()) as log:
        machine._path.rename(tmp_path / "away.db")
        for name in ("events.db-wal", "events.db-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        machine._path.write_bytes(old)
        assert (await log.leases(["run"])) == {"run": None}
        lease = await log.claim("run", "ada", seconds=15)
        await put(log, lease.token, "a")


async def test_setting_the_date_neither_ends_nor_prolongs_a_lease(tmp_path: Path) -> None:
    """It lapses by the time since the machine booted, and tokens go on growing."""
    machine = Machine(tmp_path)
    async with open_log(machine.log()) as log:
        lease = await log.claim("run", "ada", seconds=15)
        for jump in (86400 * 365, -2 * 86400 * 365):
            machine.wall += jump
            found = (await log.leases(["run"]))["run"]
            assert found is not None
            assert found.seconds == pytest.approx(15)
            other = await log.claim(f"at {jump}", "ada", seconds=15)
            assert other.token > lease.token
            lease = other
        machine.later(15.1)
        found = (await log.leases(["run"]))["run"]
        assert found is not None
        assert found.seconds == pytest.approx(-0.1)


async def test_a_lease_lapses_while_the_machine_is_off(tmp_path: Path) -> None:
    """After the next boot the log goes on from the machine's date."""
    machine = Machine(tmp_path)
    async with open_log(machine.log()) as log:
        lease = await log.claim("run", "ada", seconds=15)
        await put(log, lease.token, "a")
    machine.restart()
    async with open_log(machine.log()) as log:
        found = (await log.leases(["run"]))["run"]
        assert found is not None
        assert found.seconds < 0
        await end(log, lease.token, 60, lapsed=True)
        with pytest.raises(FencedError):
            await put(log, lease.token, "b")
        assert (await log.claim("other", "ada", seconds=15)).token > lease.token


async def test_a_token_is_not_given_again_by_an_older_copy(tmp_path: Path) -> None:
    """The copy has forgotten the last tokens; the clock has gone on."""
    machine = Machine(tmp_path)
    async with open_log(machine.log()) as log:
        await log.claim("first", "ada", seconds=15)
    copy = machine._path.read_bytes()
    machine.later(1)
    async with open_log(machine.log()) as log:
        lease = await log.claim("run", "ada", seconds=15)
    machine._path.write_bytes(copy)
    machine.later(1)
    async with open_log(machine.log()) as log:
        assert (await log.claim("run", "bob", seconds=15)).token > lease.token


@pytest.mark.parametrize("is_ended", [True, False])
async def test_what_is_forgotten_is_deleted_by_the_sweep(tmp_path: Path, is_ended: bool) -> None:
    """An ended lease goes after its seconds, one that nobody ended after a week; not before."""
    machine = Machine(tmp_path)
    async with open_log(machine.log()) as log:
        lease = await log.claim("run", "ada", seconds=15)
        await put(log, lease.token, "a")
        if is_ended:
            await end(log, lease.token, 60)
        writer: sqlite_writer.SQLiteWriter = log._open.writer  # type: ignore[attr-defined]
        wait = 60 if is_ended else 15 + FORGET_SECONDS
        machine.later(wait - 1)
        await writer.submit(retention.sweep)
        assert machine.tables("select count(*) from lease") == [(1,)]
        assert (await log.topics()) == (["run"], None)
        machine.later(1.5)
        assert (await log.topics()) == ([], None)
        await writer.submit(retention.sweep)
    for table in ("lease", "topic", "event where number is not null", "token"):
        assert machine.tables(f"select count(*) from {table}") == [(0,)], table


async def test_a_topic_with_a_lease_is_not_forgotten_for_want_of_events(tmp_path: Path) -> None:
    """A run that says nothing for a month, and lives, keeps its epoch and its numbers."""
    machine = Machine(tmp_path)
    async with open_log(machine.log()) as log:
        lease = await log.claim("run", "ada", seconds=15)
        keep = Replay(seconds=60)
        for token in ("a", "b"):
            await log.append("run", [LogEntry(b"x")], keep=keep, token=token, fence=lease.token)
            before = (await log.heads(["run"]))["run"]
            writer: sqlite_writer.SQLiteWriter = log._open.writer  # type: ignore[attr-defined]
            for _ in range(10):
                machine.later(3 * 86400)
                await log.beat("ada", {"run": lease.token}, seconds=15)
                await writer.submit(retention.sweep)
            after = (await log.heads(["run"]))["run"]
            assert after == (before.epochs, before.number, before.number + 1)


async def test_much_that_is_forgotten_is_deleted_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits long for the lock."""
    monkeypatch.setattr(retention, "_SWEEP_ROWS", 100)
    machine = Machine(tmp_path)
    async with open_log(machine.log()) as log:
        for number in range(5):
            name = f"run {number}"
            lease = await log.claim(name, "ada", seconds=15)
            entries = [LogEntry(b"x")] * 90
            await log.append(name, entries, keep=KEEP, token="t", fence=lease.token)
            entry = LogEntry(b"end")
            await log.end(name, lease.token, entry, keep=KEEP, token="end", seconds=60)
        machine.later(61)
        writer: sqlite_writer.SQLiteWriter = log._open.writer  # type: ignore[attr-defined]
        left = []
        for _ in range(3):
            await writer.submit(retention.sweep)
            left += machine.tables("select count(*) from lease")
        assert left == [(3,), (1,), (0,)]


async def test_a_wrong_token_in_the_file_is_found(tmp_path: Path) -> None:
    """`flowstream log verify` says that a lease has a token that was never given."""
    machine = Machine(tmp_path)
    async with open_log(machine.log()) as log:
        await log.claim("run", "ada", seconds=15)
    db = sqlite3.connect(machine._path)
    with db:
        db.execute("update fence set token = 5")
    db.close()
    with reading(str(machine._path)) as db:
        (finding,) = verify(db, lambda done, total: None)
    assert "'run'" in finding
    assert "token" in finding
