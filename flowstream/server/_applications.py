"""Run the applications of one connection, and tell them when their client has left.

Under flowstream's server ``send()`` raises an ``OSError`` if the client has left, as ASGI asks
since spec 2.4. It first gives the application time to get the disconnect from ``receive()``. Under
Hypercorn such a ``send()`` returns as if all were well, in HTTP/2 without a checkpoint: a loop that
only sends goes on for ever, and no other task runs.

A response that is cut gets no end, even if somebody sends one (`flowstream.asgi._cut`). With
HTTP/1.0 the end of the connection is the end of the body, so there the connection is reset.

A head that can't be sent (`_response_rules`) raises in the application, and is one line in the
log. If no head has been sent, and the application sends no other one, the answer is 500.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from flowstream._closing import CloseReason
from flowstream.asgi._carrier import carrier_of
from flowstream.asgi._cut import CUT_KEY, Cut
from flowstream.asgi._direct_write import DIRECT_WRITE_KEY, DirectWrite
from flowstream.asgi._logging import printable
from flowstream.server._hypercorn import (
    ASGIHTTPState,
    ASGIWebsocketState,
    StreamClosed,
    TaskGroup,
)
from flowstream.server._inbox import Inbox
from flowstream.server._response_rules import CHECKS, InvalidResponseError
from flowstream.tasks._failure import split

logger = logging.getLogger("flowstream.server")

# Frameworks cancel a request when they receive ``http.disconnect``, which is in their queue by
# then. If they have not done so after this many seconds, they won't.
_TIME_TO_HEAR = 0.1

# The response is over. If the application sends more, that is its own mistake, which Hypercorn
# names; it is not a disconnect.
_COMPLETE = (ASGIHTTPState.CLOSED, ASGIWebsocketState.CLOSED, ASGIWebsocketState.HTTPCLOSED)


async def _at_once() -> None:
    """Return at once: do not wait for a turn."""


class ClientGoneError(ConnectionResetError):
    """The client has left. Raised by ``send()`` under flowstream's server."""


_QUIET = (ClientGoneError, InvalidResponseError)


class Applications(TaskGroup):
    """The tasks of one connection: its applications, and those that its protocol starts.

    Args:
        is_broken: returns whether the connection can no longer send.
        turn: waits for the connection's turn. Called before something new is done for its client.
    """

    def __init__(
        self, is_broken: Callable[[], bool], turn: Callable[[], Awaitable[None]] = _at_once
    ) -> None:
        super().__init__()
        self._is_broken = is_broken
        self.turn = turn
        # Few at a time, and with HTTP/1.1 one: a set takes 216 bytes of each connection.
        self._inboxes: list[Inbox] = []
        self._background: list[trio.CancelScope] = []
        self._half_closed = False
        self._over = False

    async def __aenter__(self) -> Applications:
        await super().__aenter__()
        return self

    async def spawn_app(
        self, app: Any, config: Any, scope: Any, send: Any
    ) -> Callable[[Any], Awaitable[None]]:
        """Start an application; return the function that passes it the client's messages."""
        inbox = self.open_inbox(config, scope)
        super().spawn(self.serve, app, config, scope, inbox, send)
        return inbox.put

    def open_inbox(self, config: Any, scope: Any) -> Inbox:
        """Return an inbox for an application; pass both to `serve` next."""
        inbox = Inbox(scope["type"], config.max_app_queue_size, config.body_timeout)
        inbox.turn = self.turn
        inbox.scope, inbox.since = scope, time.monotonic()
        if self._half_closed:
            inbox.half_close()
        self._inboxes.append(inbox)
        return inbox

    def spawn(self, func: Callable[..., Any], *args: Any) -> None:
        """Start a task of the protocol, which ends with the connection at the latest.

        For example Hypercorn's pings: they sleep for an interval more after a WebSocket's end.
        """
        super().spawn(self._in_background, func, args)

    def requests(self) -> list[str]:
        """Describe the requests at work, for the log.

        Works in any thread.
        """
        return [_in_words(inbox) for inbox in list(self._inboxes)]

    def half_close(self) -> None:
        """Tell every application that its client sends nothing more."""
        self._half_closed = True
        for inbox in list(self._inboxes):
            inbox.half_close()

    def end_background(self) -> None:
        """End the protocol's tasks."""
        self._over = True
        for scope in list(self._background):
            scope.cancel()

    async def _in_background(self, func: Callable[..., Any], args: tuple[Any, ...]) -> None:
        with trio.CancelScope() as scope:
            if self._over:
                scope.cancel()
            self._background.append(scope)
            try:
                await func(*args)
            finally:
                self._background.remove(scope)

    async def serve(self, app: Any, config: Any, scope: Any, inbox: Inbox, send: Any) -> None:
        """Run an application to its end. Log its failure; raise only what ends the server."""
        sending = _Send(send, scope, self._is_broken)
        if scope["type"] == "http":
            inbox.refuse = sending.refuse
        try:
            await app(
                scope,
                inbox.receive,
                sending,
                trio.to_thread.run_sync,
                trio.from_thread.run,
            )
        except BaseException as error:  # noqa: ASYNC103  # but for failures, which it logs
            cancelled, failure = split(error)
            if failure is not None and not _is_quiet(failure):
                await config.log.exception("Error in ASGI Framework")  # noqa: ASYNC102
            if failure is None:
                raise
            if cancelled is not None:
                raise cancelled from None  # noqa: ASYNC104  # the Cancelled in it
        finally:
            inbox.close()
            self._inboxes.remove(inbox)
            await sending.end()  # noqa: ASYNC102  # under cancellation there is nobody to tell


