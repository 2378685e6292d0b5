"""A query of Postgres, read in batches through a cursor on the server."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from itertools import count
from typing import Any

from psycopg import Connection, Rollback, ServerCursor
from psycopg.rows import TupleRow, tuple_row

from flowstream._clock import clock
from flowstream.sources.rows._postgres_connection import connect, interrupt, told_to_the_client
from flowstream.sources.rows._postgres_values import is_loading_failure, keep_as_text, rows_as_sent
from flowstream.sources.rows._rows import BATCH_BYTES, Batch, Params, QueryCursor

_numbers = count(1)

# The server answers a FETCH when it has all of its rows. So the first FETCH asks for one row, the
# next ones for more while answers come quickly, and for fewer when they don't. A distant server is
# not a slow query: its answers take as long for one row as for hundreds.
_GROWTH = 8
_QUICK = 0.5
_SLOW = 1.0


class PostgresCursor(QueryCursor):
    """A query that runs.

    Args:
        database: a DSN, for a connection of its own, or a connection of the app.
        sql: the query.
        params: its parameters.
    """

    def __init__(self, database: str | Connection[Any], sql: str, params: Params) -> None:
        self._dsn = database if isinstance(database, str) else None
        self._connection = None if isinstance(database, str) else database
        self._sql: Any = sql  # psycopg's type wants a literal; that is up to the app
        self._params = params
        self._cursor: ServerCursor[TupleRow] | None = None
        self._transaction = contextlib.ExitStack()
        self._size = 1

    def open(self) -> Sequence[str]:
        """Connect, begin a transaction, and declare the cursor."""
        if self._dsn is not None:
            self._connection = connect(self._dsn, read_only=True)
        connection = self._connection
        assert connection is not None
        with told_to_the_client():
            if self._dsn is None:
                # A transaction, or a savepoint in the app's: the connection stays usable.
                self._transaction.enter_context(connection.transaction())
            name = f"flowstream_{next(_numbers)}"
            cursor = self._cursor = connection.cursor(name, row_factory=tuple_row)
            keep_as_text(cursor.adapters)
            cursor.execute(self._sql, self._params or None)
        return [column.name for column in cursor.description or ()]

    def fetch(self, batch: Batch) -> None:
        """Fetch as many rows as come in a reasonable time."""
        assert self._cursor is not None
        size = min(self._size, batch.size)
        started = clock.perf_counter()
        rows: list[TupleRow] = []
        try:
            with told_to_the_client():
                _fetch_into(rows, self._cursor, size)
        finally:
            batch.rows.extend(rows)
        taken = clock.perf_counter() - started
        batch.last = len(rows) < size
        if taken < _QUICK:
            self._size = size * _GROWTH
        elif taken > _SLOW:
            self._size = size // _GROWTH
        if rows:
            self._size = min(self._size, BATCH_BYTES // (_last_bytes(self._cursor) + 1))
        self._size = max(1, self._size)

    def interrupt(self, attempt: int) -> None:
        """Ask the server to cancel our query."""
        if self._connection is not None:
            interrupt(self._connection, attempt)

    def close(self, *, complete: bool) -> None:
        """End the transaction; if the connection is ours, close it."""
        if self._dsn is None:
            with told_to_the_client(), self._transaction:
                self._close_cursor()
                if not complete:
                    raise Rollback
        elif self._connection is not None:
            self._connection.close()  # the server drops the rest
            self._close_cursor()

    def _close_cursor(self) -> None:
        cursor, self._cursor = self._cursor, None
        if cursor is not None:
            cursor.close()


def _fetch_into(rows: list[TupleRow], cursor: ServerCursor[TupleRow], size: int) -> None:
    """Add the next rows to `rows`, also those from before a failure."""
    before = cursor.pgresult
    try:
        rows += cursor.fetchmany(size)
    except Exception:
        if not is_loading_failure(cursor, before):
            raise
        rows.extend(rows_as_sent(cursor))


def _last_bytes(cursor: ServerCursor[TupleRow]) -> int:
    """Return the bytes in which the server has sent the last row: JSON is no text any more."""
    result = cursor.pgresult
    assert result is not None
    last = result.ntuples - 1
    return sum(len(result.get_value(last, place) or b"") for place in range(result.nfields))
