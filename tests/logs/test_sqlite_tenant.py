"""A log that this process's user can't write, and limits of a process: on the real thing."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from flowstream import Replay
from flowstream.abc import Log, LogEntry
from flowstream.logs import LogUnavailableError, SQLiteLog, open_log

TENANT = Path(__file__).with_name("_tenant.py")
NOBODY = 65534

as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


def tenant(path: Path, *, user: int = 0, bound: int = 0) -> list[str]:
    """Return what the process printed."""
    command = [sys.executable, str(TENANT), str(path), str(user), str(bound)]
    # What counts lines in CI would write them down as that user, who may not.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COV")}
    found = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert found.stderr == ""
    return found.stdout.splitlines()


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user can reach and write in."""
    with tempfile.TemporaryDirectory(prefix="log-") as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


async def append(log: Log, token: str) -> int:
    (done,) = await log.append("news", [LogEntry(b"x")], keep=Replay(), token=token)
    return done.number


async def make(path: Path) -> None:
    async with open_log(SQLiteLog(path)) as log:
        await append(log, "1")


@as_root
def test_a_user_who_may_do_everything(place: Path) -> None:
    """The control: as another user it works, with a bell."""
    assert tenant(place / "events.db", user=NOBODY) == ["appended"]


@as_root
def test_a_file_that_the_user_can_not_write(place: Path) -> None:
    """The message names the user, the file, and the files beside it; nothing is appended."""
    path = place / "events.db"
    trio.run(make, path)
    path.chmod(0o644)
    said = tenant(path, user=NOBODY)[-1]
    assert said.startswith("LogUnavailableError False: ")
    assert f"{path} can't be written by user {NOBODY}" in said
    assert "-wal and -shm" in said
    path.chmod(0o000)
    (said,) = tenant(path, user=NOBODY)
    assert f"{path} can't be opened by user {NOBODY}" in said


@as_root
def test_a_folder_that_the_user_can_not_write(place: Path) -> None:
    """SQLite makes files beside the log's: the message names the folder."""
    place.chmod(0o755)
    (said,) = tenant(place / "events.db", user=NOBODY)
    assert f"user {NOBODY} can't write in the folder {place}" in said
    place.chmod(0o777)
    trio.run(make, place / "events.db")
    (place / "events.db").chmod(0o666)
    place.chmod(0o755)
    said = tenant(place / "events.db", user=NOBODY)[-1]
    assert "the file and its folder must be writable, also for the files -wal and -shm" in said


@as_root
def test_bells_of_another_user(place: Path) -> None:
    """The log works without them, and says that events come later."""
    path = place / "events.db"
    trio.run(make, path)
    path.chmod(0o666)
    warned, appended = tenant(path, user=NOBODY)
    assert f"{path}-bells can't be used" in warned
    assert "up to 250 ms late" in warned
    assert appended == "appended"


def test_a_bound_of_a_file_s_size(place: Path) -> None:
    """It is `LogFullError`, what was acknowledged is there, and with a higher bound it goes on."""
    said, whole, appended = tenant(place / "events.db", bound=300_000)
    assert said.startswith("LogFullError False: ")
    assert "larger than this process may write, 300,000 bytes: raise the limit" in said
    assert (whole, appended) == ("True", "appended")


@pytest.mark.parametrize("how", ["replaced", "overwritten"])
async def test_another_file_in_its_place(how: str, tmp_path: Path) -> None:
    """Neither an empty file nor another program's is written to; the log itself works again."""
    path, away = tmp_path / "events.db", tmp_path / "away.db"
    async with open_log(SQLiteLog(path)) as log:
        await append(log, "1")
        path.rename(away)
        for beside in ("-wal", "-shm"):
            os.rename(f"{path}{beside}", f"{away}{beside}")
        path.touch()
        for call in (append(log, "2"), log.heads(["news"])):
            with pytest.raises(LogUnavailableError, match=r"replaced by an empty file .* put it"):
                await call
        assert path.read_bytes() == b""
        path.write_text("no database, and longer than the header of a file of SQLite " * 99)
        before = path.read_bytes()
        with pytest.raises(LogUnavailableError, match="not a log, or is damaged"):
            await append(log, "2")
        assert path.read_bytes() == before
        for beside in ("-wal", "-shm"):
            os.rename(f"{away}{beside}", f"{path}{beside}")
        away.rename(path)
        assert await append(log, "2") == 2


async def test_a_file_that_is_deleted(tmp_path: Path) -> None:
    """It is not made anew behind the app's back: another process could have the old one open."""
    path = tmp_path / "events.db"
    async with open_log(SQLiteLog(path)) as log:
        await append(log, "1")
        path.unlink()
        with pytest.raises(LogUnavailableError, match="moved or deleted while it is in use"):
            await append(log, "2")
        assert not path.exists()


@as_root
def test_a_disk_without_room_for_one_more_file(tmp_path: Path) -> None:
    """There are bytes, and no names: SQLite says that it can't open, and the message says why."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = "size=8m,nr_inodes=2"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        if os.environ.get("CI"):
            pytest.fail("CI can't mount a tmpfs")
        pytest.skip("a tmpfs can't be mounted here")
    try:
        said = tenant(folder / "events.db")[-1]
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
    assert "has no room for one more file: delete some there" in said
