"""Rows of a database as NDJSON and as CSV, however many, in flat memory.

    flowstream serve examples/03_rows.py:app
    curl -N http://127.0.0.1:8000/rows.ndjson | head -3
    curl -N http://127.0.0.1:8000/rows.csv -o rows.csv

The cursor is iterated in a worker thread, a batch at a time, and closed when the client goes. A CSV
that breaks off ends without its final chunk: curl calls that an error, not a file.
"""

import contextlib
import sqlite3
import tempfile
import unicodedata
from pathlib import Path

from quart_trio import QuartTrio

from flowstream import csv, ndjson
from flowstream.quart import Flowstream

app = QuartTrio(__name__)
Flowstream(app)
directory = tempfile.TemporaryDirectory()
database = Path(directory.name) / "characters.sqlite"


@app.before_serving
async def make_table():
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS character (code INTEGER, name TEXT)")
        named = ((code, unicodedata.name(chr(code), "")) for code in range(0x20, 0x3000))
        connection.executemany(
            "INSERT INTO character VALUES (?, ?)", filter(lambda row: row[1], named)
        )


def rows():
    """Runs in worker threads, one batch after the other."""
    with contextlib.closing(sqlite3.connect(database, check_same_thread=False)) as connection:
        connection.row_factory = sqlite3.Row
        for row in connection.execute("SELECT code, name FROM character ORDER BY code"):
            yield dict(row)


@app.get("/rows.ndjson")
async def rows_ndjson():
    return ndjson(rows, controls=False)


@app.get("/rows.csv")
async def rows_csv():
    return csv(rows, headers={"Content-Disposition": "attachment; filename=rows.csv"})
