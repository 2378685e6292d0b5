"""A place in a file, as the id of an event says it: values in, values out."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

MARK = 64
"""Bytes before a place that are known with it."""

_PLACE = re.compile(r"([0-9a-f]{1,16})-([0-9a-f]{1,16})-([0-9a-f]{8})")


@dataclass(frozen=True, slots=True)
class FilePosition:
    """A place in a file, as an id of an event says it.

    Attributes:
        inode: of the file.
        offset: from its beginning, in bytes.
        mark: a checksum of the bytes before it. Inodes are used again, and files written anew.
    """

    inode: int
    offset: int
    mark: int

    def __str__(self) -> str:
        return f"{self.inode:x}-{self.offset:x}-{self.mark:08x}"

    @classmethod
    def parse(cls, id: str) -> FilePosition | None:
        """Return the place that an id says, or None if it says none."""
        found = _PLACE.fullmatch(id)
        return None if found is None else cls(*(int(part, 16) for part in found.groups()))


class LineCounter:
    """Counts through a file, line by line: what is the place behind each?"""

    __slots__ = ("_before", "inode", "offset")

    def __init__(self, inode: int, offset: int, before: bytes) -> None:
        self.inode = inode
        self.offset = offset
        self._before = before  # the last bytes before it, up to `MARK`

    def pass_over(self, data: bytes) -> str:
        """Go on behind `data`; return the id of the place there."""
        self.offset += len(data)
        size = len(data)
        self._before = data[-MARK:] if size >= MARK else (self._before + data)[-MARK:]
        return f"{self.inode:x}-{self.offset:x}-{zlib.crc32(self._before):08x}"
