"""HTTP/1.1: Hypercorn's class, with our WebSocket, held heads, stricter rules and no tunnels.

``Upgrade: h2c`` is ignored: RFC 9113 § 3.1 removed it, and behind a proxy that passes it on a
client could get around the proxy's rules. HTTP/2 without TLS begins with its preface, if the
setting ``h2c`` allows that. If not, the preface is a request of an unknown version: it gets a 505,
and the connection ends.

A stream's head is held until the first bytes of its body are there; both go out in one write
(`HeldHead`).

A CONNECT asks a proxy for a tunnel (RFC 9110 § 9.3.6), and is refused. Hypercorn passes it to the
application like any request. If the answer is 200, h11 changes over to the tunnel, refuses the
body, and the traceback of that is the application's.
"""

from __future__ import annotations

from typing import Any, cast

import h11

from flowstream.asgi._head import HEAD_KEY, HeldHead
from flowstream.server._applications import Applications
from flowstream.server._context import Context
from flowstream.server._forwarded import Origin
from flowstream.server._hypercorn import (
    Closed,
    H2ProtocolAssumedError,
    H11Protocol,
    H11WSConnection,
    HTTPStream,
    RawData,
    Request,
)
from flowstream.server._protocol_carrier import Asked
from flowstream.server._request_rules import RequestHead, judge_http1
from flowstream.server._settings import ServerConfig
from flowstream.server.http1._strict_lines import StrictLines
from flowstream.server.log._access_entry import Logged, LoggedExchange, keeps_access, log_unread
from flowstream.server.websocket._websocket import LoggedWebSocket, WebSocket
from flowstream.server.websocket._ws_handshake import combined

_STREAM_ID = 1


class HTTP1(H11Protocol):
    """One HTTP/1.1 connection.

    Args:
        carrier: the connection.
        arguments: those of Hypercorn's class.

    Attributes:
        is_fresh: whether no request has come yet.
    """

    config: ServerConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    task_group: Applications  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, carrier: Asked, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._carrier = carrier
        # h11 has no setting to be stricter.
        cast(Any, self.connection)._receive_buffer = StrictLines(self.config.max_request_fields)
        self.is_fresh = True
        self._held = b""
        self._head = self.connection_state[HEAD_KEY] = HeldHead(self._write_head)

    async def _send_h11_event(self, event: Any) -> None:
        # Hypercorn's, except that the head is held.
        try:
            data = self.connection.send(event)
        except h11.LocalProtocolError:
            if self.connection.their_state != h11.ERROR:
                raise
            return
        if self._head.is_wanted and type(event) is h11.Response:
            self._held, self._head.is_held = data, True
            return
        if self._head.is_held:
            data, self._held, self._head.is_held = self._held + data, b"", False
        await self.send(RawData(data))

    async def _write_head(self) -> None:
        data, self._held, self._head.is_held = self._held, b"", False
        await self.send(RawData(data))

    async def _check_protocol(self, event: h11.Request) -> None:
        line = (event.method, event.target, event.http_version)
        is_preface = line == (b"PRI", b"*", b"2.0") and not event.headers
        if not self.is_fresh or self.ssl or not is_preface:
            return  # with TLS, ALPN asks for HTTP/2 (RFC 9113 § 3.2)
        if not self.config.h2c:
            cast(Context, self.context).say_once(
                "a client began with HTTP/2 without TLS, and got a 505: h2c = True (--h2c) takes it"
            )
        else:
            rest, _ = self.connection.trailing_data
            raise H2ProtocolAssumedError(b"PRI * HTTP/2.0\r\n\r\n" + rest)

    async def _create_stream(self, request: h11.Request) -> None:
        await self.task_group.turn()
        raw = self.config.h11_pass_raw_headers
        headers = request.headers.raw_items() if raw else list(request.headers)
        asked = RequestHead(request.method, request.target, request.http_version, headers)
        head = judge_http1(asked)
        if isinstance(head, int):
            await self._refuse(head, asked)
        elif _asks_for_websocket(request):
            kind = LoggedWebSocket if keeps_access(self.config) else WebSocket
            self.connection = H11WSConnection(cast(h11.Connection, self.connection))
            await self._open(kind, head)
        else:
            await self._open(LoggedExchange if keeps_access(self.config) else HTTPStream, head)

    def _origin(self, head: RequestHead) -> Origin:
        headers = head.headers
        if self.config.h11_pass_raw_headers:
            headers = [(name.lower(), value) for name, value in headers]
        return self._carrier.origin(headers)

    async def _refuse(self, status: int, head: RequestHead) -> None:
        await super()._send_error_response(status)
        origin = self._origin(head)
        await log_unread(self.config, origin.client, origin.tls, status, head)
        await self.send(Closed())

    async def _send_error_response(self, status_code: int) -> None:
        stream = self.stream
        if isinstance(stream, Logged):  # its body is not HTTP
            stream.entry.head(status_code, [])
            stream.entry.complete()
        await super()._send_error_response(status_code)
        if stream is None:
            await log_unread(self.config, self.client, self.ssl, status_code)

    async def _open(self, kind: type[HTTPStream | WebSocket], head: RequestHead) -> None:
        self.is_fresh = False
        origin = self._origin(head)
        # Hypercorn's, except for the class and the origin. And methods are not put in capitals.
        self.stream = kind(
            self.app,
            self.config,
            self.context,
            self.task_group,
            origin.tls,
            origin.client,
            self.server,
            self.stream_send,
            _STREAM_ID,
        )
        await self.stream.handle(
            Request(
                stream_id=_STREAM_ID,
                headers=head.headers,
                http_version=head.http_version.decode(),
                method=head.method.decode("ascii"),
                raw_path=head.target,
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1
        await self.context.mark_request()


def _asks_for_websocket(request: h11.Request) -> bool:
    if not any(name == b"upgrade" for name, _ in request.headers):  # the usual case
        return False
    # Decide as Hypercorn does, since it handles what we let pass: as text, which knows more white
    # space than bytes do.
    fields = {
        name: value.decode("latin-1").strip().lower() for name, value in combined(request.headers)
    }
    tokens = [token.strip() for token in fields.get(b"connection", "").split(",")]
    return (
        request.method == b"GET"
        and request.http_version != b"1.0"  # it has no upgrades (RFC 9110 § 7.8)
        and "upgrade" in tokens
        and fields.get(b"upgrade") == "websocket"
    )
