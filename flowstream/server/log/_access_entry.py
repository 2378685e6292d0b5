"""Collect what the access log says about one request, and decide when to write the line.

::

    head ─► body ─► complete ──────► written, unless a stream's report is still to come
              └──► client left ─┐
                   app ended ───┴──► written

Each request has one line, with the status that was sent. If the client leaves, the line waits for
the application: a client that has only closed its half of the connection still gets an answer.
Hypercorn writes a line without a status as soon as the client has left, and another when the
response is complete.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from flowstream._closing import CloseReason, StreamReport
from flowstream.asgi._carrier import ENTRY_KEY, carrier_of
from flowstream.asgi._request import Live
from flowstream.server._hypercorn import (
    Body,
    Data,
    EndBody,
    HTTPStream,
    Request,
    Response,
    StreamClosed,
    StreamEvent,
)

logger = logging.getLogger("flowstream.server")


class AccessEntry(Live):
    """The access log's line about one request, while it is collected.

    Args:
        log: Hypercorn's logger, or one with its methods.

    Attributes:
        bytes: bytes of the body that were written so far.
    """

    __slots__ = (
        "_complete",
        "_ended",
        "_expects",
        "_head",
        "_log",
        "_report",
        "_start",
        "_why",
        "bytes",
    )

    def __init__(self, log: Any) -> None:
        self._log: Any = log  # None once the line is written
        self._start = time.monotonic()
        self._ended: float | None = None
        self._complete = False
        self._head: tuple[int, Any] | None = None
        self._expects = False
        self._why: tuple[CloseReason, str] = (CloseReason.ERROR, "")
        self._report: StreamReport | None = None
        self.bytes = 0

    # -- from the server -------------------------------------------------------------------

    def head(self, status: int, headers: Any) -> None:
        """Note the head that is sent; the first one counts."""
        if self._head is None:
            self._head = (status, headers)

    def no_head(self) -> None:
        """Forget the head, which could not be sent."""
        self._head = None

    def complete(self) -> None:
        """Note that the response is complete."""
        self._complete = True
        self._ended = time.monotonic()

    def left(self) -> None:
        """Note that the client has left."""
        if self._ended is None:
            self._ended = time.monotonic()

    def app_ended(self, scope: Any) -> None:
        """Note that the application has ended, so an incomplete response stays incomplete."""
        carrier = carrier_of(scope)
        if carrier is not None and carrier.reason is not None:
            self._why = (carrier.reason, carrier.detail)

    @property
    def waits(self) -> bool:
        """Whether a stream has not reported yet how it ended."""
        return self._expects and self._report is None

    async def write(self, scope: Any) -> None:
        """Write the line, once."""
        log, self._log = self._log, None
        if log is None:
            return
        ended = time.monotonic() if self._ended is None else self._ended
        try:
            await log.access(scope, self._response(scope), ended - self._start)
        except Exception:
            logger.exception("a line of the access log could not be written")

    # -- from a stream ---------------------------------------------------------------------

    def begin_stream(self) -> None:
        """Note that a stream answers the request, so the line waits for its report."""
        self._expects = True

    def end_stream(self, report: StreamReport, direct_bytes: int) -> None:
        """Note the stream's report, and the bytes that were written directly, past the server."""
        self._report = report
        self.bytes += direct_bytes

    def _response(self, scope: Any) -> dict[str, Any] | None:
        if self._head is None:
            return None
        status, headers = self._head
        response = {"status": status, "headers": headers, "bytes": self.bytes}
        report = self._report
        if report is not None:
            response |= {"items": report.items, "dropped": report.dropped}
            response |= {"reason": report.reason.value, "detail": report.detail or None}
        elif not self._complete and scope["type"] == "http":
            reason, detail = self._why
            response |= {"reason": reason.value, "detail": detail or None}
        return response


class _QuietLog:
    """A logger that writes no access log: `AccessEntry` does."""

    def __init__(self, log: Any) -> None:
        self._log = log

    async def access(self, *_: Any) -> None:
        """Write nothing."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


class _QuietConfig:
    """A configuration with a `_QuietLog`."""

    def __init__(self, config: Any) -> None:
        self._config = config
        self.log = _QuietLog(config.log)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name)


if TYPE_CHECKING:
    _Base = HTTPStream
else:
    _Base = object  # `Logged` is also mixed into a WebSocket's class


class Logged(_Base):
    """Mixed into one of Hypercorn's streams: its `AccessEntry` replaces Hypercorn's line."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.entry = AccessEntry(self.config.log)
        self.config: Any = _QuietConfig(self.config)

    @property
    def send(self) -> Any:  # an attribute would make a reference cycle
        """The function that passes events to the protocol."""
        return self._pass_on

    @send.setter
    def send(self, send: Any) -> None:
        self._protocol_send = send

    async def handle(self, event: StreamEvent) -> None:
        """Take an event of the client."""
        if isinstance(event, StreamClosed) and not self.closed:
            self.entry.left()
        await super().handle(event)
        if isinstance(event, Request):  # the application has not run yet
            self.scope["state"][ENTRY_KEY] = self.entry

    async def app_send(self, message: Any) -> None:
        """Take a message of the application; None means that it has ended."""
        if message is None:
            self.entry.app_ended(self.scope)  # before the connection is closed because of it
        try:
            await super().app_send(message)
        finally:
            if message is None:
                await self.entry.write(self.scope)  # noqa: ASYNC102  # never waits

    async def _pass_on(self, event: Any) -> None:
        # Note it before it is sent: the client may leave as soon as it has everything.
        is_head = isinstance(event, Response)
        if is_head:
            self.entry.head(event.status_code, event.headers)
        elif isinstance(event, EndBody):
            self.entry.complete()
        try:
            await self._protocol_send(event)
        except Exception:
            if is_head:
                self.entry.no_head()
            raise
        if isinstance(event, (Body, Data)):
            self.entry.bytes += len(event.data)
        elif isinstance(event, EndBody) and not self.entry.waits:
            await self.entry.write(self.scope)


class LoggedExchange(Logged, HTTPStream):
    """One request and its response, with a line in the access log."""


def keeps_access(config: Any) -> bool:
    """Return whether requests are logged. A logger of the app's own may want them."""
    return bool(getattr(config.log, "keeps_access", True))


async def log_unread(config: Any, client: Any, tls: bool, status: int, request: Any = None) -> None:
    """Write the line of a request that the server itself answered, perhaps without reading it."""
    if not keeps_access(config):
        return
    method, target, version, headers = "-", "-", "-", []
    if request is not None:
        method, version = request.method.decode("latin-1"), request.http_version.decode("latin-1")
        target, headers = request.target.decode("latin-1"), list(request.headers)
    path, _, query = target.partition("?")
    entry = AccessEntry(config.log)
    entry.head(status, [])
    entry.complete()
    await entry.write(
        {
            "type": "http",
            "http_version": version,
            "method": method,
            "scheme": "https" if tls else "http",
            "path": path,
            "query_string": query.encode("latin-1"),
            "headers": headers,
            "client": client,
        }
    )
