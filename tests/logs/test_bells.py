"""Bells: who rings, who hears, and which are taken down."""

from __future__ import annotations

import logging
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowstream._clock import clock
from flowstream.logs._bells import OLD_SECONDS, Bells


@pytest.fixture
def hung(tmp_path: Path) -> Iterator[list[Bells]]:
    """Close at the end what was hung in the test."""
    found: list[Bells] = []
    yield found
    for bells in found:
        bells.close()


def test_a_ring_is_heard_by_all_and_once(tmp_path: Path, hung: list[Bells]) -> None:
    """Rings that nobody has heard yet are one."""
    hung += [Bells(str(tmp_path / "e.db")) for _ in range(3)]
    for _ in range(1000):
        hung[0].ring()
    for bells in hung:
        assert bells._poll.poll(1000)
        assert bells.wait(0)
        assert not bells._poll.poll(0)


def test_the_folder_is_for_one_user(tmp_path: Path, hung: list[Bells]) -> None:
    """Nobody else can ring, and each bell's name is random."""
    hung += [Bells(str(tmp_path / "e.db")) for _ in range(2)]
    folder = tmp_path / "e.db-bells"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    names = os.listdir(folder)
    assert len(names) == 2
    assert all(len(name) == 16 and str(os.getpid()) != name for name in names)


@pytest.mark.parametrize("mode", [0o755, 0o777, 0o770])
def test_a_folder_that_others_can_use_is_not_used(
    mode: int, tmp_path: Path, hung: list[Bells], caplog: pytest.LogCaptureFixture
) -> None:
    """The log works without bells, and says that it is slower."""
    folder = tmp_path / "e.db-bells"
    folder.mkdir()
    folder.chmod(mode)
    with caplog.at_level(logging.WARNING):
        hung.append(Bells(str(tmp_path / "e.db")))
    assert "up to 250 ms late" in caplog.text
    hung[0].ring()
    assert hung[0].wait(0)
    assert os.listdir(folder) == []


def test_a_link_in_place_of_the_folder_is_not_followed(
    tmp_path: Path, hung: list[Bells], caplog: pytest.LogCaptureFixture
) -> None:
    """Else somebody could choose where sockets are made."""
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "e.db-bells").symlink_to(tmp_path / "elsewhere")
    with caplog.at_level(logging.WARNING):
        hung.append(Bells(str(tmp_path / "e.db")))
    assert "up to 250 ms late" in caplog.text
    assert os.listdir(tmp_path / "elsewhere") == []


def test_a_path_that_is_too_long_for_a_socket(tmp_path: Path, hung: list[Bells]) -> None:
    """It is reached by way of the folder's descriptor."""
    long = tmp_path / ("d" * 100) / ("e" * 100)
    long.mkdir(parents=True)
    hung += [Bells(str(long / "e.db")) for _ in range(2)]
    assert len(os.listdir(long / "e.db-bells")) == 2
    hung[0].ring()
    assert all(bells._poll.poll(1000) for bells in hung)


def test_a_bell_that_nobody_listens_to_is_taken_down_when_it_is_old(
    tmp_path: Path, hung: list[Bells]
) -> None:
    """One that may just be hung is left, and so is an old one that is heard."""
    hung += [Bells(str(tmp_path / "e.db")) for _ in range(2)]
    folder = tmp_path / "e.db-bells"
    (mine, other) = sorted(os.listdir(folder))
    old = os.stat(folder).st_mtime - OLD_SECONDS - 10
    for name in ("dead and old", "dead and new"):
        dead = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        dead.bind(str(folder / name))
        dead.close()
    for name in ("dead and old", mine, other):
        os.utime(folder / name, (old, old))
    hung[0].ring()
    assert sorted(os.listdir(folder)) == sorted([mine, other, "dead and new"])


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path, hung: list[Bells]) -> None:
    """What is no socket can't be rung, and is not ours to delete."""
    hung.append(Bells(str(tmp_path / "e.db")))
    other = tmp_path / "e.db-bells" / "notes"
    other.write_text("mine")
    os.utime(other, (0, 0))
    hung[0].ring()
    assert other.exists()


def test_a_closed_bell_is_gone(tmp_path: Path) -> None:
    """The next ring finds no name of it."""
    bells = Bells(str(tmp_path / "e.db"))
    bells.stop()
    assert bells.wait(5) is False
    bells.close()
    assert os.listdir(tmp_path / "e.db-bells") == []


def test_a_bell_that_was_hung_long_ago_is_heard(tmp_path: Path, hung: list[Bells]) -> None:
    """The folder is read at the first ring, however old it is."""
    hung += [Bells(str(tmp_path / "e.db")) for _ in range(2)]
    os.utime(tmp_path / "e.db-bells", (0, 0))
    hung[0].ring()
    assert hung[1]._poll.poll(0)


def test_the_folder_is_read_again_when_it_may_have_changed(
    tmp_path: Path, hung: list[Bells], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two changes within the grain of the file's time are both seen; a still one is read once."""
    folder = tmp_path / "e.db-bells"
    now = 10**18
    monkeypatch.setattr(clock, "file_time_ns", lambda: now)
    reads: list[int] = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda where: reads.append(1) or listdir(where))
    hung += [Bells(str(tmp_path / "e.db")) for _ in range(2)]
    os.utime(folder, ns=(now, now))
    now += 10_000_000
    hung[0].ring()
    hung.append(Bells(str(tmp_path / "e.db")))
    os.utime(folder, ns=(now - 10_000_000,) * 2)  # as if it had been hung in the same moment
    hung[0].ring()
    assert hung[2]._poll.poll(0)
    now += 1_000_000_000
    before = len(reads)
    for _ in range(5):
        hung[0].ring()
    assert len(reads) == before
    hung.append(Bells(str(tmp_path / "e.db")))
    os.utime(folder, ns=(now, now))
    hung[0].ring()
    assert hung[3]._poll.poll(0)


def test_a_process_that_hears_of_its_own_commits_by_itself_is_not_rung(
    tmp_path: Path, hung: list[Bells]
) -> None:
    """Its own bell stays silent, and all others ring."""
    hung += [Bells(str(tmp_path / "e.db")) for _ in range(3)]
    hung[0].ring(own=False)
    assert [bool(bells._poll.poll(0)) for bells in hung] == [False, True, True]
    hung[0].ring()
    assert hung[0]._poll.poll(0)


def test_bells_that_could_not_be_hung_close_nothing_of_others(tmp_path: Path) -> None:
    """The process keeps its standard input, and to ring without a folder does nothing."""
    (tmp_path / "e.db-bells").write_text("no folder")
    before = os.fstat(0)
    bells = Bells(str(tmp_path / "e.db"))
    bells.ring()
    bells.close()
    assert os.fstat(0) == before
