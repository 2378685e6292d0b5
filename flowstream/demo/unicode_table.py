"""A real table without a download: the Unicode character database that Python ships.

It is about 140,000 rows in a SQLite file: big enough that a slow client of it shows what
backpressure is for. The file is made at first use and kept in the temporary directory, one
for each version of Unicode, inside a directory of this user's own: `/tmp` is everybody's, and
a file that somebody else could have put there is not read.

It is written under another name and renamed when it is whole, so any number of processes may
start at once: each finds a whole file or makes one, and the last rename wins with the same
content.
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
"""Raised whenever the columns change; a file of another schema is made anew."""

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
"""The columns, in order; `decimal` and `numeric` are null for what is no number."""

BATCH = 500
"""Rows fetched from SQLite at a time."""

Row = tuple[str, str, str, str, str, int, str, str, int | None, float | None, bool, str]

_loading = threading.Lock()


@dataclass(frozen=True, slots=True)
class CursorStatistics:
    """How many cursors on the table there are and were."""

    open: int
    """Cursors open now. It is 0 as soon as the last client has gone."""
    opened: int
    """Cursors opened since the process started."""


class Cursors:
    """Counts the open cursors, to show that none outlives its client."""

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

    What has none is no character: surrogates, private use, unassigned code points, and the
    65 controls, to which Unicode gives no name.
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
    """Return the path of the table, making it first if it is not there.

    It takes a second or two the first time, so call it in a worker thread. It is called for
    each request rather than once, because a temporary directory may be cleaned meanwhile.

    Args:
        directory: where the file is kept, instead of this user's temporary directory.

    Raises:
        PermissionError: the directory that should be this user's own is somebody else's,
            or open to others.
    """
    if directory is None:
        directory = private_directory()
    path = directory / f"unicode-{unicodedata.unidata_version}.sqlite3"
    with _loading:
        if not is_whole(path):
            make(path)
    return path


def private_directory() -> Path:
    """Return a directory in the temporary one that nobody but this user can write to.

    Raises:
        PermissionError: there is one of that name, but not of that kind.
    """
    path = Path(tempfile.gettempdir()) / f"flowstream-demo-{os.getuid()}"
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        # lstat: a link to a directory of this user's is as good a trap as a directory.
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
    except sqlite3.DatabaseError:  # not there, or no database
        return False
    return bool(version == SCHEMA)


def make(path: Path, codepoints: range = range(sys.maxunicode + 1)) -> None:
    """Write the table of `codepoints` to `path`, all of it or nothing, with a progress bar."""
    handle, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        with (
            closing(sqlite3.connect(part)) as connection,
            progress("Loading the Unicode character database", len(codepoints)) as report,
        ):
            connection.execute("PRAGMA journal_mode = OFF")  # a half-made file is thrown away
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

    The cursor is opened at the first row and closed with the generator, whichever end comes
    first. The threads may change between two rows, as they do in a pool of workers.

    Args:
        path: what `load` returned.
        limit: rows at the most; None for all.
    """
    with closing(_connect(path)) as connection:
        cursors.add()
        try:
            # A LIMIT of -1 is none.
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
