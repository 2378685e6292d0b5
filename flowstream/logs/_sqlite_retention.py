"""What the log on SQLite forgets, and when.

`Replay` says what a topic keeps. Its bounds of items and bytes move the topic's `floor` up, and no
event below it is read again. To move it costs reads, so it is moved when the topic is an eighth
over a bound (the bound of items is exact all the same: readers compute it). An event's age is
checked when it is read.

Events below the floor stay for a moment, for processes that have yet to see them pass: a topic that
keeps nothing delivers all the same. Then the sweep deletes them. It goes by `due`, which each topic
has: when there will be something to delete.
"""

from __future__ import annotations

import math
import sqlite3

from flowstream.limits import Replay
from flowstream.logs._append_arguments import (
    FORGET_SECONDS,
    LATEST_BYTES,
    LATEST_KEYS,
    TOKEN_EVENTS,
)
from flowstream.logs._sqlite_transaction import TopicRow, Transaction

# What other processes have yet to see of one topic: seconds, events and bytes.
PASSING_SECONDS = 5.0
PASSING_ITEMS = 1024
PASSING_BYTES = 1 << 20
# Events that a topic may be over its bound before the floor is moved, for small bounds.
_LEAST_SLACK = 64
# Seconds after which the sweep moves it in any case.
_SLACK_SECONDS = 60.0
# Rows that one sweep deletes of a topic, and topics in a sweep: others wait for the lock.
_SWEEP_ROWS = 5000
_SWEEP_TOPICS = 64
# Appends between two looks for old tokens, and for more keys than are kept.
_LOOK_EVERY = 64


def keep_within(tx: Transaction, topic: TopicRow, added: int) -> None:
    """Have a topic forget what it need not keep behind an append of `added` events."""
    keep = topic.keep
    items = topic.head - topic.floor + 1
    if items > keep.items + max(keep.items >> 3, _LEAST_SLACK) or topic.size > keep.bytes * 9 // 8:
        raise_floor(tx, topic, topic.head - keep.items + 1)
        pass_by(tx, topic)
    elif items > keep.items:
        topic.look_at(tx.moment + _SLACK_SECONDS)
    if keep.seconds < math.inf:
        topic.look_at(tx.moment + keep.seconds)
    if topic.head // _LOOK_EVERY != (topic.head - added) // _LOOK_EVERY:
        tx.db.execute(
            "delete from token where topic = ? and number <= ?",
            (topic.id, topic.head - TOKEN_EVENTS),
        )
        _bound_latest(tx, topic)


def raise_floor(tx: Transaction, topic: TopicRow, floor: int, keep: Replay | None = None) -> None:
    """Move the floor up to `floor`, and further until the rest fits the bound of bytes."""
    keep = keep or topic.keep
    tx.insert_rows()
    if floor > topic.floor:
        (passed,) = tx.db.execute(
            "select coalesce(sum(length(data)), 0) from event"
            " where topic = ? and number >= ? and number < ?",
            (topic.id, topic.floor, floor),
        ).fetchone()
        topic.size -= passed
        topic.floor = floor
    if topic.size > keep.bytes:
        rows = tx.db.execute(
            "select number, length(data) from event where topic = ? and number >= ?"
            " order by number",
            (topic.id, topic.floor),
        )
        for number, size in rows:
            topic.size -= size
            topic.floor = number + 1
            if topic.size <= keep.bytes:
                break
        rows.close()


