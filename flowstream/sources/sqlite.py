"""Rows of an SQLite database, streamed as a query finds them."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Sequence
from itertools import islice
from urllib.parse import quote

from flowstream._errors import NotFoundError, SourceError, UpstreamError
from flowstream.sources._rows import Batch, Cursor, Params, Rows, Shape, check_query
from flowstream.sources._source import Source

__all__ = ["sqlite_rows"]

# Seconds to wait for another process that writes; Python's own default. SQLite's way to wait
# can't be interrupted, so it is given little and asked again.
_BUSY_SECONDS = 5.0
_BUSY_STEP = 0.02
# Rows that are fetched without looking whether the thread is late, which saves a tenth of the
# time. One, while they come slowly: the next might be long in coming.
_QUICK_STEP = 32

_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


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

    A stream fails with `NotFoundError` if there is no file at the path, with `UpstreamError`
    (503) if others keep the database locked for 5 s, and with what `sqlite3` raises
    otherwise, for a query that can't be read or a file that is no database.
    """
    check_query(sql, params)
    if not isinstance(database, sqlite3.Connection):
        database = os.fspath(database)
        if not isinstance(database, str):
            raise TypeError(f"the path of a database must be a str, not {database!r}")
        if database in ("", ":memory:"):
            raise ValueError("a database in memory is its connection: hand that over")
    return Rows(_SQLiteCursor(database, sql, params), batch=batch, tuples=tuples)


class _SQLiteCursor(Cursor):
    def __init__(self, database: str | sqlite3.Connection, sql: str, params: Params) -> None:
        self._path = database if isinstance(database, str) else None
        self._connection = None if isinstance(database, str) else database
        self._sql = sql
        self._params = params
        self._cursor: sqlite3.Cursor | None = None
        self._interrupted = False
        self._step = 1

    def open(self) -> Sequence[str]:
        if self._path is not None:
            self._connection = _connect(self._path)
        assert self._connection is not None
        try:
            cursor = self._cursor = self._connection.cursor()
        except sqlite3.ProgrammingError as error:
            if "thread" not in str(error):
                raise
            raise SourceError(
                "a connection that is streamed from must be made with check_same_thread=False"
            ) from error
        cursor.row_factory = None  # the app's connection may have one
        self._execute(cursor)
        if cursor.description is None:
            raise SourceError("the statement has no rows: it is no query")
        return [column[0] for column in cursor.description]

    def fetch(self, batch: Batch, shape: Shape) -> None:
        cursor = self._cursor
        assert cursor is not None
        rows, left = batch.rows, batch.size
        try:
            while left > 0 and not batch.late:
                row = next(cursor, None)
                if row is None:
                    batch.last = True
                    return
                step = min(self._step, left)
                rows.append(shape(row))
                rows.extend(map(shape, islice(cursor, step - 1)))
                left -= step
        except sqlite3.OperationalError as error:
            raise _public(error) from error
        self._step = 1 if batch.late else _QUICK_STEP

    def interrupt(self, attempt: int) -> None:
        self._interrupted = True
        if self._connection is not None:
            self._connection.interrupt()

    def close(self, *, complete: bool) -> None:
        cursor, self._cursor = self._cursor, None
        if cursor is not None:
            cursor.close()  # ends the statement, which holds a lock on the database
        if self._path is not None and self._connection is not None:
            self._connection.close()

    def _execute(self, cursor: sqlite3.Cursor) -> None:
        """Run the query to its first row; wait while others write, if the database is ours."""
        until = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                cursor.execute(self._sql, self._params)
            except sqlite3.OperationalError as error:
                waits = self._path is not None and time.monotonic() < until
                if not (_is_busy(error) and waits and not self._interrupted):
                    raise _public(error) from error
            else:
                return


def _connect(path: str) -> sqlite3.Connection:
    # A plain `connect` would make an empty database of a name that is not there.
    uri = f"file:{quote(os.path.abspath(path))}?mode=ro"
    try:
        return sqlite3.connect(uri, uri=True, timeout=_BUSY_STEP, check_same_thread=False)
    except sqlite3.OperationalError as error:
        if os.path.exists(path):
            raise
        raise NotFoundError("there is no such database") from error


def _is_busy(error: sqlite3.OperationalError) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY  # the rest says why


def _public(error: sqlite3.OperationalError) -> Exception:
    if _is_busy(error):
        return UpstreamError("database_busy", "the database is busy", status=503)
    return error
