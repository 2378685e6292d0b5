"""What SQLite's errors mean for somebody who runs the app: what is wrong, and what to do.

SQLite says "disk I/O error" and "database is locked". An operator needs the file's name, the cause
and the way out, and a publisher needs to know whether its event may have been stored.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import suppress

from flowstream._errors import LogFullError, LogUnavailableError

# Bytes that SQLite writes at once, at the most: a page of the file, or a frame of the WAL.
_WRITE_BYTES = (64 << 10) + 24
# The wal-index could not grow. SQLite calls it an I/O error; the usual cause is a full disk.
_NO_ROOM_FOR_INDEX = (sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMMAP)


def code_of(error: BaseException) -> int:
    """Return SQLite's code of an error without what refines it; 0 if it is not SQLite's."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def is_busy(error: BaseException) -> bool:
    """Return whether another connection has the lock that was asked for."""
    return code_of(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def locked(path: str, seconds: float) -> LogUnavailableError:
    """Return the error for a file that somebody else has locked for so long."""
    return LogUnavailableError(
        f"{path} has been locked by another process for {seconds:g} s: end the transaction of the "
        "program that has it open (a shell of sqlite3, a backup); nothing was appended"
    )


def fault(path: str, error: sqlite3.Error, *, committing: bool = False) -> LogUnavailableError:
    """Return the error for what SQLite said.

    Args:
        path: the log's file.
        error: what SQLite raised.
        committing: whether it was raised by a commit, which may have reached the disk.
    """
    code = code_of(error)
    full_code = getattr(error, "sqlite_errorcode", 0)
    if full_code == sqlite3.SQLITE_IOERR_WRITE and (bound := _bound_of_a_file(path)):
        return LogFullError(
            f"{path} or the file -wal beside it would be larger than this process may write, "
            f"{bound:,} bytes: raise the limit (ulimit -f, LimitFSIZE=), or let topics keep less "
            "(Replay); nothing was appended"
        )
    if code == sqlite3.SQLITE_FULL or (full_code in _NO_ROOM_FOR_INDEX and not _free(path)):
        return LogFullError(
            f"the disk that {path} is on is full: make room there, or let topics keep less "
            "(Replay); nothing was appended"
        )
    if is_busy(error):
        return LogUnavailableError(
            f"{path} is locked by another process: end the transaction of the program that has "
            "it open (a shell of sqlite3, a backup)"
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return LogUnavailableError(
            f"{path} can't be written by user {os.geteuid()}: the file and its folder must be "
            "writable, also for the files -wal and -shm beside it"
        )
    if code == sqlite3.SQLITE_CANTOPEN:
        return LogUnavailableError(_why_not_opened(path))
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return LogUnavailableError(
            f"{path} is not a log, or is damaged ({error}): restore it from a copy, or move it "
            "away and start with an empty log"
        )
    if code == sqlite3.SQLITE_IOERR:
        return LogUnavailableError(
            f"the disk that {path} is on fails ({error}, {_name(error)}): see the kernel's log, "
            "and the quota of the user, if there is one",
            maybe=committing,
        )
    return LogUnavailableError(f"{path} can't be used: {error} ({_name(error)})", maybe=committing)


def _why_not_opened(path: str) -> str:
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        return f"there is no folder {folder}: make it, and let user {os.geteuid()} write in it"
    if os.path.isdir(path):
        return f"{path} is a folder: name a file in it, such as {path}/events.db"
    if not _has_names(folder):
        return f"the disk that {path} is on has no room for one more file: delete some there"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"user {os.geteuid()} can't write in the folder {folder}, and SQLite must"
    return f"{path} can't be opened by user {os.geteuid()}: see its permissions, and the open files"


def _has_names(folder: str) -> bool:
    """Return whether the disk has room for one more file's name; some kinds count none."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return True
    return found.f_files == 0 or found.f_ffree > 0


def _bound_of_a_file(path: str) -> int:
    """Return how large this process may make a file, if the log's files are nearly so; else 0."""
    if sys.platform == "win32":
        return 0
    import resource

    bound, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if bound == resource.RLIM_INFINITY:
        return 0
    for name in (path, f"{path}-wal"):
        with suppress(OSError):
            if os.stat(name).st_size + _WRITE_BYTES >= bound:
                return bound
    return 0


def _free(path: str) -> bool:
    """Return whether the disk has room for one more page."""
    try:
        found = os.statvfs(os.path.dirname(os.path.abspath(path)))
    except OSError:
        return True
    return found.f_bavail * found.f_frsize > 1 << 16


def _name(error: sqlite3.Error) -> str:
    return getattr(error, "sqlite_errorname", type(error).__name__)
