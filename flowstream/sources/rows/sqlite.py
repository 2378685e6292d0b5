"""Rows of an SQLite database, streamed as a query finds them."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from flowstream.sources._source import Source
from flowstream.sources.rows._rows import Params, Rows, check_query

if TYPE_CHECKING:
    import sqlite3

__all__ = ["sqlite_rows"]


def sqlite_rows(
    database: str | os.PathLike[str] | sqlite3.Connection,
    sql: str,
    params: Params = (),
    *,
    batch: int = 500,
    tuples: bool = False,
) -> Source:
    """Return a source of the rows of a query, read in worker threads.

    When the client goes, the query is interrupted, even if it computes and has no row yet.

    **Emits** each row when it is found, and so is the next: `sqlite3` looks one ahead.
    **Backpressures**: the next rows are fetched when the stream has taken these. **Completes**
    with the last row; the database is closed by then, or, if a connection was handed over,
    the query's cursor is, and nothing is committed.

    Args:
        database: the path of a file, opened for reading only when the stream begins; or a
            connection of the app's, made with ``check_same_thread=False``. A connection is
            for one stream at a time, and for nothing else meanwhile: what interrupts the query
            interrupts all that it runs.
        sql: one statement.
        params: its parameters, by position or by name.
        batch: rows that a thread brings at once, at most: 1 to 5000. So many are held.
        tuples: whether rows are tuples; else they are dicts by the names of the columns. The
            tuples have their names, too, in ``_fields``, for the header of a CSV.

    Raises:
        TypeError, ValueError: an argument is not what is said above.

    Text that is not UTF-8 is sent with U+FFFD in the place of what can't be read, and logged. (On
    a connection of the app's, its own ``text_factory`` decides.)

    A stream fails with `NotFoundError` if there is no file at the path, with `UpstreamError`
    (503) if others keep the database locked for 5 s, and with what `sqlite3` raises
    otherwise, for a query that can't be read or a file that is no database.
    """
    # Not at the top: an app that has no use for it does without.
    import sqlite3

    from flowstream.sources.rows._sqlite_cursor import SQLiteCursor

    check_query(sql, params)
    if not isinstance(database, sqlite3.Connection):
        given: object = database
        path = os.fspath(given) if isinstance(given, os.PathLike) else given
        if not isinstance(path, str):
            kind = type(given).__name__
            raise TypeError(f"database must be a path or a sqlite3.Connection, not a {kind}")
        database = path
        if database in ("", ":memory:"):
            raise ValueError("a database in memory is its connection: hand that over")
    return Rows(partial(SQLiteCursor, database, sql, params), batch=batch, tuples=tuples)
