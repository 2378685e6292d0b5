"""Full disks, files that can't be written, locks that others hold: each has its sentence."""

from __future__ import annotations

import logging
import os
import resource
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from flowstream import Replay
from flowstream.abc import Appended, Log, LogEntry
from flowstream.logs import LogFullError, LogUnavailableError, SQLiteLog, open_log
from flowstream.logs import _sqlite_file as sqlite_file
from flowstream.logs import _sqlite_log as sqlite_log
from flowstream.logs._file_system import magic_number, warning, why_refused
from flowstream.logs._sqlite_faults import fault

KEEP = Replay(items=10**6, bytes=1 << 40)


async def append(log: Log, data: bytes, token: str) -> Appended:
    (done,) = await log.append("news", [LogEntry(data)], keep=KEEP, token=token)
    return done


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 1 MiB; skip where that needs rights that the test has not (CI has them)."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        if os.environ.get("CI"):
            pytest.fail("CI can't mount a tmpfs")
        pytest.skip("only root can mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


async def test_a_full_disk(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`LogFullError` says so, nothing acknowledged is lost, and with room it goes on."""
    with caplog.at_level(logging.WARNING):
        async with open_log(SQLiteLog(small_disk / "events.db")) as log:
            assert "tmpfs, and dies with the container" in caplog.text
            count = 0
            with pytest.raises(LogFullError, match="is full: make room") as raised:  # noqa: PT012
                for count in range(200):
                    await append(log, bytes(20_000), f"t{count}")
            assert raised.value.maybe is False
            assert 5 < count < 100
            with pytest.raises(LogFullError):
                await append(log, bytes(200_000), "large")
            head = (await log.heads(["news"]))["news"]
            assert head.number == count
            remount(small_disk, "size=4m")
            assert (await append(log, bytes(20_000), f"t{count}")).number == count + 1
            assert (await append(log, bytes(20_000), "t0")).number == 1
    async with open_log(SQLiteLog(small_disk / "events.db")) as log:
        assert (await log.heads(["news"]))["news"].number == count + 1


async def test_a_small_append_fits_beside_one_that_does_not(small_disk: Path) -> None:
    """Jobs of one batch share a transaction, but not its failure."""
    results: dict[int, object] = {}
    async with open_log(SQLiteLog(small_disk / "events.db")) as log:
        await append(log, b"x", "first")

        async def one(number: int, size: int) -> None:
            try:
                results[number] = (await append(log, bytes(size), f"t{number}")).number
            except LogFullError:
                results[number] = "full"

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(one, number, 3_000_000 if number == 5 else 10)
    assert results.pop(5) == "full"
    assert sorted(results.values()) == list(range(2, 13))  # type: ignore[type-var]


async def test_a_disk_that_becomes_read_only(small_disk: Path) -> None:
    """Opening says so, whether the files -wal and -shm lie there or not, and works when it can be
    written again."""
    path = small_disk / "events.db"
    async with open_log(SQLiteLog(path)) as log:
        await append(log, b"x", "1")
    for left in (False, True):
        if left:  # by a process that was killed
            for end in ("-wal", "-shm"):
                path.with_name(path.name + end).write_bytes(bytes(32 << 10 if end == "-shm" else 0))
        remount(small_disk, "ro")
        with pytest.raises(LogUnavailableError, match="its disk is read-only"):
            async with open_log(SQLiteLog(path)):
                raise AssertionError
        remount(small_disk, "rw")
    async with open_log(SQLiteLog(path)) as log:
        assert (await append(log, b"x", "2")).number == 2


async def test_a_file_that_another_program_has_locked(tmp_path: Path) -> None:
    """After `patience` the error says so, nothing was appended, and then it works."""
    path = tmp_path / "events.db"
    async with open_log(SQLiteLog(path, patience=0.2)) as log:
        await append(log, b"x", "1")
        other = sqlite3.connect(path, isolation_level=None)
        try:
            other.execute("begin immediate")
            with pytest.raises(
                LogUnavailableError, match=r"locked by another process for 0\.2 s"
            ) as e:
                await append(log, b"x", "2")
            assert e.value.maybe is False
            assert (await log.heads(["news"]))["news"].number == 1  # who reads does not wait
            other.execute("rollback")
        finally:
            other.close()
        assert (await append(log, b"x", "2")).number == 2


async def test_closing_does_not_wait_for_a_lock(tmp_path: Path) -> None:
    """A log whose file is locked closes at once, and the append that waited fails."""
    path = tmp_path / "events.db"
    failed: list[LogUnavailableError] = []
    other = sqlite3.connect(path, isolation_level=None)
    try:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:  # noqa: SIM117  # the log closes first
                async with open_log(SQLiteLog(path, patience=3600)) as log:
                    await append(log, b"x", "1")
                    other.execute("begin immediate")

                    async def wait() -> None:
                        try:
                            await append(log, b"x", "2")
                        except LogUnavailableError as error:
                            failed.append(error)

                    nursery.start_soon(wait)
                    await trio.testing.wait_all_tasks_blocked(0.05)
    finally:
        other.close()
    assert "closed before this was appended" in str(failed[0])


# As linux/magic.h and the sources of each have them.
NETWORK = [
    (0x6969, "NFS"),
    (0x517B, "SMB"),
    (0xFE534D42, "SMB"),
    (0xFF534D42, "CIFS"),
    (0x5346414F, "AFS"),
    (0x73757245, "Coda"),
    (0x00C36400, "Ceph"),
    (0x01021997, "9P"),
    (0x786F4256, "VirtualBox"),
    (0x0BD00BD0, "Lustre"),
    (0x47504653, "GPFS"),
    (0x7461636F, "OCFS2"),
    (0x01161970, "GFS2"),
    (0x19830326, "BeeGFS"),
]


@pytest.mark.parametrize(("magic", "kind"), NETWORK)
async def test_a_network_file_system_is_refused(
    magic: int, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is made there, and the message says where to put the file."""
    monkeypatch.setattr(sqlite_file, "magic_number", lambda path: magic)
    says = rf"on a network file system \({kind}.*disk of this machine"
    with pytest.raises(LogUnavailableError, match=says):
        async with open_log(SQLiteLog(tmp_path / "events.db")):
            raise AssertionError
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("magic", "says"),
    [
        (0x794C7630, "overlayfs, and dies with the container"),
        (0x01021994, "tmpfs, and dies with the container"),
        (0x858458F6, "ramfs, and dies with the container"),
        (0x65735546, "FUSE, which may be a network file system"),
    ],
)
async def test_what_dies_with_its_container_is_warned_of(
    magic: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It works, and the log says what will be lost."""
    monkeypatch.setattr(sqlite_file, "magic_number", lambda path: magic)
    with caplog.at_level(logging.WARNING):
        async with open_log(SQLiteLog(tmp_path / "events.db")) as log:
            await append(log, b"x", "1")
    assert f"is on {says}" in caplog.text


def test_the_magic_number_is_the_kernels(small_disk: Path) -> None:
    """A tmpfs has that of linux/magic.h; a path that is not there raises."""
    assert magic_number(str(small_disk)) == 0x01021994
    assert why_refused(0x01021994) is None
    assert (warning(None), why_refused(None), warning(0xEF53)) == (None, None, None)
    with pytest.raises(FileNotFoundError):
        magic_number(str(small_disk / "none"))


async def test_places_where_no_file_can_be(tmp_path: Path) -> None:
    """A folder that is missing, a folder for a file, another program's database, no database."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("this is no database, and longer than a header of SQLite " * 9)
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("create table mine(x)")
    other.close()
    for path, says in (
        ("none/events.db", "there is no folder .*none"),
        ("folder", "is a folder: name a file in it"),
        ("text", "is not a log, or is damaged"),
        ("other.db", "another program's SQLite database"),
    ):
        with pytest.raises(LogUnavailableError, match=says):
            async with open_log(SQLiteLog(tmp_path / path)):
                raise AssertionError(path)
    other = sqlite3.connect(tmp_path / "other.db")
    assert other.execute("select name from sqlite_master").fetchall() == [("mine",)]
    assert other.execute("pragma journal_mode").fetchall() == [("delete",)]
    other.close()


async def test_the_file_says_which_program_made_it_and_in_which_version(tmp_path: Path) -> None:
    """Other releases, and `file`, read it at the places that SQLite has for that."""
    path = tmp_path / "events.db"
    async with open_log(SQLiteLog(path)):
        pass
    header = path.read_bytes()[:100]
    assert (header[68:72], header[60:64]) == (b"fslg", bytes([0, 0, 0, 1]))


async def test_a_file_of_a_later_release_is_refused(tmp_path: Path) -> None:
    """It is not changed, and the message says what to install."""
    path = tmp_path / "events.db"
    async with open_log(SQLiteLog(path)):
        pass
    db = sqlite3.connect(path)
    db.execute("pragma user_version=2")
    db.close()
    with pytest.raises(LogUnavailableError, match="later release of flowstream"):
        async with open_log(SQLiteLog(path)):
            raise AssertionError


async def test_a_file_that_is_moved_away(tmp_path: Path) -> None:
    """Nothing is written into a file that has no name, and it works when it is back."""
    path = tmp_path / "events.db"
    async with open_log(SQLiteLog(path)) as log:
        await append(log, b"x", "1")
        path.rename(tmp_path / "elsewhere")
        with pytest.raises(LogUnavailableError, match="was moved or deleted"):
            await append(log, b"x", "2")
        with pytest.raises(LogUnavailableError, match="was moved or deleted"):
            await log.heads(["news"])
        (tmp_path / "elsewhere").rename(path)
        assert (await append(log, b"x", "2")).number == 2


def test_an_io_error_of_a_commit_may_have_stored_it() -> None:
    """Of a statement before the commit it has not."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
    assert fault("/e.db", error, committing=True).maybe is True
    assert fault("/e.db", error).maybe is False
    assert "kernel's log" in str(fault("/e.db", error))


def sqlite_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    error.sqlite_errorname = f"SQLITE {code}"
    return error


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMMAP])
def test_an_index_that_can_not_grow_is_a_full_disk_only_where_the_disk_is_full(
    code: int, small_disk: Path
) -> None:
    """Else the disk fails, and to make room would not help."""
    path = str(small_disk / "events.db")
    found = fault(path, sqlite_error(code))
    assert not isinstance(found, LogFullError)
    assert "kernel's log" in str(found)
    (small_disk / "large").write_bytes(bytes(1 << 20))
    assert isinstance(fault(path, sqlite_error(code)), LogFullError)


@pytest.mark.parametrize("name", ["events.db", "events.db-wal"])
def test_a_write_that_fails_at_the_bound_of_a_file_says_which_bound(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite writes 64 KiB and the 24 bytes of a frame at once; a file further off is not it."""
    path = str(tmp_path / "events.db")
    (tmp_path / name).write_bytes(bytes(100_000))
    write = sqlite_error(sqlite3.SQLITE_IOERR_WRITE)
    for bound, full in ((165_560, True), (165_561, False), (resource.RLIM_INFINITY, False)):
        monkeypatch.setattr(resource, "getrlimit", lambda which, bound=bound: (bound, bound))
        found = fault(path, write)
        assert isinstance(found, LogFullError) is full
        assert ("165,560 bytes: raise the limit" in str(found)) is full


def test_a_disk_without_room_for_a_file_s_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk may be full of small files; where kinds of disks count none, that is not it."""
    path = str(tmp_path / "events.db")
    real = os.statvfs(tmp_path)
    for files, free, full in ((1000, 0, True), (1000, 1, False), (0, 0, False)):
        values = [*real[:5], files, free, *real[7:]]
        monkeypatch.setattr(os, "statvfs", lambda path, values=values: os.statvfs_result(values))
        found = str(fault(path, sqlite_error(sqlite3.SQLITE_CANTOPEN)))
        assert ("has no room for one more file" in found) is full
        assert ("can't be opened by user" in found) is not full


async def test_a_read_that_fails_says_why_and_the_next_one_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the sentence that an append would have, and its connection is not used again."""
    used: list[sqlite3.Connection] = []

    def broken(db: sqlite3.Connection, **arguments: object) -> None:
        used.append(db)
        raise sqlite_error(sqlite3.SQLITE_IOERR_READ)

    async with open_log(SQLiteLog(tmp_path / "events.db")) as log:
        await append(log, b"x", "1")
        with monkeypatch.context() as patch:
            patch.setattr(sqlite_log, "read_heads", broken)
            with pytest.raises(
                LogUnavailableError, match=r"the disk that .*events\.db is on fails"
            ):
                await log.heads(["news"])
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            used[0].execute("select 1")
        assert (await log.heads(["news"]))["news"].number == 1


async def test_the_wal_is_cut_behind_a_burst(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a burst took on the disk is given back, but for a bound."""
    monkeypatch.setattr(sqlite_file, "_WAL_BYTES", 100_000)
    monkeypatch.setattr(sqlite_file, "_CHECKPOINT_PAGES", 20)
    wal = tmp_path / "events.db-wal"
    async with open_log(SQLiteLog(tmp_path / "events.db")) as log:
        await append(log, bytes(5_000_000), "burst")
        assert wal.stat().st_size > 5_000_000
        for number in range(100):  # a reader may hold it back at one moment
            await append(log, bytes(20_000), f"{number}")
        assert wal.stat().st_size < 1_000_000
