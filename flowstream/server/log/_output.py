"""Make standard output and standard error never wait for a reader.

For a process that is the server's own. A `Spool` replaces each of the two. So nothing that writes
to `sys.stdout` or `sys.stderr` waits: the server's log, the app's own handlers, `print`, warnings,
tracebacks. C libraries, and programs that the app starts, write directly, and may still wait.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import sys
from collections.abc import Callable

from flowstream.server.log._spool import Spool, drain_all

_LAST_WORDS = 1.0
"""Seconds that a process waits at its end for a reader of its log."""


def own_output() -> None:
    """From now on, let no write of this process wait for a reader."""
    if sys.platform == "win32":
        return
    _fill_descriptors()
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if type(stream) is not io.TextIOWrapper or _spool(stream) or _fileno(stream) != number:
            continue  # it is ours already, or the app has replaced it
        with contextlib.suppress(OSError):
            stream.flush()
        ours = io.TextIOWrapper(
            Spool(number, name=f"<{name}>"),
            encoding=stream.encoding,
            errors=stream.errors,
            newline="\n",
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        setattr(sys, name, ours)
        atexit.unregister(last_words)  # once is enough
        atexit.register(last_words)


def announce_as(announce: Callable[[int, str], bytes]) -> None:
    """Use `announce` to make the line about dropped lines."""
    for stream in (sys.stdout, sys.stderr):
        if spool := _spool(stream):
            spool.announce = announce


def last_words(seconds: float = _LAST_WORDS) -> None:
    """**Wait** until all written lines have been read, for at most `seconds`."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # no stream, or a closed one
            stream.flush()
    drain_all(seconds)


def _spool(stream: object) -> Spool | None:
    found = getattr(stream, "buffer", None)
    return found if isinstance(found, Spool) else None


def _fileno(stream: io.TextIOWrapper) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


def _fill_descriptors() -> None:
    """Open standard input, output and error to the null device, if they were closed.

    Otherwise a socket would get the number, and printed text would go to a client.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest free number
            os.set_inheritable(number, True)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # open as long as the process
