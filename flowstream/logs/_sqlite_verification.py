"""Whether the file of a log on SQLite keeps what a log promises, as far as a file can tell.

Each finding is a sentence about one topic, or about the file. A finding means that somebody else
has written to the file, or that its disk has lost something: the log itself never writes so.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator

from flowstream.logs._sqlite_inspection import topic_rows
from flowstream.logs._sqlite_transaction import TopicRow, last_pos
from flowstream.logs._topic_summary import PARTS, check_epochs

_EVENTS = """
select count(*), coalesce(min(number), 0), coalesce(max(number), 0),
  coalesce(sum(number >= :floor), 0),
  coalesce(sum(case when number >= :floor then length(data) end), 0),
  coalesce(sum(number <> number_before + 1), 0),
  coalesce(sum(pos <= pos_before), 0), coalesce(sum(at < at_before), 0),
  coalesce(sum(typeof(data) <> 'blob'), 0)
from (select number, pos, at, data, lag(number) over w as number_before,
  lag(pos) over w as pos_before, lag(at) over w as at_before
  from event where topic = :topic and number is not null window w as (order by number))
"""


def verify(db: sqlite3.Connection, step: Callable[[int, int], None]) -> Iterator[str]:
    """Yield what is wrong, as sentences.

    Args:
        db: a connection with a snapshot: see `_sqlite_inspection.reading`.
        step: called with how many parts have been checked, and of how many.
    """
    topics = topic_rows(db)
    total = len(topics) + 2
    step(0, total)
    for (text,) in db.execute("pragma integrity_check(20)").fetchall():
        if text != "ok":
            yield f"SQLite finds the file damaged: {text}"
    step(1, total)
    yield from _file(db)
    yield from _leases(db)
    step(2, total)
    (life,) = db.execute("select life from log").fetchone()
    for place, topic in enumerate(topics):
        for finding in (*_epochs(topic, life), *_events(db, topic), *_beside(db, topic)):
            yield f"the topic {topic.name!r}: {finding}"
        step(3 + place, total)


def _file(db: sqlite3.Connection) -> Iterator[str]:
    (newest,) = db.execute("select coalesce(max(pos), 0) from event").fetchone()
    if newest > last_pos(db):
        yield f"the counter of events is at {last_pos(db)}, and there is an event {newest}"
    for table, what in PARTS.items():
        # An event without a number says that a topic has changed, and may outlive the topic.
        number = " and number is not null" if table == "event" else ""
        (lost,) = db.execute(
            f"select count(*) from {table} where topic not in (select id from topic){number}"
        ).fetchone()
        if lost:
            yield f"{what} is of a topic that is not there ({lost:,} times)"


def _leases(db: sqlite3.Connection) -> Iterator[str]:
    (known,) = db.execute("select count(*) from sqlite_master where name = 'fence'").fetchone()
    if not known:  # it is of a release without leases
        return
    for name, token in db.execute(
        "select topic, token from lease where token > coalesce((select max(token) from fence), 0)"
    ):
        yield f"the topic {name!r}: its lease has the token {token}, which was never given"


def _epochs(topic: TopicRow, life: int) -> Iterator[str]:
    yield from check_epochs(topic.epochs, topic.head)
    if topic.life > life:
        yield f"it is of the life {topic.life} of the log, which is in its life {life}"


def _events(db: sqlite3.Connection, topic: TopicRow) -> Iterator[str]:
    count, least, most, kept, size, holes, late, back, other = db.execute(
        _EVENTS, {"topic": topic.id, "floor": topic.floor}
    ).fetchone()
    expected = topic.head - topic.floor + 1
    if kept != expected:
        yield f"it keeps {kept:,} events from {topic.floor} to {topic.head}, not {expected:,}"
    if most > topic.head:
        yield f"it has an event {most}, behind its newest one, which is {topic.head}"
    if count and least < 1:
        yield f"it has an event with the number {least}"
    if holes:
        yield f"between {least} and {most} numbers are left out ({holes:,} times)"
    if late:
        yield f"events were not committed in the order of their numbers ({late:,} times)"
    if back:
        yield f"an event is older than the one before it ({back:,} times)"
    if other:
        yield f"an event is no bytes ({other:,} times)"
    if size != topic.size:
        yield f"its events have {size:,} bytes, not {topic.size:,}"


def _beside(db: sqlite3.Connection, topic: TopicRow) -> Iterator[str]:
    for table in ("token", "key", "latest"):
        (ahead,) = db.execute(
            f"select count(*) from {table} where topic = ? and number > ?", (topic.id, topic.head)
        ).fetchone()
        if ahead:
            yield f"{PARTS[table]} is of an event behind its newest one ({ahead:,} times)"
    (differ,) = db.execute(
        "select count(*) from latest join event using (topic, number)"
        " where topic = ? and latest.data <> event.data",
        (topic.id,),
    ).fetchone()
    if differ:
        yield f"the newest event of a key is not the event of its number ({differ:,} times)"
