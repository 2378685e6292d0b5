"""The files that had a log's name before the one that has it now.

They stand beside it, by its name and a number or a date behind that, as all that rotates logs
has it: ``app.log.1``, ``app.log-20260214``, ``app.log.2026-02-14_10``. A file is done with when
the next one is begun, so the times at which they were last written are their order.
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
    """One of them.

    Attributes:
        path: where it is now.
        status: what `os.stat` said of it.
        readable: it is what was written, and not that compressed.
    """

    path: str
    status: os.stat_result
    readable: bool


def rotated(path: Path) -> list[Rotated]:
    """Return the files that had the name `path`, the oldest first, but for empty ones."""
    folder, name = os.path.split(os.fsdecode(path))
    found: list[Rotated] = []
    try:
        entries = list(os.scandir(folder or "."))
    except OSError:
        return []  # a directory that one may pass through, and not list
    for entry in entries:
        if entry.name.startswith(name) and _SUFFIX.fullmatch(entry.name, len(name)):
            try:
                status = os.stat(entry.path)
            except OSError:
                continue  # it has just been renamed once more
            if stat.S_ISREG(status.st_mode) and status.st_size:
                readable = not entry.name.endswith(_COMPRESSED)
                found.append(Rotated(entry.path, status, readable))
    return sorted(found, key=lambda one: one.status.st_mtime_ns)