def pass_by(tx: Transaction, topic: TopicRow) -> None:
    """Delete events below the floor that every process has had time to see."""
    tx.insert_rows()
    count, passed = tx.db.execute(
        "select count(*), max(case when at <= ? or size > ? then number end) from"
        " (select number, at, sum(length(data)) over (order by number desc) as size from event"
        " where topic = ? and number < ? order by number desc limit ?)",
        (tx.moment - PASSING_SECONDS, PASSING_BYTES, topic.id, topic.floor, PASSING_ITEMS),
    ).fetchone()
    cut = topic.floor - PASSING_ITEMS if passed is None else passed + 1
    if count and cut < topic.floor:
        topic.look_at(tx.moment + PASSING_SECONDS)
    (first,) = tx.db.execute(
        "select min(number) from event where topic = ? and number < ?", (topic.id, cut)
    ).fetchone()
    if first is None:
        return
    if cut - first > _SWEEP_ROWS:
        cut = first + _SWEEP_ROWS
        topic.look_at(tx.moment)
    tx.db.execute("delete from event where topic = ? and number < ?", (topic.id, cut))


def first_young(tx: Transaction, topic: TopicRow, seconds: float) -> tuple[int, float]:
    """Return the number and the time of the oldest event that may be read.

    It is the number behind the newest event, and infinity, if there is none.
    """
    tx.insert_rows()
    found = tx.db.execute(
        "select number, at from event where topic = ? and number >= ? and at > ?"
        " order by number limit 1",
        (topic.id, topic.first(), tx.moment - seconds),
    ).fetchone()
    return found or (topic.head + 1, math.inf)


def sweep(tx: Transaction) -> None:
    """Delete what is over its time, of some topics; the rest when it is called again."""
    before = tx.db.total_changes
    for name in tx.gone_leases(_SWEEP_TOPICS):
        tx.topic(name)  # which forgets it with its lease
        tx.forget_lease(name)  # of a topic that never had an event
        if tx.db.total_changes - before >= _SWEEP_ROWS:
            break
    for topic in tx.due_topics(_SWEEP_TOPICS):
        keep = topic.keep
        topic.due = math.inf
        first, at = first_young(tx, topic, keep.seconds)
        raise_floor(tx, topic, first)
        pass_by(tx, topic)
        if topic.floor > topic.head:
            if topic.touched <= tx.moment - FORGET_SECONDS:
                if not tx.has_lease(topic):
                    tx.forget(topic)
                    continue
                topic.look_at(tx.moment + FORGET_SECONDS)
            else:
                topic.look_at(topic.touched + FORGET_SECONDS)
        elif keep.seconds < math.inf:
            topic.look_at(at + keep.seconds)
        tx.save(topic)
    old = (tx.moment, _SWEEP_ROWS)
    tx.db.execute(
        "delete from key where (topic, key) in (select topic, key from key where until <= ?"
        " limit ?)",
        old,
    )
    old = (tx.moment - PASSING_SECONDS, _SWEEP_ROWS)
    tx.db.execute(
        "delete from event where pos in (select pos from event where number is null and at <= ?"
        " limit ?)",
        old,
    )


def is_due(db: sqlite3.Connection, now: float) -> bool:
    """Return whether `sweep` has something to do."""
    (due,) = db.execute(
        "select exists(select 1 from topic where due <= ?)"
        " or exists(select 1 from key where until <= ?)"
        " or exists(select 1 from event where number is null and at <= ?)"
        " or exists(select 1 from lease where gone <= ?)",
        (now, now, now - PASSING_SECONDS, now),
    ).fetchone()
    return bool(due)


def _bound_latest(tx: Transaction, topic: TopicRow) -> None:
    count, size = tx.db.execute(
        "select count(*), coalesce(sum(length(data)), 0) from latest where topic = ?", (topic.id,)
    ).fetchone()
    if count <= LATEST_KEYS and size <= LATEST_BYTES:
        return
    rows = tx.db.execute(
        "select number, length(data) from latest where topic = ? order by number", (topic.id,)
    )
    last = 0
    for last, length in rows:  # noqa: B007  # the last one that goes
        count -= 1
        size -= length
        if count <= LATEST_KEYS and size <= LATEST_BYTES:
            break
    rows.close()
    tx.db.execute("delete from latest where topic = ? and number <= ?", (topic.id, last))
