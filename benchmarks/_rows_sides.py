"""The two sides of `rows.py`, each in a process of its own.

``python _rows_sides.py loop DATABASE LIBRARY FILE`` reads all flights in a plain loop, writes
them to a file, and prints what it took. ``python _rows_sides.py serve SQLITE DSN`` prints its
port and serves until it is killed: ``/sqlite`` and ``/postgres`` are all flights,
``/sqlite/computing`` and ``/postgres/computing`` a query that computes for hours, and
``/figures`` what the event loop has spent and how long it was held up since that was last asked.
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


def serve(database: str, dsn: str) -> None:
    """Serve the flights."""
    import trio

    import flowstream
    from flowstream.server import streaming_config
    from flowstream.sources.postgres import postgres_rows
    from flowstream.sources.sqlite import sqlite_rows

    late = [0.0]

    async def tick() -> None:
        while True:
            due = trio.current_time() + TICK
            await trio.sleep_until(due)
            late.append(trio.current_time() - due)

    def response(path: str) -> Any:
        name = path.strip("/")
        sql = COMPUTING.get(name.removesuffix("/computing"), "") if "/" in name else FLIGHTS
        source: Any
        if name.startswith("sqlite"):
            source = sqlite_rows(database, sql, batch=BATCH)
        else:
            source = postgres_rows(dsn, sql, batch=BATCH)
        return flowstream.ndjson(source, controls=False)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/figures":
            await response(scope["path"])(scope, receive, send)
            return
        late.sort()
        figures = {"cpu": time.thread_time(), "worst": late[-1], "ticks": len(late)}
        late[:] = [0.0]
        body = json.dumps(figures).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            config = streaming_config(bind=["127.0.0.1:0"], loglevel="ERROR")
            addresses = await nursery.start(flowstream.serve, app, config)
            print(addresses[0].rsplit(":", 1)[1], flush=True)

    trio.run(main)


if __name__ == "__main__":
    {"loop": loop, "serve": serve}[sys.argv[1]](*sys.argv[2:])
