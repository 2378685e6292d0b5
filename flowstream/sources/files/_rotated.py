"""Find a log's rotated files: those that had the log's name before.

They are in the same directory, and have the log's name with a number or a date after it, as all
programs that rotate logs do it: ``app.log.1``, ``app.log-20260214``, ``app.log.2026-02-14_10``. A
file gets no more lines when the next one begins, so their last changes give their order.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass

from flowstream.sources.files._regular_file import Path

_SUFFIX = re.compile(r"[.-](?:[0-9][\w.:+-]*|old)", re.ASCII)
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".Z")


@dataclass(frozen=True, slots=True)
class Rotated:
    """One rotated file.

    Attributes:
        path: where it is now.
        status: its `os.stat`.
        readable: whether it is still text, and not compressed.
    """

    path: str
    status: os.stat_result
    readable: bool


def rotated(path: Path) -> list[Rotated]:
    """Return the files that had the name `path`, the oldest first, without empty ones."""
    folder, name = os.path.split(os.fsdecode(path))
    found: list[Rotated] = []
    try:
        entries = list(os.scandir(folder or "."))
    except OSError:
        return []  # the directory may be entered, but not listed
    for entry in entries:
        if entry.name.startswith(name) and _SUFFIX.fullmatch(entry.name, len(name)):
            try:
                status = os.stat(entry.path)
            except OSError:
                continue  # it has just been renamed again
            if stat.S_ISREG(status.st_mode) and status.st_size:
                readable = not entry.name.endswith(_COMPRESSED)
                found.append(Rotated(entry.path, status, readable))
    return sorted(found, key=lambda one: one.status.st_mtime_ns)
