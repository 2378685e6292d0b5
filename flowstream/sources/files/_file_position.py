"""A place in a file, written as the id of an event. Sans-I/O."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

MARK = 64
"""How many bytes before a place go into its checksum."""

_PLACE = re.compile(r"([0-9a-f]{1,16})-([0-9a-f]{1,16})-([0-9a-f]{8})")


@dataclass(frozen=True, slots=True)
class FilePosition:
    """A place in a file, which an event's id holds.

    Attributes:
        inode: the file's inode.
        offset: bytes from the file's beginning.
        mark: a checksum of the bytes before it, since inodes are used again, and files rewritten.
    """

    inode: int
    offset: int
    mark: int

    def __str__(self) -> str:
        return f"{self.inode:x}-{self.offset:x}-{self.mark:08x}"

    @classmethod
    def parse(cls, id: str) -> FilePosition | None:
        """Return the place that an id holds, or None if it holds none."""
        found = _PLACE.fullmatch(id)
        return None if found is None else cls(*(int(part, 16) for part in found.groups()))


class LineCounter:
    """Counts through a file, line by line, to know the place after each line."""

    __slots__ = ("_before", "inode", "offset")

    def __init__(self, inode: int, offset: int, before: bytes) -> None:
        self.inode = inode
        self.offset = offset
        self._before = before  # the last bytes before the place, up to `MARK`

    def pass_over(self, data: bytes) -> str:
        """Move to the end of `data`; return the id of that place."""
        self.offset += len(data)
        size = len(data)
        self._before = data[-MARK:] if size >= MARK else (self._before + data)[-MARK:]
        return f"{self.inode:x}-{self.offset:x}-{zlib.crc32(self._before):08x}"
