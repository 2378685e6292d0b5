"""The log of a process that is the server's own: ``flowstream serve`` and its workers.

There is one handler, on the root logger, which writes only what no other handler takes. It is added
after the app was loaded, so that ``basicConfig`` in the app's module finds no handler and does its
work. Records from before that reach the same handler as Python's last resort.

Turned down: adding the handler at once and removing it later. By then ``basicConfig`` would have
done nothing.
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
    """The log of this process, inside a ``with`` block.

    Args:
        config: its ``loglevel`` and ``log_format`` say what is logged, and how. If it has
            ``logconfig`` or ``logconfig_dict``, only that counts.
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
        """Add the handler. Call this when the app has been loaded."""
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
        """Log what Python itself would write to standard error."""
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
    """Remove the handler that Quart adds to an app if there is no other at the time."""
    flask = sys.modules.get("flask.logging")  # Quart takes the handler from there
    if flask is None:
        return
    for one in list(logging.Logger.manager.loggerDict.values()):
        if isinstance(one, logging.Logger):
            one.removeHandler(flask.default_handler)


def _flush(stream: Any) -> None:
    """Flush `stream`. If nobody reads it, replace it, so that Python's own flush can't fail."""
    try:
        stream.flush()
    except (AttributeError, ValueError):
        pass  # there is none, or it is closed
    except OSError:
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), stream.fileno())
