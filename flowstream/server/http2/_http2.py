"""One HTTP/2 connection: take the client's requests, uploads, resets and faults.

What is different from ``hypercorn.protocol.h2.H2Protocol`` (`HTTP2Streams` lists more), and why:

* An upload that its application does not read delays nothing else, and all uploads together are
  bounded (`Uploads`).
* A request that a proxy may read differently is refused with 400 before any application is called
  (`judge_http2`). A method or path that is not ASCII ends Hypercorn's worker. So does data for a
  stream that has ended, which is dropped here.
* What h2 keeps of the client is bounded (`keep_little`).
* A client's mistake on one stream ends only that stream (`keep_apart`).
* A client that opens streams only to reset them meets two bounds: on applications at work, and on
  resets (`ResetLimit`).
"""

from __future__ import annotations

import contextlib
import logging
from functools import partial
from typing import Any, cast

import h2.errors
import h2.events
import h2.exceptions

from flowstream.asgi._carrier import STATE_KEY
from flowstream.asgi._head import HEAD_KEY, HeldHead
from flowstream.server._frame_pieces import ExcessError, FramePieces
from flowstream.server._hypercorn import (
    ASGIHTTPState,
    ASGIWebsocketState,
    Body,
    Closed,
    ConnectionState,
    EndBody,
    HTTPStream,
    RawData,
    Request,
    TransportEvent,
    Updated,
    WSStream,
    filter_pseudo_headers,
)
from flowstream.server._inbox import inbox_of
from flowstream.server._protocol_carrier import ProtocolCarrier
from flowstream.server._request_rules import RequestHead, judge_http2
from flowstream.server.http2._link import Link
from flowstream.server.http2._peer_settings import forget_table_sizes, keep_little, unfinished_head
from flowstream.server.http2._reset_limit import ResetLimit
from flowstream.server.http2._stream_buffer import BoundedStreamBuffer
from flowstream.server.http2._stream_faults import StreamFault, keep_apart
from flowstream.server.http2._streams import ACCEPTED, HTTP2Streams
from flowstream.server.http2._uploads import Upload
from flowstream.server.log._access_entry import LoggedExchange, keeps_access, log_unread
from flowstream.server.websocket._message_memory import MessageMemory
from flowstream.server.websocket._websocket import LoggedWebSocket, WebSocket

logger = logging.getLogger("flowstream.server")

# Bytes that the heads of a connection's open requests may have. Further requests are refused, and
# the client may send them again.
_HEADS = 256 * 1024

_UNANSWERED = (ASGIHTTPState.REQUEST, ASGIWebsocketState.HANDSHAKE)


