"""A query of SQLite, whose rows worker threads step through."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any
from urllib.parse import quote

from flowstream._clock import clock
from flowstream._errors import NotFoundError, SourceError, UpstreamError
from flowstream.sources.rows._rows import BATCH_BYTES, Batch, Params, QueryCursor

logger = logging.getLogger("flowstream")

# Seconds to wait for another process that writes; Python's own default. SQLite's own wait can't be
# interrupted, so it gets little time, again and again.
_BUSY_SECONDS = 5.0
_BUSY_STEP = 0.02
# Rows that are fetched before checking whether the thread is late, which saves a tenth of the time.
# While rows come slowly it is one, since the next row might take long.
_QUICK_STEP = 32

# The message of `sqlite3` for text that is not UTF-8, which has no code.
_NOT_UTF8 = "Could not decode to UTF-8"

_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class SQLiteCursor(QueryCursor):
    """A query that runs.

    Args:
        database: the path of a file, or a connection of the app.
        sql: the query.
        params: its parameters.
    """

    def __init__(self, database: str | sqlite3.Connection, sql: str, params: Params) -> None:
        self._path = database if isinstance(database, str) else None
        self._connection = None if isinstance(database, str) else database
        self._sql = sql
        self._params = params
        self._cursor: sqlite3.Cursor | None = None
        self._interrupted = False
        self._step = 1
        self._text_factory: Any = None  # of the app's connection, if it was replaced

    def open(self) -> Sequence[str]:
        """Open the database and run the query to its first row."""
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
        cursor.row_factory = None  # the app's connection may have set one
        self._execute(cursor)
        if cursor.description is None:
            raise SourceError("the statement has no rows: it is no query")
        return [column[0] for column in cursor.description]

    def fetch(self, batch: Batch) -> None:
        """Step through the rows until there are enough, or the thread is late."""
        cursor = self._cursor
        assert cursor is not None
        rows, left, room = batch.rows, batch.size, BATCH_BYTES
        try:
            while left > 0 and room > 0 and not batch.late:
                row = next(cursor, None)
                if row is None:
                    batch.last = True
                    return
                size = _bytes(row)
                step = min(self._step, left, 1 + room // (size + 1))
                rows.append(row)
                rows.extend(islice(cursor, step - 1))
                left -= step
                room -= step * size
        except sqlite3.OperationalError as error:
            if not self._reads_on(error):
                raise _public(error) from error
            return
        self._step = 1 if batch.late else _QUICK_STEP

    def interrupt(self, attempt: int) -> None:
        """Make the running step fail, or end the wait for a lock."""
        self._interrupted = True
        if self._connection is not None:
            self._connection.interrupt()

    def close(self, *, complete: bool) -> None:
        """End the statement, and close the database if it is ours."""
        cursor, self._cursor = self._cursor, None
        if cursor is not None:
            cursor.close()  # ends the statement, which holds a lock on the database
        if self._connection is not None:
            if self._text_factory is not None:
                self._connection.text_factory = self._text_factory
            if self._path is not None:
                self._connection.close()

    def _reads_on(self, error: sqlite3.OperationalError) -> bool:
        """Return whether the row that failed can be read now, with U+FFFD in its text.

        SQLite does not check that text is UTF-8. The cursor stays at the row, so the next fetch
        begins with it.
        """
        connection = self._connection
        if connection is None or self._text_factory or not str(error).startswith(_NOT_UTF8):
            return False
        logger.warning("an SQLite database has text that is not UTF-8; it is sent with U+FFFD")
        self._text_factory = connection.text_factory
        connection.text_factory = partial(str, encoding="utf-8", errors="replace")
        return True

    def _execute(self, cursor: sqlite3.Cursor) -> None:
        """Run the query to its first row; wait while others write, if the database is ours."""
        until = clock.monotonic() + _BUSY_SECONDS
        while True:
            try:
                cursor.execute(self._sql, self._params)
            except sqlite3.OperationalError as error:
                waits = self._path is not None and clock.monotonic() < until
                if not (_is_busy(error) and waits and not self._interrupted):
                    raise _public(error) from error
            else:
                return


def _bytes(row: Sequence[Any]) -> int:
    return sum(len(cell) for cell in row if isinstance(cell, (str, bytes)))


def _connect(path: str) -> sqlite3.Connection:
    # A plain `connect` would make an empty database if the file does not exist.
    uri = f"file:{quote(os.path.abspath(path))}?mode=ro"
    try:
        return sqlite3.connect(uri, uri=True, timeout=_BUSY_STEP, check_same_thread=False)
    except sqlite3.OperationalError as error:
        if os.path.exists(path) and not os.path.isdir(path):
            raise
        # A wrong path is usually not the client's mistake, so log it.
        logger.warning("there is no database at %s", path)
        raise NotFoundError("There is no such database.") from error


def _is_busy(error: sqlite3.OperationalError) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY  # the rest says why


def _public(error: sqlite3.OperationalError) -> Exception:
    if _is_busy(error):
        return UpstreamError("database_busy", "The database is busy.", status=503)
    return error
