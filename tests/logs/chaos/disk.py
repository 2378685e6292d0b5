"""A small disk for a log, which a test can fill.

It is a tmpfs, which root may mount on most machines. Where nobody may (a container without
CAP_SYS_ADMIN), the log lies in an ordinary folder, and in place of a full disk its processes have a
quota: the kernel's bound of a file's size, RLIMIT_FSIZE.
"""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Disk:
    """A folder on a disk of its own.

    Args:
        folder: the folder.
        mounted: whether it is on a disk of its own.
    """

    def __init__(self, folder: Path, *, mounted: bool) -> None:
        self.folder = folder
        self.mounted = mounted
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Leave no room on it."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                block = bytes(size)
                try:
                    while True:
                        file.write(block)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def empty(self) -> None:
        """Make room again."""
        self._ballast.unlink(missing_ok=True)


@contextmanager
def small_disk(size: int) -> Iterator[Disk]:
    """Give a disk of so many bytes, for a block of code."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        os.chmod(name, 0o700)
        options = ["-t", "tmpfs", "-o", f"size={size},mode=0700", "chaos", name]
        try:
            subprocess.run(["mount", *options], check=True, capture_output=True)
            mounted = True
        except (OSError, subprocess.CalledProcessError):
            mounted = False
        try:
            yield Disk(Path(name), mounted=mounted)
        finally:
            if mounted:
                subprocess.run(["umount", "-l", name], check=True, capture_output=True)
