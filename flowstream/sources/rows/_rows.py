"""Rows: a query's result is read in worker threads, in batches, and sent row by row.

A hop to a thread and back costs some 100 µs, so rows come hundreds at a time. A batch is
sent before the next is fetched: the thread and the event loop would otherwise take the
interpreter's lock from each other at every row, which costs more than the two gain by running
side by side; and one batch is all that is held.

A row that is there does not wait for one that is not: what a thread has found after a few
milliseconds is sent while it is still away, and it comes back with what it finds next.
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

# More are no faster, and a driver that makes them in one piece holds the interpreter's lock
# for some 5 µs a row: the event loop would stand still.
MAX_BATCH = 5000

# Bytes in a batch, by the look of one row of those before: 500 rows may have a picture each.
BATCH_BYTES = 1 << 20

Params = Sequence[Any] | Mapping[str, Any]
_Shape = Callable[[Sequence[Any]], Any]


class Batch:
    """What one visit brings back, some of it while the thread is still away.

    Attributes:
        rows: what was fetched and not yet sent, as the driver gives it.
        size: rows that may be fetched.
        late: the thread is to come back with what it finds next; set by the event loop.
        last: there are no more; set by the cursor.
    """

    __slots__ = ("last", "late", "rows", "size")

    def __init__(self, size: int) -> None:
        self.rows: deque[tuple[Any, ...]] = deque()
        self.size = size
        self.late = False
        self.last = False


class QueryCursor(Visited):
    """A query that runs. What its methods raise is for the client, or for the log."""

    @abc.abstractmethod
    def open(self) -> Sequence[str]:
        """Run the query; return the names of its columns."""

    @abc.abstractmethod
    def fetch(self, batch: Batch) -> None:
        """Put the next rows into `batch`."""


class Rows(Source):
    """The rows of one query, which is made anew for each stream.

    Args:
        cursor: makes what is read; it is not opened before the stream runs.
        batch: rows that are fetched at once, at most.
        tuples: whether rows are tuples; else they are dicts.
    """

    def __init__(self, cursor: Callable[[], QueryCursor], *, batch: int, tuples: bool) -> None:
        self._cursor = cursor
        self._size = _check_batch(batch)
        self._shape_of = _as_tuples if tuples else _as_dicts

    async def run(self, out: Outlet) -> None:
        """Send each row."""
        await _Reading(self._cursor(), self._size, self._shape_of).send_all(out)


class _Reading:
    """One query, as it is read for one stream."""

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
                # What came before a failure is delivered before it is told.
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
            visits.close(complete=True)  # at once, and not when the client has taken it all

    async def _send(self, rows: deque[tuple[Any, ...]], out: Outlet) -> None:
        """Send what is there; the thread may be adding to it.

        Here and not in the thread rows become what they are to be: a dict lives for a moment
        then, and the next takes its place in memory. Made hundreds at a time, in one thread,
        and freed in another they cost twice as much, and a third of all that a row costs.
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
    # A function is written for the query, as `collections.namedtuple` does: for a row of 19
    # columns it takes half as long as `dict(zip(names, row))`, and JSON is made of the dict
    # in two thirds of the time. In it a name is a literal, whatever the database calls it.
    cells = [f"cell{number}" for number in range(len(names))]
    items = ", ".join(f"{name!r}: {cell}" for name, cell in zip(names, cells, strict=True))
    made: dict[str, _Shape] = {}
    exec(f"def shape(row):\n [{', '.join(cells)}] = row\n return {{{items}}}", made)
    return made["shape"]


def _as_tuples(names: Sequence[str]) -> _Shape:
    return type("Row", (tuple,), {"__slots__": (), "_fields": tuple(names)})


def check_query(sql: object, params: object) -> None:
    """Raise what is wrong with the arguments of a query, where they were given.

    Raises:
        TypeError: `sql` is no text, or `params` neither a sequence nor a mapping. A `str` is
            a sequence, but one parameter that was meant as such.
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
