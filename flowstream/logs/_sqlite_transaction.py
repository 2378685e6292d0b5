"""A transaction that writes to the log, and the row of a topic in it.

It has the write lock from its first statement on, so what it reads can't change under it. When it
begins it looks whether the log may have lost something since it was last written to. Then the log
has a new *life*, and each topic begins a new epoch at its first touch.

The log has a new life if

* commits of an earlier boot were not flushed (`synchronous` was NORMAL), so the last of them may be
  lost. Who writes without flushing first leaves a mark that is flushed.
* the file is behind what this process has seen of it: an older copy was put in its place.
* a reader has an event that the log does not have.

Events and tokens are collected, and inserted many at once (`_sqlite_insertion.py`): before somebody
reads them, and before the commit. That a token is new is found out by inserting it. The one that is
not costs the batch a second try, in which each token is looked for (`careful`).
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from flowstream.ids._event_id import new_epoch
from flowstream.limits import Replay
from flowstream.logs._append_arguments import FORGET_SECONDS
from flowstream.logs._epochs import Epochs, begin_epoch, epochs_from_text, epochs_to_text
from flowstream.logs._log_clock import LogClock
from flowstream.logs._sqlite_insertion import Insertion

TOPIC_COLUMNS = (
    "id, name, epochs, life, head, floor, size, items, seconds, bytes, touched, deleted, due"
)
# Whether a topic goes with its lease.
_IS_GONE = "exists(select 1 from lease where lease.topic = name and gone <= ?)"
# The highest `pos` that the log ever gave.
_LAST_POS = "select coalesce(max(seq), 0) from sqlite_sequence where name = 'event'"

_EVENTS = Insertion("event", "topic", "number", "at", "data")
_TOKENS = Insertion("token", "topic", "token", "number", "result")


class KnownTokenError(Exception):
    """A token is in the log. The transaction must be rolled back, and done again with care."""


@dataclass(slots=True)
class TopicRow:
    """A topic as it is stored; see the schema for what each means."""

    id: int
    name: str
    epochs: Epochs
    life: int
    head: int
    floor: int
    size: int
    keep: Replay
    touched: float
    deleted: bool
    due: float
    stored_due: float

    @classmethod
    def of(cls, row: Any) -> TopicRow:
        """Return the topic of a row with `TOPIC_COLUMNS`."""
        id, name, epochs, life, head, floor, size, items, seconds, bytes, touched, deleted, due = (
            row
        )
        keep = _replay(items, seconds, bytes)
        epochs = epochs_from_text(epochs)
        return cls(
            id, name, epochs, life, head, floor, size, keep, touched, bool(deleted), due, due
        )

    def first(self) -> int:
        """Return the number of the oldest event that may be read, whatever its age."""
        return max(self.floor, self.head - self.keep.items + 1, self.epochs[0][1])

    def look_at(self, when: float) -> None:
        """Have the topic looked at by then."""
        self.due = min(self.due, when)


class Transaction:
    """What a job of the writer thread gets.

    Args:
        db: a connection, in a transaction that has the write lock.
        clock: the log's clocks.
        seen: the highest `pos` that this process knows of.
        careful: whether each token is looked for in the log.

    Attributes:
        db: the connection.
        moment: the log's time when it began.
        epoch: the log's own epoch.
        life: the log's life.
        unsynced: the boot in which commits were not flushed, or "".
        pos: that of the newest event in the log, those that wait to be inserted not counted.
    """

    __slots__ = (
        "_careful",
        "_changed",
        "_events",
        "_results",
        "_tokens",
        "_topics",
        "db",
        "epoch",
        "life",
        "moment",
        "pos",
        "unsynced",
    )

    def __init__(
        self, db: sqlite3.Connection, clock: LogClock, seen: int, *, careful: bool = False
    ) -> None:
        self.db = db
        self._careful = careful
        self._events: list[Any] = []  # values of rows to insert
        self._tokens: list[Any] = []
        self._results: dict[tuple[int, str], str] = {}  # {(topic, token): …} of this transaction
        self._topics: dict[str, TopicRow] = {}  # read in this transaction
        self._changed: dict[int, TopicRow] = {}  # of these, what `finish` stores
        self.epoch, self.life, self.unsynced, boot, anchor, self.pos = db.execute(
            f"select epoch, life, unsynced, boot, anchor, ({_LAST_POS}) from log"
        ).fetchone()
        if boot != clock.boot:
            (newest,) = db.execute(
                "select max(coalesce((select max(at) from event), 0),"
                " coalesce((select max(touched) from topic), 0))"
            ).fetchone()
            anchor = clock.anchor(newest)
            db.execute("update log set boot = ?, anchor = ?", (clock.boot, anchor))
        self.moment: float = anchor + clock.since_boot()
        if self.unsynced not in ("", clock.boot) or self.pos < seen:
            self.begin_life()

    def begin_life(self) -> None:
        """Have every topic begin a new epoch, at its first touch."""
        self.finish()
        self._topics.clear()
        self.life += 1
        self.epoch = new_epoch(self.epoch)
        self.db.execute("update log set life = ?, epoch = ?", (self.life, self.epoch))
        self.notice(0)

    def mark(self, boot: str) -> None:
        """Say that commits of `boot` are not flushed; "" if all are."""
        self.unsynced = boot
        self.db.execute("update log set unsynced = ?", (boot,))

    def forget(self, topic: TopicRow) -> None:
        """Delete all of a topic. If it is appended to again, its numbers begin anew."""
        self.clear(topic)
        self.remove(topic)
        self.retire_epoch(topic.epochs)
        self.notice(topic.id)

    def forget_lease(self, name: str) -> None:
        """Delete the lease of the topic `name`."""
        self.db.execute("delete from lease where topic = ?", (name,))

    def has_lease(self, topic: TopicRow) -> bool:
        """Return whether a topic has a lease."""
        (found,) = self.db.execute(
            "select exists(select 1 from lease where topic = ?)", (topic.name,)
        ).fetchone()
        return bool(found)

    def gone_leases(self, limit: int) -> list[str]:
        """Return topics that are to be forgotten with their leases."""
        rows = self.db.execute(
            "select topic from lease where gone <= ? order by gone limit ?", (self.moment, limit)
        ).fetchall()
        return [name for (name,) in rows]

    def retire_epoch(self, epochs: Epochs) -> None:
        """Have the log's epoch sort behind those of a topic whose numbers are free again."""
        if self.epoch <= epochs[-1][0]:
            self.epoch = new_epoch(epochs[-1][0])
            self.db.execute("update log set epoch = ?", (self.epoch,))

    def topic(self, name: str) -> TopicRow | None:
        """Return the topic `name`, in the log's life; None if it is not there."""
        known = self._topics.get(name)
        if known is not None:
            return known
        found = self.db.execute(
            f"select {TOPIC_COLUMNS}, {_IS_GONE} from topic where name = ?", (self.moment, name)
        ).fetchone()
        if not found:
            return None
        *row, gone = found
        if gone:
            self.forget_lease(name)
            self.forget(TopicRow.of(row))
            return None
        return self._touched(row)

    def due_topics(self, limit: int) -> list[TopicRow]:
        """Return topics to look at, the most overdue first."""
        self.finish()
        self._topics.clear()
        found = self.db.execute(
            f"select {TOPIC_COLUMNS} from topic where due <= ? order by due limit ?",
            (self.moment, limit),
        ).fetchall()
        return [self._touched(row) for row in found]

    def make_topic(self, name: str, keep: Replay) -> TopicRow:
        """Make a topic that is not there. It begins with the log's epoch."""
        due = self.moment + FORGET_SECONDS
        epochs: Epochs = ((self.epoch, 1),)
        id = self.db.execute(
            "insert into topic(name, epochs, life, head, floor, size, items, seconds, bytes,"
            " touched, deleted, due) values(?, ?, ?, 0, 1, 0, ?, ?, ?, ?, 0, ?)",
            (
                name,
                epochs_to_text(epochs),
                self.life,
                keep.items,
                keep.seconds,
                keep.bytes,
                self.moment,
                due,
            ),
        ).lastrowid
        assert id is not None
        topic = TopicRow(
            id, name, epochs, self.life, 0, 1, 0, keep, self.moment, False, due, stored_due=due
        )
        self._topics[name] = topic
        return topic

    def save(self, topic: TopicRow) -> None:
        """Have `finish` store what has changed of a topic: once, for all jobs of a batch."""
        self._changed[topic.id] = topic

    def remove(self, topic: TopicRow) -> None:
        """Delete a topic's row."""
        self._topics.pop(topic.name, None)
        self._changed.pop(topic.id, None)
        self.db.execute("delete from topic where id = ?", (topic.id,))

    def add_event(self, topic: TopicRow, data: bytes) -> int:
        """Add an event behind the newest one; return its number."""
        topic.head = number = topic.head + 1
        topic.size += len(data)
        self._events += (topic.id, number, self.moment, data)
        return number

    def add_token(self, topic: TopicRow, token: str, result: str) -> None:
        """Remember what an append with this token returned."""
        self._results[topic.id, token] = result
        self._tokens += (topic.id, token, topic.head, result)

    def result_of(self, topic: TopicRow, token: str) -> str | None:
        """Return what `add_token` was given with a token; None if it is new, or may be new."""
        known = self._results.get((topic.id, token))
        if known is None and self._careful:
            found = self.db.execute(
                "select result from token where topic = ? and token = ?", (topic.id, token)
            ).fetchone()
            known = found[0] if found else None
        return known

    def clear(self, topic: TopicRow) -> None:
        """Delete what a topic has beside its row."""
        self.insert_rows()
        for table in ("event", "token", "key", "latest"):
            self.db.execute(f"delete from {table} where topic = ?", (topic.id,))
        for known in [known for known in self._results if known[0] == topic.id]:
            del self._results[known]

    def insert_rows(self) -> None:
        """Insert what was added. It is called before such rows are read.

        Raises:
            KnownTokenError: the transaction must be done again, with care.
        """
        if self._events:
            self.pos += _EVENTS.insert(self.db, self._events)
            self._events = []
        if self._tokens:
            try:
                _TOKENS.insert(self.db, self._tokens)
            except sqlite3.IntegrityError:
                raise KnownTokenError from None
            self._tokens = []

    def finish(self) -> None:
        """Store what was changed. It is called before the commit.

        Raises:
            KnownTokenError: the transaction must be done again, with care.
        """
        self.insert_rows()
        for topic in self._changed.values():
            self._store(topic)
        self._changed.clear()

    def _store(self, topic: TopicRow) -> None:
        keep = topic.keep
        self.db.execute(
            "update topic set epochs = ?, life = ?, head = ?, floor = ?, size = ?, items = ?,"
            " seconds = ?, bytes = ?, touched = ?, deleted = ? where id = ?",
            (
                epochs_to_text(topic.epochs),
                topic.life,
                topic.head,
                topic.floor,
                topic.size,
                keep.items,
                keep.seconds,
                keep.bytes,
                topic.touched,
                topic.deleted,
                topic.id,
            ),
        )
        if topic.due != topic.stored_due:  # it is in an index, which costs as much again
            self.db.execute("update topic set due = ? where id = ?", (topic.due, topic.id))
            topic.stored_due = topic.due

    def notice(self, topic: int) -> None:
        """Have every process read a topic's row again; 0 for all topics."""
        self._events += (topic, None, self.moment, None)

    def _touched(self, row: Any) -> TopicRow:
        topic = TopicRow.of(row)
        if topic.life != self.life:
            topic.life = self.life
            topic.epochs = begin_epoch(topic.epochs, topic.head)
            self.save(topic)
            self.notice(topic.id)
        self._topics[topic.name] = topic
        return topic


@lru_cache(maxsize=64)
def _replay(items: int, seconds: float, bytes: int) -> Replay:
    return Replay(items, seconds, bytes)  # which checks its arguments each time


def last_pos(db: sqlite3.Connection) -> int:
    """Return the highest `pos` that the log ever gave."""
    (found,) = db.execute(f"select ({_LAST_POS})").fetchone()
    return int(found)
