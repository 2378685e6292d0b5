"""What the tail of a log on SQLite hands over at each look, and what it says when it can't look."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from flowstream import Replay
from flowstream.abc import Log, LogEntry, Record
from flowstream.logs import SQLiteLog, open_log
from flowstream.logs import _sqlite_tail as sqlite_tail

KEEP = Replay(items=10_000, bytes=1 << 30)


class Ear:
    """Hears what a log says.

    Attributes:
        hints: topic, number before and records of each hint.
        stale: what was stale.
    """

    def __init__(self) -> None:
        self.hints: list[tuple[str, int, list[Record]]] = []
        self.stale: list[str | None] = []

    @property
    def numbers(self) -> list[tuple[str, int, list[int]]]:
        """Topic, number before and numbers of each hint."""
        return [
            (topic, before, [record.number for record in records])
            for topic, before, records in self.hints
        ]

    def hint(self, topic: str, before: int, records: Sequence[Record]) -> None:
        self.hints.append((topic, before, list(records)))


class Tail:
    """A log whose tail looks only when it is told to."""

    def __init__(self, path: Path, log: Log, ear: Ear, look: Callable[[], None]) -> None:
        self.path = path
        self.log = log
        self.ear = ear
        self._look = look
        self._tokens = 0

    async def look(self) -> None:
        """Have it look once, and wait until it has."""
        await trio.to_thread.run_sync(self._look)

    async def append(self, topic: str, *data: bytes) -> None:
        """Append data as one append."""
        self._tokens += 1
        entries = [LogEntry(one) for one in data]
        await self.log.append(topic, entries, keep=KEEP, token=f"{self._tokens}")


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Tail]:
    ear = Ear()
    async with open_log(SQLiteLog(path), hint=ear.hint, stale=ear.stale.append) as log:
        inner = log._open  # type: ignore[attr-defined]
        look, asleep = inner.tail._look, threading.Event()
        inner.tail._look = asleep.set  # for the thread
        inner._bells.ring()
        await trio.to_thread.run_sync(asleep.wait)
        yield Tail(path, log, ear, look)


OpenTail = Callable[[], AbstractAsyncContextManager[Tail]]


@pytest.fixture
def open_tail(tmp_path: Path) -> OpenTail:
    return partial(opened, tmp_path / "events.db")


async def test_a_look_reads_on_until_nothing_is_left(open_tail: OpenTail) -> None:
    """What is more than a page comes at once too, and not with the next bell."""
    async with open_tail() as tail:
        await tail.log.watch(["news"])
        await tail.append("news", *[b"x"] * 1300)
        await tail.look()
        assert tail.ear.numbers == [
            ("news", 0, [*range(1, 513)]),
            ("news", 512, [*range(513, 1025)]),
            ("news", 1024, [*range(1025, 1301)]),
        ]
        assert tail.ear.stale == []


async def test_a_look_holds_no_more_than_a_page_of_bytes(open_tail: OpenTail) -> None:
    """About 1 MiB is read at a time, and all of it comes in one look."""
    async with open_tail() as tail:
        await tail.log.watch(["news"])
        await tail.append("news", *[bytes(100_000)] * 35)
        await tail.look()
        sizes = [sum(len(record.data) for record in records) for _, _, records in tail.ear.hints]
        assert sizes == [1_100_000, 1_100_000, 1_100_000, 200_000]


async def test_events_of_a_topic_are_one_hint_a_look(open_tail: OpenTail) -> None:
    """Also where those of two topics alternate, or another topic is not watched."""
    async with open_tail() as tail:
        await tail.log.watch(["a", "b"])
        for topic in ("a", "b", "c", "a", "b", "c"):
            await tail.append(topic, b"x", b"y")
        await tail.look()
        assert tail.ear.numbers == [("a", 0, [1, 2, 3, 4]), ("b", 0, [1, 2, 3, 4])]


async def test_looks_at_a_log_that_is_still_say_nothing(open_tail: OpenTail) -> None:
    """Each look that finds nothing new is silent, and the next event is heard."""
    async with open_tail() as tail:
        await tail.log.watch(["news"])
        await tail.append("news", b"x")
        for _ in range(3):
            await tail.look()
        await tail.append("news", b"x")
        await tail.look()
        assert tail.ear.numbers == [("news", 0, [1]), ("news", 1, [2])]
        assert tail.ear.stale == []


async def test_a_topic_that_was_given_up_hides_none_that_is_made_later(
    open_tail: OpenTail,
) -> None:
    """The tail still looks for a watched topic that is not there yet."""
    async with open_tail() as tail:
        await tail.append("old", b"x")
        await tail.look()
        await tail.log.watch(["old"])
        await tail.look()
        await tail.log.unwatch(["old"])
        await tail.log.watch(["new"])
        await tail.look()
        await tail.append("new", b"x")
        await tail.look()
        assert tail.ear.numbers == [("new", 0, [1])]


async def test_a_topic_that_is_taken_up_again_is_heard_from_there(open_tail: OpenTail) -> None:
    """What came while nobody watched it is no hint, though others were watched."""
    async with open_tail() as tail:
        await tail.log.watch(["news", "other"])
        await tail.append("news", b"1")
        await tail.look()
        await tail.log.unwatch(["news"])
        await tail.append("news", b"2")
        await tail.look()
        await tail.log.watch(["news"])
        await tail.append("news", b"3")
        await tail.look()
        assert tail.ear.numbers == [("news", 0, [1]), ("news", 2, [3])]


async def test_a_file_that_another_is_put_in_place_of_is_stale(
    open_tail: OpenTail, tmp_path: Path
) -> None:
    """Though as much was appended to it, and the tail never found the name free."""
    other = tmp_path / "other.db"
    async with open_log(SQLiteLog(other)) as log:
        await log.append("news", [LogEntry(b"other")], keep=KEEP, token="t")
    async with open_tail() as tail:
        await tail.log.watch(["news"])
        await tail.append("news", b"mine")
        await tail.look()
        for ending in ("-wal", "-shm"):
            tail.path.with_name(f"{tail.path.name}{ending}").unlink()
        other.replace(tail.path)
        await tail.look()
        assert tail.ear.stale == [None]


def unreadable(db: sqlite3.Connection) -> int:
    """Fail as SQLite does on a broken disk."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
    error.sqlite_errorname = "SQLITE_IOERR_READ"
    raise error


async def broken_disk(tail: Tail, monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    monkeypatch.setattr(sqlite_tail, "last_pos", unreadable)
    return monkeypatch.undo


async def moved_file(tail: Tail, monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    away = tail.path.with_name("away")
    tail.path.rename(away)
    return lambda: away.rename(tail.path)


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (broken_disk, "the disk that {path} is on fails (disk I/O error, SQLITE_IOERR_READ)"),
        (moved_file, "{path} was moved or deleted while it is in use"),
    ],
)
async def test_a_tail_that_can_not_look_says_so_once_and_then_that_all_is_stale(
    open_tail: OpenTail,
    break_it: Callable[[Tail, pytest.MonkeyPatch], Awaitable[Callable[[], object]]],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An operator reads why, in the sentence that an append would raise; readers read anew."""
    async with open_tail() as tail:
        await tail.log.watch(["news"])
        await tail.look()
        with caplog.at_level(logging.INFO):
            mend = await break_it(tail, monkeypatch)
            await tail.look()
            await tail.look()
            (line,) = [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]
            assert says.format(path=tail.path) in line
            mend()
            await tail.append("news", b"x")
            await tail.look()
            await tail.look()
        assert caplog.text.count("can be read again") == 1
        assert tail.ear.stale == [None]
