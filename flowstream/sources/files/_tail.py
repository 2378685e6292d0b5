"""The end of a file that others write to, and of the files that take its place.

A file is known by its device and inode, whatever it is called. Beside the one that is read, up
to `_MAX_WAITING` of those that have come after it are held open, so that they may be renamed,
too, before it is their turn. One that came and was renamed between two looks is found under the
name it has by then (see `_rotated.py`).

*When to go on with the next file.* Whoever rotates logs renames the file, makes a new one, and
tells the writer, which until then writes to the old one. So the old one is read on for as long
as the new one is empty; and since the writer had done with it by the time it wrote to the new
one, what is in it then is all.

*When a file was written anew.* It is shorter than what was read of it; or what comes before the
place in it is not what it was. The last `MARK` bytes that were read are read again with what
follows them, so that a file that was emptied and has grown past the place already is found out.
What was written to it and not read before it was emptied is lost, by the nature of it: nobody
has it any more.

All of it blocks: it is called in worker threads.
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

# A file that has just been made may not be readable for us until its owner is set, which is
# done by another call: at so many looks in a row it is meant.
_MAX_REFUSALS = 5

# The time of a write is that of the last tick of the kernel's clock, 1 to 10 ms apart.
_TICK_NS = 20_000_000

_Identity = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Piece:
    """What one look at the files brought.

    Attributes:
        data: the bytes that follow those before; none if there are none yet.
        begins: where they do, if that is not behind those before in the same file.
        lost: there, something may be missing.
        more: to look again at once is worth while.
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
        self.is_after_hole = False  # one that came before it was left out
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
        """Go to `place`, if that is in this file; return whether it is."""
        if place.inode != self.identity[1] or place.offset > self.size:
            return False
        self.go_to(place.offset)
        return zlib.crc32(self._before) == place.mark

    def go_to_last_lines(self, count: int, most: int) -> None:
        """Go to where the last `count` lines begin, and a line that is not whole yet.

        That counts as one of them. No more than the last `most` bytes are looked at.
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
        """Return what follows, some of it, or nothing; None if the file was written anew."""
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
    """Reads on in a file, and in those that take its place.

    Args:
        path: where the newest of them is.
        last: lines to begin with; None for all there are.
        after: the id that the client saw last, or None if it is new.
        replay: bytes that it may be behind.

    Attributes:
        looks: how often `look` was called.
    """

    def __init__(self, path: Path, *, last: int | None, after: str | None, replay: int) -> None:
        self.looks = 0
        self._path = path
        self._last = last
        self._after = after
        self._replay = replay
        self._files: deque[_File] = deque()  # what is read, and what waits
        self._reading: _File | None = None
        self._left: tuple[_Identity, int] | None = None  # what was read before, as it was then
        self._unheld: _Identity | None = None  # what there was no room for
        self._absent_at = 0  # when a look first found that there is no file
        self._refusals = 0
        self._lock = threading.Lock()
        self._closed = False

    def look(self) -> Piece:
        """Return what follows.

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
        """Hold on to a file that has come to be, for one who cannot read what is before it yet.

        Raises:
            PublicError, OSError: as for `look`.
        """
        with self._inside() as wanted:
            if wanted:
                self._find()

    def close(self) -> None:
        """Close the files, or have it done by the thread that is in here. **Never blocks.**"""
        self._closed = True
        if self._lock.acquire(blocking=False):
            try:
                self._drop(0)
            finally:
                self._lock.release()

    @contextmanager
    def _inside(self) -> Iterator[bool]:
        """Be alone in here, and close the files if nobody wants them by the end; say if not yet."""
        try:
            with self._lock:
                yield not self._closed
        finally:
            if self._closed:
                self.close()

    # -- which files there are -------------------------------------------------------------

    def _find(self) -> None:
        """Open the file that is there now, if it is a new one, and those that came before it."""
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
            file.close()  # the next look sees how it has ended
        else:
            self._append_all(gone, file)

    def _is_there(self, file: _File) -> bool:
        """Return whether it still has the name, so that none has come after it."""
        try:
            return _identity(os.stat(self._path)) == file.identity
        except OSError:
            return False

    def _gone_since(self, newest: _File) -> list[Rotated]:
        """Return the files that were written after the last one that waits, but for `newest`."""
        known = {file.identity for file in (*self._files, newest)}
        if self._files:
            since = self._files[-1].modified
        elif self._absent_at:
            since = self._absent_at - _TICK_NS
        else:
            return []  # what was before we came
        return [
            one
            for one in rotated(self._path)
            if one.status.st_mtime_ns >= since
            and _identity(one.status) not in known
            and (_identity(one.status), one.status.st_mtime_ns) != self._left
        ]

    def _append_all(self, gone: list[Rotated], file: _File) -> None:
        """Have `gone` wait to be read, and then `file`, as far as there is room."""
        seen = {file.identity, *(_identity(one.status) for one in gone)}
        hole = self._unheld is not None and self._unheld not in seen
        self._unheld = None
        for one in gone:
            if len(self._files) > _MAX_WAITING:
                file.close()  # it and the rest are found again, after the last that waits
                return
            if before := self._opened(one):
                before.is_after_hole, hole = hole, False
                self._files.append(before)
            else:
                hole = True
        file.is_after_hole = hole
        self._files.append(file)

    def _opened(self, one: Rotated) -> _File | None:
        """Return a file that has gone, open; None if it can't be."""
        if not one.readable:
            return None
        try:
            file = _File(*open_regular(one.path))
        except (OSError, PublicError):
            return None
        if file.identity != _identity(one.status):
            file.close()  # it has been renamed once more
            return None
        return file

    def _drop(self, index: int) -> None:
        """Close all files but those before `index`."""
        while len(self._files) > index:
            self._files.pop().close()

    # -- what is in them -------------------------------------------------------------------

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
            # Its writer wrote to the next one before this, and so not to this one behind it.
            data = file.read()
            if not data:
                return self._go_on()
        return Piece(data or b"", more=bool(data))

    def _is_left(self) -> bool:
        """Return whether its writer has gone on to the next file."""
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
        """Go where the client is to begin."""
        resumed = self._after is not None and self._resume(file, self._after)
        if self._after is None and not self._absent_at and self._last is not None:
            file.go_to_last_lines(self._last, self._replay)
        self._reading = file = self._files[0]
        return Piece(begins=file.cursor(), lost=self._after is not None and not resumed, more=True)

    def _resume(self, file: _File, after: str) -> bool:
        """Go where the client left off, and return True; or to what it may have of the rest."""
        place = FilePosition.parse(after)
        size = file.size
        found = place is not None and file.go_to_place(place)
        if found and size - file.at <= self._replay:
            return True
        if place is not None and not found and self._resume_in_gone(place):
            return True
        # If it is another file than the one that it had a part of, all of it is new to it.
        new = place is not None and not found and size <= self._replay
        if new or self._absent_at or self._last is None:
            file.rewind()
        else:
            file.go_to_last_lines(self._last, self._replay)
        return False

    def _resume_in_gone(self, place: FilePosition) -> bool:
        """Go to `place` in a file that has been renamed since, if there is such a one."""
        self._drop(1)  # what else there is will be found again
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
