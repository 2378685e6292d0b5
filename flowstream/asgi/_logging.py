"""Report a stream's end: one line in the log, and a call of the app's ``on_close``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import fields
from urllib.parse import quote

from flowstream._closing import CloseReason, StreamReport
from flowstream.tasks._failure import passes

logger = logging.getLogger("flowstream")

# Reasons that need a look. All others are logged as INFO.
_LEVELS = {
    CloseReason.ERROR: logging.ERROR,
    CloseReason.SLOW_CONSUMER: logging.WARNING,
    CloseReason.STALLED: logging.WARNING,
    CloseReason.MAX_BYTES: logging.WARNING,
}


def log_report(report: StreamReport, path: str, *, answered_elsewhere: bool) -> None:
    """Write one line about a stream's end.

    Args:
        report: each of its fields is an attribute of the log record, except the error: its
            traceback follows the line.
        path: the request's path, as `printable` returns it.
        answered_elsewhere: the error was raised to the framework, which logs it like any other
            error of the app.
    """
    extra = {field.name: getattr(report, field.name) for field in fields(report)}
    del extra["error"]
    logger.log(
        logging.INFO if answered_elsewhere else _LEVELS.get(report.reason, logging.INFO),
        "stream %s %s: %d items, %d bytes, %d dropped in %d gaps, %.3f s%s",
        path,
        report.reason.value,
        report.items,
        report.bytes,
        report.dropped,
        report.gaps,
        report.duration,
        report.detail and f" ({report.detail})",
        exc_info=None if answered_elsewhere else report.error,
        extra={**extra, "reason": report.reason.value, "path": path},
    )


def call_on_close(
    on_close: Callable[[StreamReport], object], report: StreamReport, path: str
) -> None:
    """Call the app's `on_close` with the report. Log what it raises."""
    try:
        on_close(report)
    except BaseException as error:  # noqa: ASYNC103  # see `passes`
        if passes(error):
            raise
        logger.exception("on_close of %s failed", path)


def printable(path: str) -> str:
    """Return `path` in a form that fits on one line of a log.

    Servers decode the path, so a client that asks for ``/a%0Ab`` would otherwise write lines of its
    own into the log.
    """
    return path if path.isprintable() else quote(path, errors="replace")