class _Send:
    """An application's ``send``, which raises when the client has left.

    Args:
        send: the one of Hypercorn's stream.
        scope: the application's scope.
        is_broken: returns whether the connection can no longer send.

    Attributes:
        direct_write: the direct writes of this response; None for a WebSocket.
    """

    __slots__ = (
        "_carrier",
        "_cut",
        "_is_broken",
        "_may_half_close",
        "_scope",
        "_send",
        "direct_write",
    )

    def __init__(self, send: Any, scope: Any, is_broken: Callable[[], bool]) -> None:
        self._send = send
        self._is_broken = is_broken
        self._scope = scope
        # A client may close its half of the connection once it has sent all. With HTTP/1.1 that
        # looks like leaving, until the second write from then.
        self._may_half_close = scope["type"] == "http" and scope["http_version"] < "2"
        self.direct_write: DirectWrite | None = None
        self._cut: Cut | None = None
        self._carrier = carrier_of(scope)
        if scope["type"] == "http" and self._carrier is not None:
            self.direct_write = self._carrier.open_direct_write(scope)
            scope["state"][DIRECT_WRITE_KEY] = self.direct_write
            if scope["method"] != "HEAD":  # which has no body to be cut
                scope["extensions"][CUT_KEY] = self._cut = Cut()

    async def __call__(self, message: Any) -> None:
        stream = self._send.__self__  # Hypercorn's, whose method it is
        if check := CHECKS.get(message["type"]):
            try:
                check(message)
            except InvalidResponseError as error:
                logger.error("the response to %s can't be sent: %s", _asked(self._scope), error)
                raise
        if self._cut is not None and self._cut.status is not None:
            if not self._cut.is_over:
                await self._send_cut(message, self._cut)
            elif message["type"] != "http.response.trailers":  # which belong to the end
                await _raise_gone()
            return
        if stream.closed and self._is_gone(stream):
            await _raise_gone()
        direct_write = self.direct_write
        if direct_write is None or direct_write.why_not is not None:
            await self._send(message)
        else:
            direct_write.arrive(message)
            await self._send(message)
            direct_write.arrived(message)

    async def refuse(self) -> bool:
        """Answer 408, since the body does not come. Return False if a response has begun."""
        stream = self._send.__self__
        if stream.closed or stream.state is not ASGIHTTPState.REQUEST:
            return False
        self._end_direct_writes()
        stream.closed = True  # nobody gets what the application sends from here on
        await stream._send_error_response(408)
        stream.state = ASGIHTTPState.REQUEST  # the response was not its own
        await stream.send(StreamClosed(stream_id=stream.stream_id))
        return True

    async def end(self) -> None:
        """Take note that the application has ended."""
        self._end_direct_writes()
        stream = self._send.__self__
        if self._cut is not None and stream.state is ASGIHTTPState.RESPONSE:
            self._reset_if_closing_ends(stream)
        await self._send(None)

    def _is_gone(self, stream: Any) -> bool:
        """Whether nothing more can be sent to the client of a closed stream."""
        if stream.state in _COMPLETE:
            return False
        return not self._may_half_close or self._is_broken()

    async def _send_cut(self, message: Any, cut: Cut) -> None:
        """Send a message of a cut response, without its end."""
        stream = self._send.__self__
        if stream.closed and self._is_gone(stream):
            await _raise_gone()
        if stream.state in _COMPLETE:  # the response had ended before the stream failed
            await self._send(message)
            return
        self._end_direct_writes()
        unbegun = stream.state is ASGIHTTPState.REQUEST
        rest = cut.pass_on(message, None if unbegun else int(stream.response["status"]))
        if rest is not None:
            await self._send(rest)
        if cut.is_over and not self._reset_if_closing_ends(stream):
            # Now, not when the application ends: it may have work to do after its response.
            await stream.send(StreamClosed(stream_id=stream.stream_id))

    def _reset_if_closing_ends(self, stream: Any) -> bool:
        """Reset the connection if its close would end the body; return whether it would.

        With HTTP/1.0 it would, if no length was given (RFC 9112 § 6.3).
        """
        response = stream.response
        closing_ends = (
            stream.scope["http_version"] < "1.1"
            and int(response["status"]) not in (204, 304)
            and not any(
                name.lower() == b"content-length" for name, _ in response.get("headers", ())
            )
        )
        if closing_ends and self._carrier is not None:
            self._carrier.abort(CloseReason.ERROR)
        return closing_ends

    def _end_direct_writes(self) -> None:
        if self.direct_write is not None:
            self.direct_write.end()


async def _raise_gone() -> None:
    """Raise `ClientGoneError`, after the application has had time to get the disconnect."""
    await trio.sleep(_TIME_TO_HEAR)
    raise ClientGoneError("the client is gone")


def _in_words(inbox: Inbox) -> str:
    """Describe the request, without its query, which may hold a token."""
    scope = inbox.scope
    host, port = (*(scope.get("client") or ()), "", "")[:2]
    age = time.monotonic() - inbox.since
    return f"{_asked(scope)} from {host}:{port}, for {age:.1f} s"


def _asked(scope: Any) -> str:
    return f"{scope.get('method', 'WEBSOCKET')} {printable(scope['path'])}"


def _is_quiet(failure: BaseException) -> bool:
    """Whether this need not be logged: the client has left, or the log has the error already."""
    kinds: tuple[type[BaseException], ...] = _QUIET
    if starlette := sys.modules.get("starlette.websockets"):
        # Starlette raises this when the client leaves; an endpoint need not catch it.
        kinds = (*kinds, starlette.WebSocketDisconnect)
    if isinstance(failure, BaseExceptionGroup):
        return failure.split(kinds)[1] is None
    return isinstance(failure, kinds)
