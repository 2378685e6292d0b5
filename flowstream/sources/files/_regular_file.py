"""Open a regular file for a client, or raise the error for the client."""

from __future__ import annotations

import errno
import os
import stat

from flowstream._errors import NotFoundError, PublicError

Path = str | os.PathLike[str]

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)

# Without O_NONBLOCK, opening a FIFO would wait for a writer.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def open_regular(path: Path) -> tuple[int, os.stat_result]:
    """Return a descriptor for the file at `path`, and its `os.fstat`.

    Raises:
        NotFoundError: there is no such file, or it is a directory or a device, or the name is
            impossible.
        PublicError: ``forbidden``, 403: it may not be read.
        OSError: something else is wrong, which the client need not know.
    """
    try:
        # Check it before it is opened, too: opening a device may have an effect.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise _not_found()
        fd = os.open(path, _FLAGS)
    except ValueError:  # it has a NUL in it
        raise _not_found() from None
    except PermissionError as error:
        raise forbidden() from error
    except OSError as error:
        if error.errno in _ABSENT:
            raise _not_found() from error
        raise
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise _not_found()
    return fd, status


def forbidden() -> PublicError:
    """Return the error for a file that may not be read."""
    return PublicError("forbidden", "This file may not be read.", status=403)


def _not_found() -> NotFoundError:
    return NotFoundError("There is no such file.")
