"""What is read from the log on SQLite. Each function reads from one snapshot of the file."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from flowstream.abc import Head, LatestPage, Position, Record
from flowstream.logs._append_arguments import PAGE_BYTES, PAGE_NAMES
from flowstream.logs._epochs import Epochs, epoch_at, epochs_from_text, is_evidence, locate
from flowstream.logs._log_clock import LogClock
from flowstream.logs._sqlite_transaction import TOPIC_COLUMNS, TopicRow

# Heads that one statement reads.
HEADS = 512

# Topics by name, each with the number of its oldest event that is not too old.
_TOPICS = (
    f"select {TOPIC_COLUMNS}, case when seconds < 9e999 then (select number from event"
    " where topic = topic.id and number >= max(topic.floor, topic.head - topic.items + 1)"
    " and at > ? - topic.seconds order by number limit 1) end from topic where name"
)
_NOT_GONE = "not exists(select 1 from lease where lease.topic = name and gone <= ?)"


@contextmanager
def snapshot(db: sqlite3.Connection) -> Iterator[None]:
    """Have all statements of the block see the file as it is at the first one."""
    db.execute("begin")
    try:
        yield
    finally:
        if db.in_transaction:
            db.execute("rollback")


@dataclass(frozen=True, slots=True)
class PageRead:
    """What `read_page` found."""

    head: Head
    known: bool
    records: list[Record]
    passed: bool
    """Whether the topic must begin a new epoch before the page may be used."""
    evidence: bool
    """Whether the log must begin a new life before the page may be used, if the position was the
    process's own."""


def read_page(
    db: sqlite3.Connection, clock: LogClock, name: str, after: Position, limit: int
) -> PageRead:
    """Return what follows `after`."""
    with snapshot(db):
        epoch, life, now = read_time(db, clock)
        found = _find_one(db, now, name)
        if found is None:
            head = Head(((epoch, 1),), 0, 1)
            known = after == (epoch, 0)
            return PageRead(head, known, [], False, is_evidence(head.epochs, 0, after))
        topic, head = found
        passed = topic.life != life
        evidence = is_evidence(topic.epochs, topic.head, after)
        number = locate(topic.epochs, topic.head, after)
        if number is None:
            return PageRead(head, False, [], passed, evidence)
        records: list[Record] = []
        room = PAGE_BYTES
        rows = db.execute(
            "select number, at, data from event where topic = ? and number >= ? and at > ?"
            " order by number limit ?",
            (topic.id, max(number + 1, head.first), now - topic.keep.seconds, limit),
        )
        for one, at, data in rows:
            room -= len(data)
            if records and room < 0:
                break
            records.append(Record(epoch_at(topic.epochs, one), one, data, max(0.0, now - at)))
        rows.close()
        return PageRead(head, True, records, passed, evidence)


def read_heads(
    db: sqlite3.Connection, clock: LogClock, names: Sequence[str]
) -> tuple[dict[str, Head], list[str]]:
    """Return the head of each topic, and the topics that must begin a new epoch first."""
    with snapshot(db):
        epoch, life, now = read_time(db, clock)
        passed: list[str] = []
        unknown = Head(((epoch, 1),), 0, 1)
        heads = dict.fromkeys(names, unknown)
        for start in range(0, len(names), HEADS):
            some = names[start : start + HEADS]
            for topic, head in _find(db, now, some):
                heads[topic.name] = head
                if topic.life != life:
                    passed.append(topic.name)
        return heads, passed


def read_latest(
    db: sqlite3.Connection, clock: LogClock, name: str, cursor: str
) -> tuple[LatestPage, bool]:
    """Return the newest events by key, of keys behind `cursor`.

    The second value says whether the topic must begin a new epoch first.
    """
    with snapshot(db):
        epoch, life, now = read_time(db, clock)
        row = _find_one(db, now, name)
        if row is None:
            return LatestPage(Head(((epoch, 1),), 0, 1), {}, None), False
        topic, head = row
        found: dict[str, Record] = {}
        room = PAGE_BYTES
        last: str | None = None
        rows = db.execute(
            "select key, epoch, number, at, data from latest where topic = ? and key > ?"
            " order by key",
            (topic.id, cursor),
        )
        for key, of, number, at, data in rows:
            room -= len(data)
            if found and room < 0:
                last = next(reversed(found))
                break
            found[key] = Record(of, number, data, max(0.0, now - at))
        rows.close()
        return LatestPage(head, found, last), topic.life != life


def read_names(
    db: sqlite3.Connection, clock: LogClock, prefix: str, cursor: str
) -> tuple[list[str], str | None]:
    """Return names of topics that begin with `prefix`, behind `cursor`, and the next cursor."""
    with snapshot(db):
        _, _, now = read_time(db, clock)
        rows = db.execute(
            "select name from topic where name > ? and name >= ? and not deleted"
            f" and {_NOT_GONE} order by name limit ?",
            (cursor, prefix, now, PAGE_NAMES + 1),
        ).fetchall()
    names = [name for (name,) in rows if name.startswith(prefix)]  # they stand together
    page = names[:PAGE_NAMES]
    return page, page[-1] if len(names) > PAGE_NAMES else None


def find_topics(
    db: sqlite3.Connection, column: Literal["id", "name"], values: Sequence[int | str]
) -> dict[int, tuple[str, Epochs]]:
    """Return the id, the name and the epochs of the topics that have such a value."""
    found: dict[int, tuple[str, Epochs]] = {}
    for start in range(0, len(values), HEADS):
        some = values[start : start + HEADS]
        rows = db.execute(
            f"select id, name, epochs from topic where {column} in ({','.join('?' * len(some))})",
            some,
        )
        for id, name, epochs in rows:
            found[id] = name, epochs_from_text(epochs)
    return found


def read_time(db: sqlite3.Connection, clock: LogClock) -> tuple[str, int, float]:
    """Return the log's epoch, its life and its time."""
    epoch, life, boot, anchor = db.execute("select epoch, life, boot, anchor from log").fetchone()
    if boot != clock.boot:  # nobody has written since the machine booted
        anchor = clock.anchor(0.0)
    return epoch, life, anchor + clock.since_boot()


def _find_one(db: sqlite3.Connection, now: float, name: str) -> tuple[TopicRow, Head] | None:
    found = list(_find(db, now, [name]))
    return found[0] if found else None


def _find(
    db: sqlite3.Connection, now: float, names: Sequence[str]
) -> Iterator[tuple[TopicRow, Head]]:
    """Yield the row and the head of each topic that is there, of `HEADS` at the most."""
    rows = db.execute(
        f"{_TOPICS} in ({','.join('?' * len(names))}) and {_NOT_GONE}", (now, *names, now)
    )
    for *row, young in rows:
        topic = TopicRow.of(row)
        first = topic.first()
        if topic.keep.seconds < math.inf:
            first = topic.head + 1 if young is None else max(first, young)
        yield topic, Head(topic.epochs, topic.head, min(first, topic.head + 1))
