"""Format a line of the log, and write it to standard output, standard error or a file.

The console writes only lines that no handler of the app takes, however and whenever that handler
was added. So each line is shown once, in the way that the app wants.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import stat
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

from flowstream.server.log._sinks import Direct
from flowstream.server.log._spool import Spool

FORMATS = ("text", "json")

_TEXT = "%(asctime)s [%(process)d] [%(levelname)s] %(message)s"
_TIME = "[%Y-%m-%d %H:%M:%S %z]"
# A terminal acts on these. Line ends and tabs are a traceback's own.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# The attributes of every record. Any other was passed as `extra`.
_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


class TextFormatter(logging.Formatter):
    """Makes lines in Hypercorn's format, without characters that a terminal acts on."""

    def __init__(self) -> None:
        super().__init__(_TEXT, _TIME)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with the traceback below it."""
        return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", super().format(record))


class JSONFormatter(logging.Formatter):
    """Makes JSON lines: time, level, logger, message, process, `extra` and exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the JSON object."""
        at = datetime.fromtimestamp(record.created, UTC)
        found: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            found["exception"] = record.exc_text
        if record.stack_info:
            found["stack"] = record.stack_info
        known = _STANDARD | found.keys()
        extra = {name: each for name, each in vars(record).items() if name not in known}
        try:
            return json.dumps(found | extra, default=str, allow_nan=False)
        except (TypeError, ValueError, RecursionError):  # a key that is not text, nan, a cycle
            plain = {name: _plain(value) for name, value in extra.items()}
            return json.dumps(found | plain)


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, str)) else repr(value)


def formatter(log_format: str) -> logging.Formatter:
    """Return the formatter for `log_format`, one of `FORMATS`."""
    return JSONFormatter() if log_format == "json" else TextFormatter()


def announcement(log_format: str) -> Callable[[int, str], bytes]:
    """Return the function that makes the line about dropped lines: how many, and why."""
    lines = formatter(log_format)

    def announce(count: int, why: str) -> bytes:
        text = "%d lines of the log were dropped: %s"
        if count == 1:
            text = "%d line of the log was dropped: %s"
        name, level = "flowstream.server", logging.WARNING
        record = logging.LogRecord(name, level, __file__, 0, text, (count, why), None)
        return f"{lines.format(record)}\n".encode(errors="backslashreplace")

    return announce


class Standard(logging.Handler):
    """Writes to the process's current standard output or standard error.

    If that is closed, nothing happens.
    """

    def __init__(self, name: Literal["stdout", "stderr"], log_format: str) -> None:
        super().__init__()
        self._standard = name
        self.setFormatter(formatter(log_format))

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, in one piece."""
        try:
            text = f"{self.format(record)}\n"
        except Exception:  # noqa: BLE001  # shown
            self.handleError(record)
            return
        stream = getattr(sys, self._standard)
        try:
            if not text.isascii():
                encoding = getattr(stream, "encoding", None) or "utf-8"
                text = text.encode(encoding, "backslashreplace").decode(encoding)
            stream.write(text)
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass  # there is no stream, nobody reads it, or it is closed


class Console(Standard):
    """Writes to standard error the records that no other handler takes."""

    def __init__(self, log_format: str) -> None:
        super().__init__("stderr", log_format)

    def handle(self, record: logging.LogRecord) -> Any:
        """Write the record, unless another handler does."""
        return False if self._is_for_another(record.name) else super().handle(record)

    def _is_for_another(self, name: str) -> bool:
        logger: logging.Logger | None = logging.getLogger(None if name == "root" else name)
        seen_self = False
        while logger is not None:
            for handler in logger.handlers:
                if handler is self:
                    seen_self = True
                elif isinstance(handler, Console):
                    if seen_self:  # of two consoles the outer one writes
                        return True
                elif not isinstance(handler, logging.NullHandler):
                    return True
            logger = logger.parent if logger.propagate else None
        return False


class LogFile(logging.Handler):
    """Appends to a file, or writes to a named pipe.

    If the disk is full, or nobody reads the pipe, lines are dropped. When lines can be written
    again, the first one says how many were dropped.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: str, log_format: str) -> None:
        super().__init__()
        self.setFormatter(formatter(log_format))
        flags, to = os.O_WRONLY | os.O_APPEND | os.O_CREAT, None
        with contextlib.suppress(OSError):
            if stat.S_ISFIFO(os.stat(path).st_mode):
                # If it were opened only for writing, that would wait for a reader.
                flags, to = os.O_RDWR | os.O_NONBLOCK, Direct
        self._fd = os.open(path, flags | getattr(os, "O_CLOEXEC", 0), 0o666)
        way = None if to is None else to(self._fd)
        self._spool = Spool(self._fd, name=path, announce=announcement(log_format), to=way)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, in one piece."""
        try:
            text = f"{self.format(record)}\n"
        except Exception:  # noqa: BLE001  # shown
            self.handleError(record)
            return
        self._spool.write(text.encode(errors="backslashreplace"))

    def close(self) -> None:
        """Close the file, unless a line still waits for its reader."""
        super().close()
        if self._fd >= 0 and self._spool.release():
            os.close(self._fd)
            self._fd = -1
