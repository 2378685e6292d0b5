"""Read the end of a file that others write to, and of the files that take its place.

A file is known by its device and inode, whatever its name is. Apart from the file that is read, up
to `_MAX_WAITING` later ones are held open, so that they may be renamed before they are read. A file
that came and was renamed between two looks is found by its new name (see `_rotated.py`).

*When to go on with the next file.* A program that rotates logs renames the file, makes a new one,
and tells the writer, which until then writes to the old one. So the old file is read as long as the
new one is empty. When the writer writes to the new file, it has finished with the old one, which is
then complete.

*When a file was rewritten.* It is shorter than what was read of it; or the bytes before the current
place have changed. The last `MARK` bytes that were read are read again with the next ones. So a
file is also recognised that was emptied and has already grown past the place. Bytes that were
written, and not read before the file was emptied, are lost: nobody has them any more.

Everything here blocks, so it is called in worker threads.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flowstream._clock import clock
from flowstream._errors import NotFoundError, PublicError
from flowstream.sources.files._file_position import MARK, FilePosition, LineCounter
from flowstream.sources.files._regular_file import Path, forbidden, open_regular
from flowstream.sources.files._rotated import Rotated, rotated

_BLOCK = 64 * 1024
_MAX_WAITING = 16

# A file that was just made may be unreadable for us until another call has set its owner. If it is
# unreadable at this many looks in a row, that is intended.
_MAX_REFUSALS = 5

# The time of a write is that of the last tick of the kernel's clock, 1 to 10 ms apart.
_TICK_NS = 20_000_000

_Identity = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Piece:
    """The result of one look at the files.

    Attributes:
        data: the next bytes; empty if there are none yet.
        begins: their place, if they do not follow the last bytes in the same file.
        lost: whether something may be missing before them.
        more: whether to look again at once.
    """

    data: bytes = b""
    begins: LineCounter | None = None
    lost: bool = False
    more: bool = False


class _File:
    """One file, open, and how far it has been read."""

    __slots__ = ("_before", "_fd", "at", "identity", "is_after_hole")

    def __init__(self, fd: int, status: os.stat_result) -> None:
        self._fd = fd
        self._before = b""
        self.identity = _identity(status)
        self.is_after_hole = False  # a file before it was skipped
        self.at = 0

    @property
    def size(self) -> int:
        return os.fstat(self._fd).st_size

    @property
    def modified(self) -> int:
        return os.fstat(self._fd).st_mtime_ns

    def cursor(self) -> LineCounter:
        return LineCounter(self.identity[1], self.at, self._before)

    def go_to(self, offset: int) -> None:
        start = max(0, offset - MARK)
        self._before = os.pread(self._fd, offset - start, start)
        self.at = offset

    def go_to_place(self, place: FilePosition) -> bool:
        """Go to `place`; return False if that is not in this file."""
        if place.inode != self.identity[1] or place.offset > self.size:
            return False
        self.go_to(place.offset)
        return zlib.crc32(self._before) == place.mark

    def go_to_last_lines(self, count: int, most: int) -> None:
        """Go to the beginning of the last `count` lines. An incomplete line counts as one.

        At most the last `most` bytes are searched.
        """
        end = at = self.size
        least = max(0, end - most)
        ended = bool(end) and os.pread(self._fd, 1, end - 1) == b"\n"
        wanted = max(1, count + ended)
        while at > least:
            start = max(least, at - _BLOCK)
            block = os.pread(self._fd, at - start, start)
            found = block.count(b"\n")
            if found >= wanted:
                position = len(block)
                for _ in range(wanted):
                    position = block.rfind(b"\n", 0, position)
                self.go_to(start + position + 1)
                return
            wanted -= found
            at = start
        self.go_to(least)

    def read(self) -> bytes | None:
        """Return the next bytes, perhaps none; None if the file was rewritten."""
        if self.size < self.at:
            return None
        data = os.pread(self._fd, len(self._before) + _BLOCK, self.at - len(self._before))
        if not data.startswith(self._before):
            return None
        new = data[len(self._before) :]
        self._before = data[-MARK:]
        self.at += len(new)
        return new

    def rewind(self) -> None:
        self._before, self.at = b"", 0

    def close(self) -> None:
        os.close(self._fd)


class Tail:
    """Reads a file, and the files that take its place.

    Args:
        path: the path of the newest file.
        last: how many lines to begin with; None for all.
        after: the last id that the client saw, or None for a new client.
        replay: how many bytes the client may be behind.

    Attributes:
        looks: how often `look` was called.
    """

    def __init__(self, path: Path, *, last: int | None, after: str | None, replay: int) -> None:
        self.looks = 0
        self._path = path
        self._last = last
        self._after = after
        self._replay = replay
        self._files: deque[_File] = deque()  # the file that is read, and those that wait
        self._reading: _File | None = None
        self._left: tuple[_Identity, int] | None = None  # the last file, as it was left
        self._unheld: _Identity | None = None  # a file for which there was no room
        self._absent_at = 0  # when a look first found that there is no file
        self._refusals = 0
        self._lock = threading.Lock()
        self._closed = False

    def look(self) -> Piece:
        """Return the next bytes.

        Raises:
            PublicError: the newest file may not be read.
            OSError: the file system failed.
        """
        self.looks += 1
        with self._inside() as wanted:
            if not wanted:
                return Piece()
            self._find()
            return self._read()

    def find(self) -> None:
        """Hold a new file open, while the client is not ready to read those before it.

        Raises:
            PublicError, OSError: as for `look`.
        """
        with self._inside() as wanted:
            if wanted:
                self._find()

    def close(self) -> None:
        """Close the files, or let the thread do so that is in here. **Never blocks.**"""
        self._closed = True
        if self._lock.acquire(blocking=False):
            try:
                self._drop(0)
            finally:
                self._lock.release()

    @contextmanager
    def _inside(self) -> Iterator[bool]:
        """Keep other threads out; yield whether the files are still wanted; else close them."""
        try:
            with self._lock:
                yield not self._closed
        finally:
            if self._closed:
                self.close()

    # -- finding files ---------------------------------------------------------------------

    def _find(self) -> None:
        """Open the current file if it is new, and the files that came before it."""
        try:
            identity = _identity(os.stat(self._path))
            if self._files and self._files[-1].identity == identity:
                return
            if len(self._files) > _MAX_WAITING:
                self._unheld = identity
                return
            file = _File(*open_regular(self._path))
        except (FileNotFoundError, NotADirectoryError, NotFoundError):
            self._absent_at = self._absent_at or clock.file_time_ns()
            return
        except (PublicError, PermissionError) as error:
            self._refusals += 1
            if self._refusals < _MAX_REFUSALS:
                return
            raise forbidden() from error
        self._refusals = 0
        gone = self._gone_since(file)
        if not self._is_there(file):
            file.close()  # the next look sees what has become of it
        else:
            self._append_all(gone, file)

    def _is_there(self, file: _File) -> bool:
        """Return whether a file still has the name, so that no later one exists."""
        try:
            return _identity(os.stat(self._path)) == file.identity
        except OSError:
            return False

    def _gone_since(self, newest: _File) -> list[Rotated]:
        """Return the files that were written after the last waiting one, without `newest`."""
        known = {file.identity for file in (*self._files, newest)}
        if self._files:
            since = self._files[-1].modified
        elif self._absent_at:
            since = self._absent_at - _TICK_NS
        else:
            return []  # they are from before we came
        return [
            one
            for one in rotated(self._path)
            if one.status.st_mtime_ns >= since
            and _identity(one.status) not in known
            and (_identity(one.status), one.status.st_mtime_ns) != self._left
        ]

    def _append_all(self, gone: list[Rotated], file: _File) -> None:
        """Add `gone` and then `file` to the waiting files, as far as there is room."""
        seen = {file.identity, *(_identity(one.status) for one in gone)}
        hole = self._unheld is not None and self._unheld not in seen
        self._unheld = None
        for one in gone:
            if len(self._files) > _MAX_WAITING:
                file.close()  # it and later ones are found again, after the last waiting one
                return
            if before := self._opened(one):
                before.is_after_hole, hole = hole, False
                self._files.append(before)
            else:
                hole = True
        file.is_after_hole = hole
        self._files.append(file)

    def _opened(self, one: Rotated) -> _File | None:
        """Open a renamed file; return None if that is impossible."""
        if not one.readable:
            return None
        try:
            file = _File(*open_regular(one.path))
        except (OSError, PublicError):
            return None
        if file.identity != _identity(one.status):
            file.close()  # it has been renamed again
            return None
        return file

    def _drop(self, index: int) -> None:
        """Close all files from `index` on."""
        while len(self._files) > index:
            self._files.pop().close()

    # -- reading files ---------------------------------------------------------------------

    def _read(self) -> Piece:
        if not self._files:
            return Piece()
        file = self._files[0]
        if self._reading is None:
            return self._begin(file)
        data = file.read()
        if data is None:
            file.rewind()
            return Piece(begins=file.cursor(), lost=True, more=True)
        if not data and self._is_left():
            # The writer wrote to the next file before this read, and writes to this one no more.
            data = file.read()
            if not data:
                return self._go_on()
        return Piece(data or b"", more=bool(data))

    def _is_left(self) -> bool:
        """Return whether the writer has gone on to the next file."""
        waiting = len(self._files) - 1
        return waiting > 1 or (waiting == 1 and self._files[1].size > 0)

    def _go_on(self) -> Piece:
        """Go to the next file."""
        left = self._files.popleft()
        self._left = left.identity, left.modified
        left.close()
        self._reading = file = self._files[0]
        return Piece(begins=file.cursor(), lost=file.is_after_hole, more=True)

    def _begin(self, file: _File) -> Piece:
        """Go to the place where the client begins."""
        resumed = self._after is not None and self._resume(file, self._after)
        if self._after is None and not self._absent_at and self._last is not None:
            file.go_to_last_lines(self._last, self._replay)
        self._reading = file = self._files[0]
        return Piece(begins=file.cursor(), lost=self._after is not None and not resumed, more=True)

    def _resume(self, file: _File, after: str) -> bool:
        """Go where the client left off, and return True; or else to the part that it may have."""
        place = FilePosition.parse(after)
        size = file.size
        found = place is not None and file.go_to_place(place)
        if found and size - file.at <= self._replay:
            return True
        if place is not None and not found and self._resume_in_gone(place):
            return True
        # If the client had a part of another file, all of this one is new to it.
        new = place is not None and not found and size <= self._replay
        if new or self._absent_at or self._last is None:
            file.rewind()
        else:
            file.go_to_last_lines(self._last, self._replay)
        return False

    def _resume_in_gone(self, place: FilePosition) -> bool:
        """Go to `place` in a file that was renamed since, if there is one."""
        self._drop(1)  # the other files will be found again
        current = self._files[0]
        gone = rotated(self._path)
        for index, one in enumerate(gone):
            behind = sum(each.status.st_size for each in gone[index:]) + current.size - place.offset
            if one.status.st_ino != place.inode or behind > self._replay:
                continue
            if (file := self._opened(one)) is None:
                continue
            if file.go_to_place(place):
                self._files[0] = file
                self._append_all(self._gone_since(current), current)
                return True
            file.close()
        return False


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino
