"""The access log: one line for each request, which no client can forge or break.

Hypercorn's logger, with its atoms and these:

==========  ==================================================================
atom        what it is
==========  ==================================================================
``B``       bytes of the response's body, before its framing
``b``       the same, ``-`` for none
``reason``  how a stream ended; ``-`` for another response that was sent whole
``detail``  the bound or cause behind that, ``-`` if the reason says it all
``items``   items that a stream delivered, else ``-``
``dropped`` items that it dropped, else ``-``
==========  ==================================================================

What a client sends (path, query, headers) may hold quotes, line ends and escape sequences of a
terminal. `Escaped` escapes all of that, in one place, as atoms are put into the line.
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

from flowstream.server._hypercorn import AccessLogAtoms, Logger, StatsdLogger
from flowstream.server.log._log_handlers import Console, LogFile, Standard

FORMAT = '%(h)s %(l)s %(l)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s" %(L)s %(reason)s "%(detail)s"'
"""Hypercorn's format, with the seconds that the request took, how a stream ended, and why."""

_UNSAFE = re.compile(r'["\\]|[^ -~]')


def escaped(text: str) -> str:
    r"""Escape newlines (as ``\x0a``), quotes, backslashes and characters that do not print."""
    return text if text.isascii() and not _UNSAFE.search(text) else _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if character.isprintable() and not character.isascii():
        return character
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


class Escaped(Mapping[str, Any]):
    """The atoms of one line, each escaped when it is read."""

    def __init__(self, atoms: Mapping[str, Any]) -> None:
        self._atoms = atoms

    def __getitem__(self, name: str) -> Any:
        value = self._atoms[name]
        return escaped(value) if isinstance(value, str) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._atoms)

    def __len__(self) -> int:
        return len(self._atoms)


class Atoms(AccessLogAtoms):
    """Hypercorn's atoms, and ours."""

    def __init__(self, request: Any, response: Any, request_time: float) -> None:
        super().__init__(request, response, request_time)
        known = response or {}
        size = known.get("bytes")
        if size is not None:  # else the line is Hypercorn's own, for example of a push
            self.update(B=size, b=size or "-")
        for name in ("reason", "detail", "items", "dropped"):
            value = known.get(name)
            self[name] = "-" if value is None else value


class AccessLog(Logger):
    """Hypercorn's logger, with lines that no client can forge, each shown once."""

    def __init__(self, config: Any) -> None:
        log_format = getattr(config, "log_format", "text")
        made = copy.copy(config)  # Hypercorn's logger would add another handler
        made.accesslog = _made("hypercorn.access", config.accesslog, config.loglevel, log_format)
        made.errorlog = _made("hypercorn.error", config.errorlog, config.loglevel, log_format)
        super().__init__(made)

    @property
    def keeps_access(self) -> bool:
        """Whether there is an access log."""
        return self.access_logger is not None

    async def access(self, request: Any, response: Any, request_time: float) -> None:
        """Write one line."""
        if self.access_logger is not None:
            atoms = self.atoms(request, response, request_time)
            self.access_logger.info(
                self.access_log_format,
                Escaped(atoms),
                extra=_fields(request, response, request_time),
            )

    def atoms(self, request: Any, response: Any, request_time: float) -> Mapping[str, Any]:
        """Return the atoms that the line's format may use."""
        return Atoms(request, response, request_time)


class StatsdAccessLog(AccessLog, StatsdLogger):
    """An `AccessLog` that also tells statsd."""

    @property
    def keeps_access(self) -> bool:
        """True: statsd wants every request."""
        return True


def _made(name: str, target: Any, level: str, log_format: str) -> Any:
    """Return the logger `name`, made to write to `target`. Handlers of the app's own stay."""
    if not target or isinstance(target, logging.Logger):
        return target
    logger = logging.getLogger(name)
    ours = [one for one in logger.handlers if isinstance(one, (Standard, LogFile))]
    if len(ours) < len(logger.handlers):
        return logger
    to_stdout = name == "hypercorn.access"
    handler: logging.Handler
    if target != "-":
        handler = LogFile(target, log_format)
    elif to_stdout:
        handler = Standard("stdout", log_format)
    else:
        handler = Console(log_format)
    for one in ours:
        logger.removeHandler(one)
        one.close()
    logger.addHandler(handler)
    if to_stdout:
        logger.propagate = False
    if ours or logger.level == logging.NOTSET:
        logger.setLevel(level.upper())
    return logger


def _fields(request: Any, response: Any, request_time: float) -> dict[str, Any]:
    """Return the record's further fields, for a formatter that writes JSON."""
    known = response or {}
    names = ("status", "bytes", "reason", "detail", "items", "dropped")
    return {
        "client": None if not request.get("client") else str(request["client"][0]),
        "method": request.get("method", "GET"),
        "path": request["path"],
        "duration": request_time,
        **{name: known.get(name) for name in names},
    }
