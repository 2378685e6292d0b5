"""Rows of an SQLite database, streamed while the query finds them."""

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

    When the client leaves, the query is interrupted, even if it still computes and has no row yet.

    **Emits** each row when the next one is found, because `sqlite3` looks one row ahead.
    **Backpressures**: it fetches more rows when the stream has taken these. **Completes** with
    the last row. By then the database is closed. If you passed a connection, only the query's
    cursor is closed, and nothing is committed.

    Args:
        database: the path of a file, which is opened for reading only when the stream begins; or
            a connection of the app, made with ``check_same_thread=False``. Use a connection for
            one stream at a time, and for nothing else meanwhile: an interrupt of the query
            interrupts everything that the connection runs.
        sql: one statement.
        params: its parameters, by position or by name.
        batch: most rows that a thread fetches at once, and that are held: 1 to 5000.
        tuples: whether rows are tuples; otherwise they are dicts by column name. The tuples
            have the names in ``_fields``, for the header of a CSV.

    Raises:
        TypeError, ValueError: an argument is not what is said above.

    In text that is not UTF-8, U+FFFD takes the place of what can't be read, and the log says so.
    (With your own connection, its ``text_factory`` decides.)

    A stream fails with `NotFoundError` if there is no file at the path, and with `UpstreamError`
    (503) if others keep the database locked for 5 s. Otherwise it fails with what `sqlite3`
    raises, for example for a query that can't be read or a file that is not a database.
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
