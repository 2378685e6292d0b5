"""Who is told of a stream's end: the log, by one line, and the app, by ``on_close``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import fields
from urllib.parse import quote

from flowstream._closing import CloseReason, StreamReport
from flowstream.tasks._failure import passes

logger = logging.getLogger("flowstream")

# Reasons that are nobody's fault are for those who ask; the others are worth a look.
_LEVELS = {
    CloseReason.ERROR: logging.ERROR,
    CloseReason.SLOW_CONSUMER: logging.WARNING,
    CloseReason.STALLED: logging.WARNING,
    CloseReason.MAX_BYTES: logging.WARNING,
}


def log_report(report: StreamReport, path: str, *, answered_elsewhere: bool) -> None:
    """Write the line.

    Args:
        report: each of its fields is an attribute of the log record, but the error, whose
            traceback follows the line.
        path: the request's path, as `printable` gives it.
        answered_elsewhere: the error was raised to the framework, which logs it as it does
            any other of the app's.
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
    """Give the report to the app; write into the log what that raises."""
    try:
        on_close(report)
    except BaseException as error:  # noqa: ASYNC103  # see `passes`
        if passes(error):
            raise
        logger.exception("on_close of %s failed", path)


def printable(path: str) -> str:
    """Return `path` as it may stand on one line of a log.

    Servers hand it over decoded, so a client that asks for ``/a%0Ab`` would otherwise write
    lines of its own.
    """
    return path if path.isprintable() else quote(path, errors="replace")
