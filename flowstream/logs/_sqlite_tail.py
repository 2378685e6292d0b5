"""The one tail of a process: it reads what has been committed, of all topics, in its order.

A thread waits for the bell, or a quarter of a second, and reads on from the last `pos` that it has
seen. What is of a watched topic goes to the event loop as a hint, one page at a time: the thread
goes on when the page was taken, so nothing piles up.

`pos` has no holes. If the tail finds one, events were deleted before it came to them: then it reads
its topics anew, and says that everything may be stale. An event without a number says so of one
topic, whose epochs have changed.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import trio

from flowstream._errors import LogUnavailableError
from flowstream.abc import Hint, Record, Stale
from flowstream.logs._append_arguments import PAGE_BYTES
from flowstream.logs._bells import Bells
from flowstream.logs._epochs import Epochs, epoch_at
from flowstream.logs._sqlite_faults import fault
from flowstream.logs._sqlite_file import SQLiteFile
from flowstream.logs._sqlite_read import find_topics, read_time, snapshot
from flowstream.logs._sqlite_transaction import last_pos
from flowstream.logs._sqlite_writer import SQLiteWriter

logger = logging.getLogger("flowstream")

# Seconds after which the tail looks without a bell.
POLL_SECONDS = 0.25
# Events that are read at once.
_PAGE_ITEMS = 512

# What goes to the event loop: (topic, number before, records); if stale, (topic or None, 0, None).
News = tuple[str | None, int, list[Record] | None]


class SQLiteTail:
    """The tail's thread, and the topics that it watches.

    Args:
        file: the log's file.
        bells: the bell that it waits for.
        writer: is told how far the log has come.
        hint: see `flowstream.abc.Log.run`.
        stale: see `flowstream.abc.Log.run`.
    """

    def __init__(
        self, file: SQLiteFile, bells: Bells, writer: SQLiteWriter, hint: Hint, stale: Stale
    ) -> None:
        self._file = file
        self._bells = bells
        self._writer = writer
        self._hint = hint
        self._stale = stale
        self._lock = threading.Lock()
        self._watched: set[str] = set()  # the event loop's
        self._asked: list[tuple[str, bool]] = []  # (topic, whether it is watched), for the thread
        self._names: set[str] = set()  # the thread's
        self._topics: dict[int, tuple[str, Epochs]] = {}  # {id: …} of `_names` that are there
        self._last_topic = 0  # the highest id when `_names` were last looked for
        self._db: sqlite3.Connection | None = None
        self._identity = (0, 0)
        self._pos = 0
        self._failing = False

    def watch(self, topics: Iterable[str]) -> None:
        """Have hints of what is committed from now on."""
        self._ask(topics, True)

    def unwatch(self, topics: Iterable[str]) -> None:
        """Have no more hints of these topics."""
        self._ask(topics, False)

    def start(self) -> None:
        """Begin behind what is in the log now. It is called in a thread.

        Raises:
            LogUnavailableError: the file can't be read.
        """
        try:
            db = self._connected()
            self._pos = self._writer.seen = last_pos(db)
            (self._last_topic,) = db.execute("select coalesce(max(id), 0) from topic").fetchone()
        except sqlite3.Error as error:
            raise fault(self._file.path, error) from error

    def work(self) -> None:
        """Follow the log until the bells say to stop. It is called in a thread of Trio's."""
        try:
            while self._bells.wait(POLL_SECONDS):
                self._look()
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection."""
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def _look(self) -> None:
        """Read on until nothing is left, and hand over what is watched."""
        more = True
        while more:
            try:
                more, news = self._page()
            except (sqlite3.Error, LogUnavailableError) as error:
                self._fail(error)
                return
            if self._failing:
                self._failing = False
                logger.info("%s can be read again", self._file.path)
                news.append((None, 0, None))
            if news:
                trio.from_thread.run_sync(self._hand_over, news)

    def _hand_over(self, news: list[News]) -> None:
        for topic, before, records in news:
            if records is None:
                self._stale(topic)
            elif topic in self._watched:  # it may have been given up since
                assert topic is not None
                self._hint(topic, before, records)

    def _fail(self, error: Exception) -> None:
        self.close()
        if not self._failing:
            self._failing = True
            if isinstance(error, sqlite3.Error):
                error = fault(self._file.path, error)
            logger.error("events of other processes can't be read: %s", error)

    def _connected(self) -> sqlite3.Connection:
        identity = self._file.identity()
        if self._db is not None and identity != self._identity:
            self.close()
            self._failing = True  # another file is in its place: all may be stale
        if self._db is None:
            self._db = self._file.connect(POLL_SECONDS)
            self._identity = identity
        return self._db

    def _ask(self, topics: Iterable[str], watched: bool) -> None:
        with self._lock:
            for topic in topics:
                if (topic in self._watched) != watched:
                    (self._watched.add if watched else self._watched.remove)(topic)
                    self._asked.append((topic, watched))
        self._writer.followed = bool(self._watched)

    def _page(self) -> tuple[bool, list[News]]:
        """Read a page; return whether there may be more, and what is new."""
        db = self._connected()
        with snapshot(db):
            last = last_pos(db)
            # Behind the snapshot: what was asked for before a commit is known when it is read.
            with self._lock:
                asked, self._asked = self._asked, []
            if not (asked or self._names or self._failing):
                self._pos = last  # nobody wants to hear of what came until now
                self._writer.seen = max(self._writer.seen, last)
                return False, []
            news: list[News] = []
            rows, more = self._rows(db) if last > self._pos else ([], False)
            # Deleted before they were seen; or an older copy was put into the file.
            lost = last < self._pos or (last > self._pos and not _is_dense(rows, self._pos))
            self._pos = rows[-1][0] if rows else last
            if lost or any(topic == 0 for _, topic, _, _, _ in rows):
                self._topics.clear()
                news.append((None, 0, None))
            self._apply(asked)
            if lost or news:
                self._find(db, list(self._names))
            elif asked:
                self._find(db, [name for name, watched in asked if watched])
            elif len(self._topics) < len(self._names):
                self._find_new(db)
            for topic in {topic for _, topic, number, _, _ in rows if number is None}:
                self._read_again(db, topic, news)
            if rows:
                self._group(rows, news, read_time(db, self._file.clock)[2])
        self._writer.seen = max(self._writer.seen, self._pos)
        return more, news

    def _rows(self, db: sqlite3.Connection) -> tuple[list[Any], bool]:
        rows: list[Any] = []
        room = PAGE_BYTES
        found = db.execute(
            "select pos, topic, number, at, data from event where pos > ? order by pos limit ?",
            (self._pos, _PAGE_ITEMS),
        )
        for row in found:
            rows.append(row)
            room -= len(row[4] or b"")
            if room < 0:
                break
        found.close()
        return rows, len(rows) == _PAGE_ITEMS or room < 0

    def _apply(self, asked: list[tuple[str, bool]]) -> None:
        for name, watched in asked:
            (self._names.add if watched else self._names.discard)(name)
        if not all(watched for _, watched in asked):
            gone = [id for id, (name, _) in self._topics.items() if name not in self._names]
            for id in gone:
                del self._topics[id]

    def _find(self, db: sqlite3.Connection, names: Sequence[str]) -> None:
        """Look for the rows of these topics. Those that are not there get a higher id one day."""
        self._topics.update(
            find_topics(db, "name", [name for name in names if name in self._names])
        )

    def _find_new(self, db: sqlite3.Connection) -> None:
        """Look for watched topics that have been made since the last look."""
        rows = db.execute(
            "select id, name from topic where id > ? order by id", (self._last_topic,)
        ).fetchall()
        new = [id for id, name in rows if name in self._names]
        self._topics.update(find_topics(db, "id", new))
        if rows:
            self._last_topic = rows[-1][0]

    def _read_again(self, db: sqlite3.Connection, id: int, news: list[News]) -> None:
        """Read a topic again whose row has changed, and say that it is stale."""
        known = self._topics.pop(id, None)
        found = find_topics(db, "id", [id]).get(id)
        name = (found or known or ("", ()))[0]
        if name in self._names:
            news.append((name, 0, None))
            if found:
                self._topics[id] = found

    def _group(self, rows: list[Any], news: list[News], now: float) -> None:
        """Add the events of watched topics, those of one topic as one hint.

        They follow on each other: a log deletes only the oldest events of a topic, or all.
        """
        hints: dict[int, list[Record]] = {}
        for _, id, number, at, data in rows:
            known = self._topics.get(id)
            if known is None or number is None:
                continue
            name, epochs = known
            if number < epochs[0][1]:
                continue  # of an epoch that is no longer known
            record = Record(epoch_at(epochs, number), number, data, max(0.0, now - at))
            if id not in hints:
                hints[id] = []
                news.append((name, number - 1, hints[id]))
            hints[id].append(record)


def _is_dense(rows: Sequence[Any], pos: int) -> bool:
    return bool(rows) and rows[-1][0] - pos == len(rows)