class HTTP2(HTTP2Streams):
    """One HTTP/2 connection.

    Args:
        carrier: the connection.
        arguments: those of Hypercorn's class.
    """

    def __init__(self, carrier: ProtocolCarrier, *arguments: Any) -> None:
        super().__init__(carrier, *arguments)
        keep_little(self.connection, self.config.h2_max_header_list_size)
        keep_apart(self.connection, self.config.max_request_fields)
        self._application, self.app = self.app, cast("Any", self._serve)
        self._at_work = 0  # applications: some outlast their streams
        self._websockets = MessageMemory()
        self._reset_limit = ResetLimit()
        self._pieces = FramePieces(self.config.h2_max_inbound_frame_size)
        self._begun = False  # whether a request has begun in the current turn

    async def handle(self, event: TransportEvent) -> None:
        """Take an event of the transport."""
        if isinstance(event, RawData):
            await self._take(event.data)
            return
        await super().handle(event)
        for buffer in self.stream_buffers.values():
            await buffer.close()  # else a sender that waits for a window would wait for ever

    async def _take(self, data: bytes) -> None:
        try:
            is_first = True  # the first piece needs no turn: the read had one
            for piece in self._pieces.cut(data):
                if not is_first:
                    await self._carrier.turn()
                is_first = self._begun = False
                if self.closed:
                    return
                await super().handle(RawData(piece))
                if unfinished_head(self.connection) > self.config.h2_max_header_list_size:
                    await self._give_up(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
        except ExcessError as error:
            await self._give_up(error.code)

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if self.closed:
                return
            if isinstance(event, h2.events.RequestReceived):
                await self._request(event)
            elif isinstance(event, h2.events.DataReceived):
                await self._data(event)
            elif isinstance(event, h2.events.StreamEnded):
                await self._ended(event.stream_id)
            elif isinstance(event, h2.events.StreamReset):
                await self._was_reset(event.stream_id)
            elif isinstance(event, StreamFault):
                await self._fault(event)
            elif isinstance(event, h2.events.ConnectionTerminated) and not event.error_code:
                self._going_away = True
                await self._leave_if_done()
            elif not isinstance(event, h2.events.PriorityUpdated):
                if isinstance(event, h2.events.RemoteSettingsChanged):
                    forget_table_sizes(self.connection)
                elif isinstance(event, h2.events.SettingsAcknowledged):
                    self._uploads.acknowledged(event.changed_settings)
                await super()._handle_events([event])
        self._uploads.settle()
        await self._flush()

    # -- requests --------------------------------------------------------------------------

    async def _request(self, event: h2.events.RequestReceived) -> None:
        if self._begun:
            await self._carrier.turn()
        self._begun = True
        stream = self.connection.streams.get(event.stream_id)
        if stream is None or stream.closed:  # by a frame that came right after it
            await self._count_trial()
            return
        # RFC 9113 § 8.7: refused before any processing, so the client may send it again.
        size = sum(len(name) + len(value) for name, value in event.headers)
        refused = (
            self._going_away
            or self._at_work >= 2 * self.config.h2_max_concurrent_streams
            or self._size_of_heads + size > _HEADS
        )
        if refused:
            self.connection.reset_stream(event.stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
            await self._count_trial()
            return
        head = judge_http2(
            event.headers or (),
            ended=event.stream_ended is not None,
            most=self.config.max_request_fields,
        )
        if isinstance(head, int):
            await self._refuse(event, head)
            return
        self._heads[event.stream_id] = size
        self._size_of_heads += size
        await self.send(Updated(idle=False))
        await self._create_stream(event)
        await self._close_if_answered(event.stream_id)

    async def _refuse(self, event: h2.events.RequestReceived, status: int) -> None:
        """Refuse a request without calling the application, and end its stream."""
        fields = [(b":status", b"%d" % status), (b"content-length", b"0")]
        fields += self.config.response_headers("h2")
        self.connection.send_headers(event.stream_id, fields, end_stream=True)
        self._discourage(event.stream_id)
        await self._count_trial()
        asked = dict(event.headers or ())
        head = RequestHead(
            asked.get(b":method", b"-"), asked.get(b":path", b"-"), b"2", event.headers or []
        )
        origin = self._carrier.origin(head.headers)
        await log_unread(self.config, origin.client, origin.tls, status, head)

    async def _create_stream(self, request: h2.events.RequestReceived) -> None:
        # Hypercorn's, except for the buffer, the link in the state and the origin.
        stream_id, fields = request.stream_id, dict(request.headers)
        method = fields[b":method"].decode("ascii")
        if stream_id % 2:  # the client's, and not one that we push
            self._last_request = max(self._last_request, stream_id)
        self._links[stream_id] = link = Link(
            self._carrier,
            partial(self.task_group.spawn, self.reset, stream_id, h2.errors.ErrorCodes.CANCEL),
            partial(self._open_direct_write, stream_id),
            has_body=request.stream_ended is None,
        )
        origin = self._carrier.origin(request.headers)
        kind: Any
        if keeps_access(self.config):
            kind = LoggedWebSocket if method == "CONNECT" else LoggedExchange
        else:
            kind = WebSocket if method == "CONNECT" else HTTPStream
        self.streams[stream_id] = stream = kind(
            self.app,
            self.config,
            self.context,
            self.task_group,
            origin.tls,
            origin.client,
            self.server,
            self.stream_send,
            stream_id,
        )
        if isinstance(stream, WebSocket):
            stream.join(self._websockets)
        self.stream_buffers[stream_id] = BoundedStreamBuffer(
            self.context.event_class, link, self._carrier.note_progress
        )
        self.priority.insert_stream(stream_id)
        await stream.handle(
            Request(
                stream_id=stream_id,
                headers=filter_pseudo_headers(request.headers),
                http_version="2",
                method=method,
                raw_path=fields[b":path"],
                state=ConnectionState(
                    {**self.connection_state, STATE_KEY: link, HEAD_KEY: HeldHead(self._flush)}
                ),
            )
        )
        if not stream.closed:
            self._at_work += 1
            inbox = inbox_of(stream)
            if request.stream_ended is None and inbox is not None:
                self._uploads.open(stream_id)
                inbox.on_empty = partial(self._received, stream_id)
        self.keep_alive_requests += 1
        await self.context.mark_request()

    async def _close_if_answered(self, stream_id: int) -> None:
        """Forget a stream that Hypercorn itself has refused, for a wrong host or handshake."""
        stream = self.streams.get(stream_id)
        if stream is not None and stream.closed:
            await self._finish(stream_id)

    async def _serve(self, *arguments: Any) -> None:
        try:
            await self._application(*arguments)
        finally:
            self._at_work -= 1

    # -- uploads ---------------------------------------------------------------------------

    async def _data(self, event: h2.events.DataReceived) -> None:
        upload = self._uploads.arrived(event.stream_id, event.data, event.flow_controlled_length)
        if upload is not None:
            await self._feed_on(event.stream_id, upload)

    async def _ended(self, stream_id: int) -> None:
        if upload := self._uploads.end(stream_id):
            await self._feed_on(stream_id, upload)
        elif stream := self.streams.get(stream_id):
            await self._end_request(stream)

    async def _feed_on(self, stream_id: int, upload: Upload) -> None:
        stream = self.streams.get(stream_id)
        # A WebSocket's bytes may become more messages than there is room for. If there is room for
        # only one, a request's second message has to wait, too.
        if isinstance(stream, HTTPStream) and self.config.max_app_queue_size > 1:
            if not upload.feeding:
                upload.feeding = True
                await self._feed(stream_id, upload)
        else:
            self._feed_soon(stream_id, upload)

    def _feed_soon(self, stream_id: int, upload: Upload) -> None:
        if not upload.feeding:
            upload.feeding = True
            self.task_group.spawn(self._feed, stream_id, upload)

    async def _feed(self, stream_id: int, upload: Upload) -> None:
        """Hand over the data of one stream, if its application has received all data before it.

        No task waits for the application. `_received` is called when it has.
        """
        stream = self.streams.get(stream_id)
        inbox = inbox_of(stream)
        try:
            while upload.waiting and inbox is not None and inbox.is_empty:
                data = upload.take()
                if data and stream is not None:
                    await stream.handle(Body(stream_id=stream_id, data=data))
                if inbox.is_empty:  # the data made no message, or that was received
                    self._uploads.received(stream_id)
            if stream is not None and upload.ended and not (upload.waiting or upload.told):
                upload.told = True
                await self._end_request(stream)
        except h2.exceptions.ProtocolError:
            pass  # the stream has ended meanwhile
        except Exception as error:  # noqa: BLE001  # a library failed on what the peer sent
            logger.info("a stream was reset: %s: %s", type(error).__name__, error)
            await self.reset(stream_id, h2.errors.ErrorCodes.PROTOCOL_ERROR)
        finally:
            upload.feeding = False
        await self._flush()

    def _received(self, stream_id: int) -> None:
        """Take note that an application has received all data that was handed over."""
        upload = self._uploads.get(stream_id)
        if upload is not None and upload.feeding:
            return  # `_feed` will go on
        told = False
        with contextlib.suppress(h2.exceptions.ProtocolError):  # the stream has ended meanwhile
            told = self._uploads.received(stream_id)
        if upload is not None and (told or upload.waiting):
            self._feed_soon(stream_id, upload)

    async def _end_request(self, stream: HTTPStream | WSStream) -> None:
        if isinstance(stream, HTTPStream):
            await stream.handle(EndBody(stream_id=stream.stream_id))
        elif stream.stream_id not in self.streams:
            pass
        elif stream.state in ACCEPTED:
            await self._close_stream(stream.stream_id)  # RFC 8441 § 5: like TCP's FIN
        else:  # there is no answer yet, and an end can't come before its head
            await self.reset(stream.stream_id, h2.errors.ErrorCodes.CANCEL)

    # -- resets and faults -----------------------------------------------------------------

    async def _was_reset(self, stream_id: int) -> None:
        stream = self.streams.get(stream_id)
        if stream is not None:
            await self._close_stream(stream_id, "the client reset the HTTP/2 stream")
            if stream.state in _UNANSWERED:
                await self._count_trial()

    async def _fault(self, event: StreamFault) -> None:
        self._uploads.give_back(event.size)
        await self._close_stream(event.stream_id, "the server reset the HTTP/2 stream")
        await self._count_trial()

    async def _count_trial(self) -> None:
        if not self._reset_limit.try_once():
            await self._give_up(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)

    async def _give_up(self, code: h2.errors.ErrorCodes) -> None:
        """End the connection, because its client asks too much."""
        self.connection.close_connection(code)
        await self._flush()
        await self.send(Closed())
