"""HTTP/2: Hypercorn's, with backpressure, and with faults that end one stream only.

What is different from ``hypercorn.protocol.h2.H2Protocol``, and why:

* A stream's buffer holds its sender back for as long as it is full (`BoundedStreamBuffer`).
* A stream that its client grants no window is reset at the write deadline; if no stream of
  the connection moved meanwhile, the connection is.
* An app that ends without ending its response resets the stream: the client would wait
  for ever for the rest.
* A request with a method or path that is missing or not ASCII is refused by itself, and data
  for a stream that is over is dropped; both end Hypercorn's worker.
* ``keep_alive_max_requests`` and a shutdown send GOAWAY and let the streams that are open go
  on. h2's own `close_connection` refuses to write to them.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

import h2.errors
import h2.events
import h2.exceptions
import priority
import trio
from hyperframe.frame import GoAwayFrame

from flowstream._closing import CloseReason
from flowstream.asgi._connection import STATE_KEY
from flowstream.server._hypercorn import (
    Body,
    Closed,
    ConnectionState,
    Data,
    H2Protocol,
    HTTPStream,
    RawData,
    Request,
    StreamClosed,
    StreamEvent,
    TransportEvent,
    Updated,
    WSStream,
    filter_pseudo_headers,
)
from flowstream.server._link import Link
from flowstream.server._stream_buffer import LOW_WATER, BoundedStreamBuffer

if TYPE_CHECKING:
    from flowstream.server._connection import Connection


class HTTP2(H2Protocol):
    """One HTTP/2 connection.

    Args:
        carrier: the connection that carries it.
        arguments: those of Hypercorn's own.
    """

    def __init__(self, carrier: Connection, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._carrier = carrier
        self._links: dict[int, Link] = {}
        self._last_request = 0
        self._going_away = False

    # -- from the application --------------------------------------------------------------

    async def stream_send(self, event: StreamEvent) -> None:
        """Send what an application's stream says."""
        try:
            if isinstance(event, (Body, Data)):
                for start in range(0, len(event.data), LOW_WATER):
                    piece = event.data[start : start + LOW_WATER]
                    await super().stream_send(type(event)(stream_id=event.stream_id, data=piece))
                return
            if isinstance(event, StreamClosed):
                # The application is done: what follows is no disconnect to it.
                self._links.pop(event.stream_id, None)
                await self._end_incomplete(event.stream_id)
            await super().stream_send(event)
        except trio.TooSlowError:
            await self._stalled(event.stream_id)
        if isinstance(event, StreamClosed):
            await self._leave_if_done()

    async def reset(self, stream_id: int, code: h2.errors.ErrorCodes) -> None:
        """Send RST_STREAM and release whoever waits to write to the stream."""
        buffer = self.stream_buffers.get(stream_id)
        if buffer is not None:
            await buffer.close()
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self.connection.reset_stream(stream_id, code)
        await self._close_stream(stream_id)
        await self._window_updated(stream_id)  # for the sending task to clear it away
        await self._flush()

    async def say_goaway(self) -> None:
        """Tell the client to take new requests elsewhere, and let the open ones end."""
        if not self._going_away:
            self._going_away = True
            # Not h2's close_connection(), after which h2 lets nothing more be sent.
            frame = GoAwayFrame(0, last_stream_id=self._last_request, error_code=0)
            await self.send(RawData(frame.serialize()))
            await self._leave_if_done()

    async def _end_incomplete(self, stream_id: int) -> None:
        """Reset a stream whose application has left without ending its response."""
        buffer = self.stream_buffers.get(stream_id)
        if buffer is not None and not buffer._complete and stream_id in self.streams:
            await buffer.drain()  # what it did say arrives first
            await self.reset(stream_id, h2.errors.ErrorCodes.INTERNAL_ERROR)

    async def _stalled(self, stream_id: int) -> None:
        """Give up a stream whose client grants it no window."""
        if link := self._links.get(stream_id):
            link.end(CloseReason.STALLED)
        if self._carrier.seconds_since_progress() >= self._carrier.write_timeout:
            self._carrier.abort(CloseReason.STALLED)
        else:
            await self.reset(stream_id, h2.errors.ErrorCodes.CANCEL)

    # -- from the client -------------------------------------------------------------------

    async def handle(self, event: TransportEvent) -> None:
        """Take what the transport says."""
        if isinstance(event, Closed):
            for buffer in list(self.stream_buffers.values()):
                await buffer.close()  # else whoever waits for a window waits for ever
        await super().handle(event)

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if isinstance(event, h2.events.RequestReceived):
                await self._request(event)
            elif isinstance(event, h2.events.DataReceived) and event.stream_id not in self.streams:
                # RFC 9113 § 6.9: data that nobody wants still counts against the window.
                with contextlib.suppress(h2.exceptions.ProtocolError):
                    self.connection.acknowledge_received_data(
                        event.flow_controlled_length, event.stream_id
                    )
            else:
                await super()._handle_events([event])
        await self._flush()

    async def _request(self, event: h2.events.RequestReceived) -> None:
        if self._going_away:
            # RFC 9113 § 8.7: refused before any processing, so it is safe to send again.
            self.connection.reset_stream(event.stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
            return
        if not _acceptable(event):
            self.connection.reset_stream(event.stream_id, h2.errors.ErrorCodes.PROTOCOL_ERROR)
            return
        await self._create_stream(event)
        await self.send(Updated(idle=False))
        if self.keep_alive_requests >= self.config.keep_alive_max_requests:
            await self.say_goaway()

    async def _create_stream(self, request: h2.events.RequestReceived) -> None:
        # Hypercorn's, but for the buffer and for the link in the state.
        stream_id, fields = request.stream_id, dict(request.headers)
        method = fields[b":method"].decode("ascii").upper()
        self._last_request = max(self._last_request, stream_id)
        self._links[stream_id] = link = Link(
            self._carrier,
            partial(self.task_group.spawn, self.reset, stream_id, h2.errors.ErrorCodes.CANCEL),
            has_body=request.stream_ended is None,
        )
        self.streams[stream_id] = stream = (WSStream if method == "CONNECT" else HTTPStream)(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            stream_id,
        )
        self.stream_buffers[stream_id] = BoundedStreamBuffer(
            self.context.event_class, self._carrier.write_timeout, self._carrier.note_progress
        )
        try:
            self.priority.insert_stream(stream_id)
        except priority.DuplicateStreamError:  # type: ignore[attr-defined]
            pass  # a PRIORITY frame came before it
        else:
            self.priority.block(stream_id)
        await stream.handle(
            Request(
                stream_id=stream_id,
                headers=filter_pseudo_headers(request.headers),
                http_version="2",
                method=method,
                raw_path=fields[b":path"],
                state=ConnectionState({**self.connection_state, STATE_KEY: link}),
            )
        )
        self.keep_alive_requests += 1
        await self.context.mark_request()

    async def _close_stream(self, stream_id: int) -> None:
        if link := self._links.pop(stream_id, None):
            link.end(CloseReason.CLIENT_DISCONNECTED)
        await super()._close_stream(stream_id)

    async def _leave_if_done(self) -> None:
        if self._going_away and not self.streams:
            await self.send(Closed())


def _acceptable(request: h2.events.RequestReceived) -> bool:
    """Return whether Hypercorn can serve this request."""
    fields = dict(request.headers or ())
    return all(fields.get(name, b"\xff").isascii() for name in (b":method", b":path"))
