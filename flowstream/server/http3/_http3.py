"""One HTTP/3 connection: Hypercorn's, with our rules for requests, bounds and disconnects.

What is different from ``hypercorn.protocol.h3.H3Protocol``, and why:

* A request that a proxy may read differently is refused before any application is called
  (`judge_http2`: HTTP/3 has the fields of HTTP/2). Hypercorn puts methods in capitals, and a method
  that is not ASCII ends all connections.
* Trailers do not begin another request, and data for a response that has ended is dropped. In
  Hypercorn each of them ends all connections.
* The application is told when its client leaves, by a reset of the stream or with the connection.
  In Hypercorn it goes on for ever.
* An upload that its application does not read delays nothing else, and all that waits on a
  connection is bounded. Hypercorn reads no datagram of any client meanwhile.
* What is kept of a client is bounded: header blocks, fields, and data that comes out of order.
* A response without its end is reset. So is an upload whose response is already complete.
* A client that opens streams only to reset them meets the bounds of HTTP/2: on applications at
  work, and on resets (`ResetLimit`).
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from typing import Any, cast

from aioquic.h3.connection import ErrorCode, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import (
    ConnectionTerminated,
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)

from flowstream.server._hypercorn import (
    ASGIHTTPState,
    ASGIWebsocketState,
    Body,
    ConnectionState,
    EndBody,
    EndData,
    HTTPStream,
    Request,
    Response,
    StreamClosed,
    StreamEvent,
    filter_pseudo_headers,
)
from flowstream.server._request_rules import RequestHead, judge_http2
from flowstream.server._settings import ServerConfig
from flowstream.server.http2._reset_limit import ResetLimit
from flowstream.server.http3._hypercorn_quic import H3Protocol
from flowstream.server.http3._stream_upload import StreamUpload
from flowstream.server.log._access_entry import LoggedExchange, keeps_access, log_unread
from flowstream.server.websocket._message_memory import MessageMemory
from flowstream.server.websocket._websocket import LoggedWebSocket, WebSocket

logger = logging.getLogger("flowstream.server")

# Bytes of uploads that may wait for their applications, on all streams of a connection. aioquic
# opens the windows by itself, so the server stops a stream that brings more.
WAITING = 1 << 20

# RFC 9114 § 4.2.
_OF_CONNECTIONS = (
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"te",
    b"transfer-encoding",
    b"upgrade",
)
# Bytes of a header block, and of any other frame that has to be whole: as in a head of HTTP/1.1.
_HEAD = 16 * 1024
# Bytes that may be kept of streams while data before them is missing. aioquic also makes room for
# the missing data, and opens the windows as if all had come.
_OUT_OF_ORDER = 2 << 20

_UNANSWERED = (ASGIHTTPState.REQUEST, ASGIWebsocketState.HANDSHAKE)


class _Frames(H3Connection):
    """aioquic's state of HTTP/3, without a table of the client's fields (RFC 9204 § 3.2.3).

    pylsqpack does not bound what a header block expands to: each of its bytes could be a field of
    4 KiB from that table. The longest field of the static table has 90 bytes.
    """

    def _init_connection(self) -> None:
        self._max_table_capacity = self._blocked_streams = 0
        self._decoder = type(self._decoder)(0, 0)
        super()._init_connection()


class HTTP3(H3Protocol):
    """One HTTP/3 connection. Its arguments are those of Hypercorn's class."""

    def __init__(
        self,
        app: Any,
        config: Any,
        context: Any,
        task_group: Any,
        state: Any,
        client: Any,
        server: Any,
        quic: QuicConnection,
        send: Any,
    ) -> None:
        # No super().__init__: it would make aioquic's own HTTP/3.
        self._application, self.app = app, cast("Any", self._serve)
        self.config, self.context, self.task_group = config, context, task_group
        self._websockets = MessageMemory()
        self.state, self.client, self.server = state, client, server
        self._quic, self.send = quic, send
        self.connection = _Frames(quic)
        self.streams = {}
        self._at_work = 0  # applications: some outlast their streams
        self._uploads: dict[int, StreamUpload] = {}
        self._waiting = 0  # bytes in them
        self._ended: set[int] = set()  # streams whose response has had its end
        self._reset_limit = ResetLimit()

    # -- from the application --------------------------------------------------------------

    async def stream_send(self, event: StreamEvent) -> None:
        """Send an event of an application's stream."""
        if isinstance(event, StreamClosed):
            await self._finish(event.stream_id)
        elif event.stream_id in self.streams:
            if isinstance(event, (EndBody, EndData)):
                self._ended.add(event.stream_id)
            elif isinstance(event, Response):
                # aioquic sends what belongs to a connection, and clients then refuse the response.
                fields = [one for one in event.headers if one[0].lower() not in _OF_CONNECTIONS]
                event = replace(event, headers=fields)
            await super().stream_send(event)

    async def _finish(self, stream_id: int) -> None:
        """Forget a stream whose application has left, or whose WebSocket is closed."""
        stream = self.streams.pop(stream_id, None)
        if stream is None:
            return
        upload = self._forget(stream_id)
        if stream_id not in self._ended:
            if isinstance(stream, WebSocket) and stream.state is ASGIWebsocketState.CLOSED:
                self.connection.send_data(stream_id, b"", True)  # for TCP's FIN (RFC 9220 § 3)
            else:
                self._abort(stream_id, ErrorCode.H3_INTERNAL_ERROR)
        self._ended.discard(stream_id)
        if upload is None or not upload.ended:
            self._stop(stream_id, ErrorCode.H3_NO_ERROR)
        await self.send()

    async def _serve(self, *arguments: Any) -> None:
        self._at_work += 1
        try:
            await self._application(*arguments)
        finally:
            self._at_work -= 1

    # -- from the client -------------------------------------------------------------------

    async def handle(self, quic_event: QuicEvent) -> None:
        """Take an event of QUIC; a failure ends this connection, and no other."""
        try:
            events = self.connection.handle_event(quic_event)
            if isinstance(quic_event, StreamDataReceived):
                stream = self.connection._stream.get(quic_event.stream_id)
                if stream is not None and len(stream.buffer) > _HEAD:
                    self._quic.close(error_code=ErrorCode.H3_EXCESSIVE_LOAD)
                    return
            for event in events:
                if isinstance(event, HeadersReceived):
                    await self._headers(event)
                elif isinstance(event, DataReceived):
                    await self._data(event)
            if isinstance(quic_event, (StreamReset, StopSendingReceived)):
                await self._was_reset(quic_event.stream_id)
            elif isinstance(quic_event, ConnectionTerminated):
                for stream_id in list(self.streams):
                    await self._leave(stream_id)
        except Exception as error:  # a library failed on what the peer sent
            logger.info("an HTTP/3 connection was closed: %s: %s", type(error).__name__, error)
            logger.debug("what closed it", exc_info=error)
            self._quic.close(error_code=ErrorCode.H3_INTERNAL_ERROR)

    def check_kept(self) -> None:
        """End the connection if too much data is kept that came out of order."""
        kept = sum(len(stream.receiver._buffer) for stream in self._quic._streams.values())
        if kept > _OUT_OF_ORDER:
            self._quic.close(error_code=ErrorCode.H3_EXCESSIVE_LOAD)

    async def _headers(self, event: HeadersReceived) -> None:
        stream_id = event.stream_id
        if all(name != b":method" for name, _ in event.headers):  # trailers, which are dropped
            if event.stream_ended:
                self._end(stream_id)
            return
        if self.context.terminated.is_set() or self._is_busy():
            # RFC 9114 § 4.1.1: refused before any processing, so the client may send it again.
            self._abort(stream_id, ErrorCode.H3_REQUEST_REJECTED)
            self._count_trial()
            return
        head = judge_http2(
            event.headers,
            ended=event.stream_ended,
            most=cast(ServerConfig, self.config).max_request_fields,
        )
        if isinstance(head, int):
            await self._refuse(event, head)
            return
        await self._open(event, head)
        if event.stream_ended:
            self._end(stream_id)

    def _is_busy(self) -> bool:
        return self._at_work >= 2 * self.config.h2_max_concurrent_streams

    async def _refuse(self, event: HeadersReceived, status: int) -> None:
        """Refuse a request without calling the application, and end its stream."""
        fields = [(b":status", b"%d" % status), (b"content-length", b"0")]
        fields += self.config.response_headers("h3")
        self.connection.send_headers(event.stream_id, fields, True)
        if not event.stream_ended:
            self._stop(event.stream_id, ErrorCode.H3_NO_ERROR)
        self._count_trial()
        asked = dict(event.headers)
        head = RequestHead(
            asked.get(b":method", b"-"), asked.get(b":path", b"-"), b"3", list(event.headers)
        )
        await log_unread(self.config, self.client, True, status, head)

    async def _open(self, event: HeadersReceived, head: RequestHead) -> None:
        # Hypercorn's, except for the classes. And methods are not put in capitals.
        stream_id, logged = event.stream_id, keeps_access(self.config)
        kind: Any
        if head.method == b"CONNECT":
            kind = LoggedWebSocket if logged else WebSocket
        else:
            kind = LoggedExchange if logged else HTTPStream
        stream = kind(
            self.app,
            self.config,
            self.context,
            self.task_group,
            True,
            self.client,
            self.server,
            self.stream_send,
            stream_id,
        )
        if isinstance(stream, WebSocket):
            stream.join(self._websockets)
        self.streams[stream_id] = stream
        self._uploads[stream_id] = StreamUpload()
        await stream.handle(
            Request(
                stream_id=stream_id,
                headers=filter_pseudo_headers(head.headers),
                http_version="3",
                method=head.method.decode("ascii"),
                raw_path=head.target,
                state=ConnectionState(dict(self.state)),
            )
        )
        if stream.closed:  # Hypercorn itself has refused a wrong host or handshake
            await self._finish(stream_id)
        await self.context.mark_request()

    async def _data(self, event: DataReceived) -> None:
        stream_id, size = event.stream_id, len(event.data)
        if upload := self._uploads.get(stream_id):
            upload.add(event.data, size)
            self._waiting += size
            if self._waiting > WAITING:
                self._abort(stream_id, ErrorCode.H3_EXCESSIVE_LOAD)
                await self._was_reset(stream_id)
            elif event.stream_ended:
                self._end(stream_id)
            elif size:
                self._feed_soon(stream_id, upload)

    def _end(self, stream_id: int) -> None:
        if upload := self._uploads.get(stream_id):
            upload.ended = True
            self._feed_soon(stream_id, upload)

    def _feed_soon(self, stream_id: int, upload: StreamUpload) -> None:
        if not upload.feeding:
            upload.feeding = True
            self.task_group.spawn(self._feed, stream_id, upload)

    async def _feed(self, stream_id: int, upload: StreamUpload) -> None:
        """Hand over the data of one stream, as fast as its application receives it."""
        stream = self.streams.get(stream_id)
        try:
            while stream is not None and upload.waiting and not stream.closed:
                data = upload.take()
                if isinstance(stream, HTTPStream):
                    self._waiting -= len(data)
                    await stream.handle(Body(stream_id=stream_id, data=data))
                    continue
                try:  # a WebSocket keeps all of it while it waits for others
                    await stream.handle(Body(stream_id=stream_id, data=data))
                finally:
                    self._waiting -= len(data)
            if upload.ended and isinstance(stream, HTTPStream):
                await stream.handle(EndBody(stream_id=stream_id))
            elif upload.ended:
                await self._leave(stream_id)  # RFC 9220 § 3: like TCP's FIN
        except Exception as error:  # noqa: BLE001  # a library failed on what the peer sent
            logger.info("an HTTP/3 stream was reset: %s: %s", type(error).__name__, error)
            await self._leave(stream_id)
        finally:
            upload.feeding = False

    async def _was_reset(self, stream_id: int) -> None:
        stream = self.streams.get(stream_id)
        if stream is not None:
            await self._leave(stream_id)
            if stream.state in _UNANSWERED:
                self._count_trial()

    async def _leave(self, stream_id: int) -> None:
        """Tell an application that its client has left, and end its stream."""
        stream = self.streams.pop(stream_id, None)
        self._forget(stream_id)
        self._ended.discard(stream_id)
        if stream is not None:
            self._abort(stream_id, ErrorCode.H3_REQUEST_CANCELLED)
            await stream.handle(StreamClosed(stream_id=stream_id))
            await self.send()

    def _forget(self, stream_id: int) -> StreamUpload | None:
        upload = self._uploads.pop(stream_id, None)
        if upload is not None:
            self._waiting -= len(upload.take())
        return upload

    def _stop(self, stream_id: int, code: ErrorCode) -> None:
        with contextlib.suppress(ValueError):  # all of it has come
            self._quic.stop_stream(stream_id, code)

    def _abort(self, stream_id: int, code: ErrorCode) -> None:
        with contextlib.suppress(AssertionError, ValueError):  # it was reset, or all is sent
            self._quic.reset_stream(stream_id, code)
        self._stop(stream_id, code)

    def _count_trial(self) -> None:
        if not self._reset_limit.try_once():
            self._quic.close(error_code=ErrorCode.H3_EXCESSIVE_LOAD)
