"""A real table without a download: the Unicode character database that Python ships.

It has about 140,000 rows in a SQLite file, enough to show with a slow client what backpressure is
for. The file is made at first use, one for each version of Unicode. It is kept inside the temporary
directory, in a directory that only this user can write to, because anybody could put a file into
`/tmp` itself.

The file is written under another name and renamed when it is complete. So any number of processes
may start at the same time: each finds a complete file or makes one, and the last rename wins with
the same content.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
import tempfile
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ._progress_bar import progress
from .unicode_blocks import block_of

SCHEMA = 1
"""Increase this when the columns change: a file of another schema is made again."""

COLUMNS = (
    "codepoint",
    "character",
    "name",
    "category",
    "bidirectional",
    "combining",
    "east_asian_width",
    "block",
    "decimal",
    "numeric",
    "mirrored",
    "decomposition",
)
"""The columns, in order. `decimal` and `numeric` are null for a character that is no number."""

BATCH = 500
"""Rows fetched from SQLite at a time."""

Row = tuple[str, str, str, str, str, int, str, str, int | None, float | None, bool, str]

_loading = threading.Lock()


@dataclass(frozen=True, slots=True)
class CursorStatistics:
    """How many cursors on the table are open, and how many there were."""

    open: int
    """Cursors open now. It is 0 as soon as the last client has gone."""
    opened: int
    """Cursors opened since the process started."""


class Cursors:
    """Counts the open cursors, to show that no cursor outlives its client."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # cursors are opened and closed in worker threads
        self._open = 0
        self._opened = 0

    def add(self) -> None:
        """Count a cursor that was opened."""
        with self._lock:
            self._open += 1
            self._opened += 1

    def remove(self) -> None:
        """Count a cursor that was closed."""
        with self._lock:
            self._open -= 1

    def statistics(self) -> CursorStatistics:
        """Return the counts of this moment."""
        with self._lock:
            return CursorStatistics(open=self._open, opened=self._opened)


cursors: Cursors = Cursors()
"""The cursors that `open_rows` opened, in the whole process."""


def characters(codepoints: Iterable[int] = range(sys.maxunicode + 1)) -> Iterator[Row]:
    """Yield a row for each of `codepoints` that has a name, in the order of `COLUMNS`.

    Surrogates, private use, unassigned code points and the 65 controls have no name in Unicode.
    """
    for codepoint in codepoints:
        char = chr(codepoint)
        name = unicodedata.name(char, None)
        if name is None:
            continue
        yield (
            f"U+{codepoint:04X}",
            char,
            name,
            unicodedata.category(char),
            unicodedata.bidirectional(char),
            unicodedata.combining(char),
            unicodedata.east_asian_width(char),
            block_of(codepoint),
            unicodedata.decimal(char, None),
            unicodedata.numeric(char, None),
            bool(unicodedata.mirrored(char)),
            unicodedata.decomposition(char),
        )


def load(directory: Path | None = None) -> Path:
    """Return the path of the table. Make the table first if it is missing.

    That takes a second or two, so call this in a worker thread. Call it for each request, because a
    temporary directory may be cleaned at any time.

    Args:
        directory: where to keep the file, instead of this user's temporary directory.

    Raises:
        PermissionError: this user's own directory belongs to somebody else, or others may write
            to it.
    """
    if directory is None:
        directory = private_directory()
    path = directory / f"unicode-{unicodedata.unidata_version}.sqlite3"
    with _loading:
        if not is_whole(path):
            make(path)
    return path


def private_directory() -> Path:
    """Return a directory inside the temporary one that only this user can write to.

    Raises:
        PermissionError: the directory of that name belongs to somebody else, or is open to others.
    """
    path = Path(tempfile.gettempdir()) / f"flowstream-demo-{os.getuid()}"
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        # lstat, because a link to a directory of this user's may be a trap, too.
        found = path.lstat()
        if (
            not stat.S_ISDIR(found.st_mode)
            or found.st_uid != os.getuid()
            or stat.S_IMODE(found.st_mode) & 0o077
        ):
            raise PermissionError(
                f"{path} must be a directory of this user's with mode 0700. Remove it, or"
                " set TMPDIR to another place."
            ) from None
    return path


def is_whole(path: Path) -> bool:
    """Tell whether `path` is a table of this schema."""
    try:
        with closing(_connect(path)) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.DatabaseError:  # it is missing, or no database
        return False
    return bool(version == SCHEMA)


def make(path: Path, codepoints: range = range(sys.maxunicode + 1)) -> None:
    """Write the complete table of `codepoints` to `path`, or nothing; show a progress bar."""
    handle, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        with (
            closing(sqlite3.connect(part)) as connection,
            progress("Loading the Unicode character database", len(codepoints)) as report,
        ):
            connection.execute("PRAGMA journal_mode = OFF")  # an incomplete file is thrown away
            connection.execute(
                f"CREATE TABLE characters ({', '.join(COLUMNS)})"  # fixed names, no input
            )
            connection.executemany(
                f"INSERT INTO characters VALUES ({', '.join('?' * len(COLUMNS))})",
                characters(_reported(codepoints, report)),
            )
            connection.execute(f"PRAGMA user_version = {SCHEMA:d}")
            connection.commit()
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def open_rows(path: Path, limit: int | None = None) -> Iterator[dict[str, object]]:
    """Yield the rows of the table at `path` as dicts, `BATCH` at a time from a SQLite cursor.

    The cursor is opened at the first row, and closed when the generator ends or is closed. Each row
    may be fetched in another thread, as in a pool of workers.

    Args:
        path: the path that `load` returned.
        limit: most rows; None for all.
    """
    with closing(_connect(path)) as connection:
        cursors.add()
        try:
            # A LIMIT of -1 means no limit.
            cursor = connection.execute(
                "SELECT * FROM characters ORDER BY rowid LIMIT ?", (-1 if limit is None else limit,)
            )
            while rows := cursor.fetchmany(BATCH):
                for row in rows:
                    record: dict[str, object] = dict(zip(COLUMNS, row, strict=True))
                    record["mirrored"] = bool(record["mirrored"])  # SQLite has no booleans
                    yield record
        finally:
            cursors.remove()


def _connect(path: Path) -> sqlite3.Connection:
    uri = f"file:{quote(str(path))}?mode=ro"
    return sqlite3.connect(uri, uri=True, check_same_thread=False)


def _reported(codepoints: range, report: Callable[[int], None]) -> Iterator[int]:
    for done, codepoint in enumerate(codepoints):
        if done % 16384 == 0:
            report(done)
        yield codepoint
    report(len(codepoints))
