"""Rows: read a query's result in worker threads, in batches, and send it row by row.

A hop to a thread and back costs some 100 µs, so rows come hundreds at a time. A batch is sent
before the next one is fetched, so only one batch is held. Otherwise the thread and the event loop
would take the interpreter's lock from each other at every row, which costs more than running side
by side gains.

A ready row does not wait for the next one. After a few milliseconds the rows that a thread has
found are sent while it is still away, and it comes back with the next one.
"""

from __future__ import annotations

import abc
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from flowstream._errors import SourceError
from flowstream.buffer._outlet import Outlet
from flowstream.sources._source import Source
from flowstream.sources.threads._visits import Visited, Visits

_BATCH_SECONDS = 0.005

# More rows are no faster, and a driver that makes them in one piece holds the interpreter's lock
# for some 5 µs a row, in which the event loop can't run.
MAX_BATCH = 5000

# Bytes in a batch, estimated from a row of the last batch: 500 rows may have a picture each.
BATCH_BYTES = 1 << 20

Params = Sequence[Any] | Mapping[str, Any]
_Shape = Callable[[Sequence[Any]], Any]


class Batch:
    """The rows of one visit. Some may be sent while the thread is still away.

    Attributes:
        rows: the driver's rows that were fetched and not sent yet.
        size: how many rows may be fetched.
        late: whether the thread should come back with its next row; set by the event loop.
        last: whether there are no more rows; set by the cursor.
    """

    __slots__ = ("last", "late", "rows", "size")

    def __init__(self, size: int) -> None:
        self.rows: deque[tuple[Any, ...]] = deque()
        self.size = size
        self.late = False
        self.last = False


class QueryCursor(Visited):
    """A running query. Its methods raise errors for the client or for the log."""

    @abc.abstractmethod
    def open(self) -> Sequence[str]:
        """Run the query; return the names of its columns."""

    @abc.abstractmethod
    def fetch(self, batch: Batch) -> None:
        """Put the next rows into `batch`."""


class Rows(Source):
    """The rows of one query, which runs again for each stream.

    Args:
        cursor: makes the query's cursor, which is opened when the stream runs.
        batch: the most rows that are fetched at once.
        tuples: whether rows are tuples; otherwise they are dicts.
    """

    def __init__(self, cursor: Callable[[], QueryCursor], *, batch: int, tuples: bool) -> None:
        self._cursor = cursor
        self._size = _check_batch(batch)
        self._shape_of = _as_tuples if tuples else _as_dicts

    async def run(self, out: Outlet) -> None:
        """Send each row."""
        await _Reading(self._cursor(), self._size, self._shape_of).send_all(out)


class _Reading:
    """Reads one query for one stream."""

    def __init__(
        self, cursor: QueryCursor, size: int, shape_of: Callable[[Sequence[str]], _Shape]
    ) -> None:
        self._cursor = cursor
        self._size = size
        self._shape_of = shape_of
        self._shape: _Shape | None = None

    async def send_all(self, out: Outlet) -> None:
        visits = Visits(self._cursor)
        try:
            last = False
            while not last:
                batch = Batch(self._size)
                visit = await visits.start(partial(self._fetch, batch, visits))
                if not await visit.wait_for(_BATCH_SECONDS):
                    batch.late = True
                    await self._send(batch.rows, out)
                    await visit.wait()
                # Rows from before a failure are delivered first.
                await self._send(batch.rows, out)
                visit.result()
                last = batch.last
        finally:
            await visits.end()  # noqa: ASYNC102  # shields itself, see _visits.py

    def _fetch(self, batch: Batch, visits: Visits) -> None:
        """Fetch a batch. Runs in a thread."""
        if self._shape is None:
            self._shape = self._shape_of(self._cursor.open())
        self._cursor.fetch(batch)
        if batch.last:
            visits.close(complete=True)  # now, and not only when the client has read everything

    async def _send(self, rows: deque[tuple[Any, ...]], out: Outlet) -> None:
        """Send the rows that are there. The thread may be adding more.

        Rows become dicts or tuples here and not in the thread. So a dict lives only for a moment,
        and the next one takes its place in memory. Made hundreds at a time in one thread, and freed
        in another, they cost twice as much, which is a third of a row's whole cost.
        """
        if not rows:
            return
        put, take, shape = out._put, rows.popleft, self._shape
        assert shape is not None
        while rows:
            wait = put(shape(take()))
            if wait is not None:
                await wait


def _as_dicts(names: Sequence[str]) -> _Shape:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SourceError(
            f"the query has two columns that are named {twice[0]!r}, of which a dict has room "
            "for one: name them with AS, or take the rows as tuples"
        )
    # Generate a function for the query, as `collections.namedtuple` does. For a row of 19 columns
    # it takes half as long as `dict(zip(names, row))`, and its dict becomes JSON in two thirds of
    # the time. Column names are literals in it, whatever they contain.
    cells = [f"cell{number}" for number in range(len(names))]
    items = ", ".join(f"{name!r}: {cell}" for name, cell in zip(names, cells, strict=True))
    made: dict[str, _Shape] = {}
    exec(f"def shape(row):\n [{', '.join(cells)}] = row\n return {{{items}}}", made)
    return made["shape"]


def _as_tuples(names: Sequence[str]) -> _Shape:
    return type("Row", (tuple,), {"__slots__": (), "_fields": tuple(names)})


def check_query(sql: object, params: object) -> None:
    """Check the arguments of a query at the call.

    Raises:
        TypeError: `sql` is not text, or `params` is neither a sequence nor a mapping. A `str` is a
            sequence, but it was meant as one parameter.
        ValueError: `sql` is empty.
    """
    if not isinstance(sql, str):
        raise TypeError(f"sql must be a str, not {_kind(sql)}")
    if not sql.strip():
        raise ValueError("sql must be a query, and is empty")
    if isinstance(params, (str, bytes)) or not isinstance(params, (Sequence, Mapping)):
        raise TypeError(
            f"params must be a sequence or a mapping, not {_kind(params)}; one parameter is [value]"
        )


def _check_batch(batch: object) -> int:
    if isinstance(batch, bool) or not isinstance(batch, int):
        raise TypeError(f"batch must be an int, not {_kind(batch)}")
    if not 1 <= batch <= MAX_BATCH:
        raise ValueError(f"batch must be from 1 to {MAX_BATCH} rows, not {batch}")
    return batch


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"
