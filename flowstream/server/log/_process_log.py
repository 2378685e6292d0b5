"""The log of a process that is the server's own: of ``flowstream serve`` and its workers.

One handler, on the root logger, that stands back for any other; it is put there when the app
has been loaded, so that a ``basicConfig`` in its module finds none and does what it says. What
is logged before that comes to the same handler as Python's last resort.

Turned down: to put it there at once and take it away again. ``basicConfig`` would have done
nothing by then.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from types import TracebackType
from typing import Any

from flowstream.server._settings import ServerConfig
from flowstream.server.log._log_handlers import Console, announcement
from flowstream.server.log._output import announce_as, own_output

_logger = logging.getLogger("flowstream")
_uncaught = logging.getLogger("flowstream.server")


class ProcessLog:
    """The log of this process, between ``with`` and its end.

    Args:
        config: its ``loglevel`` and ``log_format`` say what is logged, and how; with
            ``logconfig`` or ``logconfig_dict`` nothing is done but what that says.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._own = not (config.logconfig or config.logconfig_dict)
        self._json = config.log_format == "json"
        self._console = Console(config.log_format)
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> ProcessLog:
        own_output()
        announce_as(announcement(self._config.log_format))
        if self._own:
            self._set(logging, "lastResort", self._console)
            if self._json:
                self._catch_the_rest()
        return self

    def begin(self) -> None:
        """Take what no handler of the app's takes: to be called when the app was loaded."""
        if not self._own:
            return
        root = logging.getLogger()
        free = not root.handlers
        if free:
            root.addHandler(self._console)
            self._undo.callback(root.removeHandler, self._console)
            _remove_quarts_own()
        if _logger.level == logging.NOTSET and (free or "loglevel" in vars(self._config)):
            _logger.setLevel(self._config.loglevel.upper())
            self._undo.callback(_logger.setLevel, logging.NOTSET)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._undo.close()
        for stream in (sys.stdout, sys.stderr):
            _flush(stream)

    def _set(self, owner: Any, name: str, value: Any) -> None:
        self._undo.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)

    def _catch_the_rest(self) -> None:
        """Have what Python would write to standard error by itself logged."""
        logging.captureWarnings(True)
        self._undo.callback(logging.captureWarnings, False)

        def crash(kind: Any, error: Any, trace: Any) -> None:
            _uncaught.critical("the process ends", exc_info=(kind, error, trace))

        def unraisable(found: Any) -> None:
            where = (found.exc_type, found.exc_value, found.exc_traceback)
            _uncaught.error("%s %r", found.err_msg or "ignored in", found.object, exc_info=where)

        def in_thread(found: Any) -> None:
            where = (found.exc_type, found.exc_value, found.exc_traceback)
            _uncaught.error("a thread has failed", exc_info=where)

        self._set(sys, "excepthook", crash)
        self._set(sys, "unraisablehook", unraisable)
        self._set(threading, "excepthook", in_thread)


def _remove_quarts_own() -> None:
    """Remove the handler that Quart gives an app which is loaded before there is any other."""
    flask = sys.modules.get("flask.logging")  # which Quart has it from
    if flask is None:
        return
    for one in list(logging.Logger.manager.loggerDict.values()):
        if isinstance(one, logging.Logger):
            one.removeHandler(flask.default_handler)


def _flush(stream: Any) -> None:
    """Flush `stream`; if nobody reads it, have Python not try again as it exits, and fail."""
    try:
        stream.flush()
    except (AttributeError, ValueError):
        pass  # it is none, or closed
    except OSError:
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), stream.fileno())
