"""The two sides of `rows.py`, each in a process of its own.

``python _rows_sides.py loop DATABASE LIBRARY FILE`` reads all flights in a plain loop, writes
them to a file, and prints what it took. ``python _rows_sides.py HOME SQLITE DSN`` prints its
port and serves in one of four homes until it is killed: ``/sqlite`` and ``/postgres`` are all
flights, ``/sqlite/computing`` and ``/postgres/computing`` a query that computes for hours, and
``/figures`` what the event loop has spent and how long it was held up since that was last asked.
``/figures?watch=1`` begins to look at that: a task wakes every five milliseconds until the next
``/figures``, and never while another home's server is measured.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import psycopg
import trio
from _homes import HOMES
from _servers import serve_trio
from psycopg.rows import dict_row

BATCH = 500
FLIGHTS = "SELECT * FROM flights"
COMPUTING = {
    "sqlite": """WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
                 SELECT i FROM n, (SELECT * FROM flights LIMIT 1) WHERE i < 0""",
    "postgres": "SELECT count(*) FROM flights a, flights b, flights c",
    "postgres/asleep": "SELECT pg_sleep(3600)",
}
TICK = 0.005


# The plain loop


@contextlib.contextmanager
def rows(database: str) -> Iterator[Iterator[dict[str, Any]]]:
    """Give the rows of the flights, one by one, as whoever writes a plain loop does."""
    if database.endswith(".sqlite"):
        with contextlib.closing(sqlite3.connect(database)) as connection:
            cursor = connection.execute(FLIGHTS)
            names = [column[0] for column in cursor.description]
            yield (dict(zip(names, row, strict=True)) for row in cursor)
        return
    with (
        psycopg.connect(database) as connection,
        connection.cursor("plain", row_factory=dict_row) as cursor,
    ):
        cursor.itersize = BATCH
        cursor.execute(FLIGHTS)
        yield iter(cursor)


def loop(database: str, library: str, path: str) -> None:
    """Write all flights to a file; print the rows and the seconds of wall and of CPU time."""
    encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode
    if library == "json":

        def encode(row: Any) -> bytes:
            return json.dumps(row, default=str).encode()

    count = 0
    wall, cpu = time.perf_counter(), time.thread_time()
    with open(path, "wb") as file, rows(database) as cursor:
        for row in cursor:
            file.write(encode(row))
            file.write(b"\n")
            count += 1
    wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
    print(json.dumps({"rows": count, "wall": wall, "cpu": cpu}))


# Ours


class Watch:
    """Sees how long the event loop is held up, while somebody wants to know."""

    def __init__(self) -> None:
        self._wanted = trio.Event()
        self._worst = 0.0

    async def run(self) -> None:
        """Wake every `TICK` while it is wanted; until cancelled."""
        while True:
            await self._wanted.wait()
            due = trio.current_time() + TICK
            await trio.sleep_until(due)
            self._worst = max(self._worst, trio.current_time() - due)

    async def figures(self, given: dict[str, str]) -> dict[str, float]:
        """Answer a request: seconds of CPU so far, and of the longest stall since the last."""
        worst, self._worst = self._worst, 0.0
        if not given:
            self._wanted = trio.Event()
        else:
            self._wanted.set()
        return {"cpu": time.thread_time(), "worst": worst}


def serve(home: str, database: str, dsn: str) -> None:
    """Serve the flights in one of the homes."""
    import flowstream
    from flowstream.sources.rows.postgres import postgres_rows
    from flowstream.sources.rows.sqlite import sqlite_rows

    def rows_of(source: Callable[..., Any], place: str, sql: str) -> Any:
        async def view(given: dict[str, str]) -> Any:
            return flowstream.ndjson(source(place, sql, batch=BATCH), controls=False)

        return view

    watch = Watch()
    views = {
        "/figures": watch.figures,
        "/sqlite": rows_of(sqlite_rows, database, FLIGHTS),
        "/postgres": rows_of(postgres_rows, dsn, FLIGHTS),
    }
    for name, sql in COMPUTING.items():
        to = (sqlite_rows, database) if name == "sqlite" else (postgres_rows, dsn)
        views[f"/{name}/computing"] = rows_of(*to, sql)
    serve_trio(*HOMES[home](views), beside=watch.run)


if __name__ == "__main__":
    if sys.argv[1] == "loop":
        loop(*sys.argv[2:])
    else:
        serve(*sys.argv[1:])
