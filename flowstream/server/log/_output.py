"""Standard output and standard error of a process that is the server's own.

Both are made to never wait for their reader, by a `Spool`. That covers all that is written by
`sys.stdout` and `sys.stderr`: the server's log, a logging configuration of the app's own, `print`,
warnings, tracebacks. What a C library or a program that the app starts writes by itself is theirs.
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
"""Seconds that the end of a process waits for a reader of its log."""


def own_output() -> None:
    """Have what this process writes wait for nobody, from now until it has ended."""
    if sys.platform == "win32":
        return
    _fill_descriptors()
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if type(stream) is not io.TextIOWrapper or _spool(stream) or _fileno(stream) != number:
            continue  # it is ours, or somebody has put another one in its place
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
    """Have the line that says how many lines were dropped made by `announce`."""
    for stream in (sys.stdout, sys.stderr):
        if spool := _spool(stream):
            spool.announce = announce


def last_words(seconds: float = _LAST_WORDS) -> None:
    """**Wait** until all that was written has been read, for `seconds` at most."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # none, or a closed one
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
    """Open what was closed of standard input, output and error.

    A socket would get its number, and what is printed would be written to a client.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free
            os.set_inheritable(number, True)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # as long as the process
