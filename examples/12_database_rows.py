"""Rows of SQLite, and of Postgres if you have one, in flat memory.

    flowstream serve examples/12_database_rows.py:app
    curl -N http://127.0.0.1:8000/characters | head -3
    curl -N 'http://127.0.0.1:8000/characters.csv?like=%25GREEK%25' -o greek.csv
    curl -N http://127.0.0.1:8000/forever

A client that goes takes its query with it: /forever computes without a row until then. What can't
begin has a status: /missing is a 404, and /tables a 503 if PGHOST and so on lead to no Postgres.
"""

import contextlib
import sqlite3
import tempfile
import unicodedata
from pathlib import Path

from quart import request
from quart_trio import QuartTrio

from flowstream import csv, ndjson
from flowstream.quart import Flowstream
from flowstream.sources import postgres_rows, sqlite_rows

app = QuartTrio(__name__)
Flowstream(app)
directory = tempfile.TemporaryDirectory()
database = Path(directory.name) / "characters.sqlite"
with contextlib.closing(sqlite3.connect(database)) as connection, connection:
    connection.execute("CREATE TABLE character (code INTEGER, name TEXT)")
    rows = ((code, unicodedata.name(chr(code), None)) for code in range(0x20, 0x3000))
    connection.executemany("INSERT INTO character VALUES (?, ?)", (row for row in rows if row[1]))

NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"


@app.get("/characters")
async def characters():
    return ndjson(sqlite_rows(database, "SELECT * FROM character"), controls=False)


@app.get("/characters.csv")
async def table():
    sql, like = "SELECT * FROM character WHERE name LIKE ?", request.args.get("like", "%")
    return csv(sqlite_rows(database, sql, [like], tuples=True))


@app.get("/forever")
async def forever():
    return ndjson(sqlite_rows(database, f"{NUMBERS} WHERE i < 0"))


@app.get("/missing")
async def missing():
    return ndjson(sqlite_rows(database.with_name("missing"), "SELECT 1"), prime=5)


@app.get("/tables")
async def tables():
    return ndjson(postgres_rows("", "SELECT * FROM pg_catalog.pg_tables"), prime=5)
