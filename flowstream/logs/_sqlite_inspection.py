"""What is in the file of a log on SQLite, for somebody who operates it: nothing here writes.

The file may be in use. All that is read is of one moment. A file that is not there is not made, and
one that is no log is refused with the sentence that opening it would have.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import quote

from flowstream._errors import LogUnavailableError
from flowstream.logs._log_clock import LogClock
from flowstream.logs._sqlite_faults import fault
from flowstream.logs._sqlite_file import check_kind
from flowstream.logs._sqlite_read import read_time, snapshot
from flowstream.logs._sqlite_transaction import TOPIC_COLUMNS, TopicRow
from flowstream.logs._topic_summary import TopicSummary

# Seconds to wait for a process that is just making the file, or recovers it.
_BUSY_SECONDS = 5.0


@contextmanager
def reading(path: str) -> Iterator[sqlite3.Connection]:
    """Open the file to read it, as it is at one moment.

    Raises:
        LogUnavailableError: there is no log, or it can't be read.
    """
    if not os.path.isfile(path):
        raise LogUnavailableError(
            f"there is no log {path}: name one that is there, or make it with `flowstream log init`"
        )
    try:
        uri = f"file:{quote(os.path.abspath(path))}?mode=rw"
        with closing(
            sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
        ) as db:
            db.execute("pragma query_only=1")
            with snapshot(db):
                if not check_kind(path, db):
                    raise LogUnavailableError(
                        f"{path} is empty: `flowstream log init` makes a log of it"
                    )
                yield db
    except sqlite3.Error as error:
        raise fault(path, error) from error


def topic_rows(db: sqlite3.Connection, name: str | None = None) -> list[TopicRow]:
    """Return all topics by name, those deleted too; or the one with this name."""
    where = "" if name is None else "where name = ?"
    rows = db.execute(
        f"select {TOPIC_COLUMNS} from topic {where} order by name", () if name is None else (name,)
    ).fetchall()
    return [TopicRow.of(row) for row in rows]


def summary(db: sqlite3.Connection, topic: TopicRow, clock: LogClock | None = None) -> TopicSummary:
    """Return what a topic has."""
    _, _, now = read_time(db, clock or LogClock())
    kept, size, first, newest = db.execute(
        "select count(*), coalesce(sum(length(data)), 0), min(number), max(at) from event"
        " where topic = ? and number >= ? and at > ?",
        (topic.id, topic.first(), now - topic.keep.seconds),
    ).fetchone()
    return TopicSummary(
        topic.name,
        topic.epochs,
        topic.head,
        topic.head + 1 if first is None else first,
        kept,
        size,
        None if newest is None else max(0.0, now - newest),
        topic.keep,
        topic.deleted,
    )
