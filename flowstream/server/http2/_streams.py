"""The streams of one HTTP/2 connection: send on them, and end them.

What is different from ``hypercorn.protocol.h2.H2Protocol``, and why:

* A stream's buffer makes its sender wait while it is full (`BoundedStreamBuffer`).
* If the client grants a stream no window, the stream is reset at the write deadline. If it grants
  none to the whole connection, the connection is reset.
* If an app returns without ending its response, the stream is reset. Otherwise the client would
  wait for ever for the rest.
* The streams take turns to send (`RoundRobin`). The client's priorities are ignored.
* ``keep_alive_max_requests`` and a shutdown send GOAWAY, and open streams go on. After h2's own
  `close_connection` nothing more could be sent on them.

`HTTP2` takes what the client sends.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial
from typing import Any

import h2.errors
import h2.events
import h2.exceptions
import trio
from hyperframe.frame import GoAwayFrame

from flowstream._closing import CloseReason
from flowstream.asgi._direct_write import DirectWrite, NotDirect
from flowstream.asgi._head import HEAD_KEY, HeldHead
from flowstream.server._hypercorn import (
    ASGIWebsocketState,
    Body,
    Closed,
    Data,
    H2Protocol,
    HTTPStream,
    RawData,
    Response,
    StreamClosed,
    StreamEvent,
    Updated,
)
from flowstream.server._inbox import inbox_of
from flowstream.server._protocol_carrier import CLOSED, ProtocolCarrier
from flowstream.server._settings import ServerConfig
from flowstream.server.http2._direct_frames import DirectFrames, StreamDirectWrite
from flowstream.server.http2._link import Link
from flowstream.server.http2._round_robin import RoundRobin
from flowstream.server.http2._stream_buffer import LOW_WATER, BoundedStreamBuffer
from flowstream.server.http2._uploads import Uploads

ACCEPTED = (ASGIWebsocketState.CONNECTED, ASGIWebsocketState.CLOSED)
"""The states of a WebSocket that its application has accepted."""


class HTTP2Streams(H2Protocol):
    """The streams of one HTTP/2 connection.

    Args:
        carrier: the connection.
        arguments: those of Hypercorn's class.
    """

    config: ServerConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    stream_buffers: dict[int, BoundedStreamBuffer]  # type: ignore[assignment]  # narrower

    def __init__(self, carrier: ProtocolCarrier, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._carrier = carrier
        self.priority = RoundRobin()  # type: ignore[assignment]  # no tree
        self._links: dict[int, Link] = {}
        self._direct_frames = DirectFrames(
            self.connection, carrier.is_writing, partial(self.task_group.spawn, self._flush)
        )
        self._uploads = Uploads(self.connection)
        self._holding = False  # whether h2's bytes wait, so that more can follow in one write
        self._held: dict[int, HeldHead] = {}  # held heads, by their streams
        self._last_request = 0
        self._heads: dict[int, int] = {}  # the sizes of requests' heads, by open streams
        self._size_of_heads = 0
        self._going_away = False

    # -- what applications send ------------------------------------------------------------

    async def stream_send(self, event: StreamEvent) -> None:
        """Send an event of an application's stream."""
        try:
            if isinstance(event, StreamClosed):
                await self._finish(event.stream_id)
                return
            self._take_along(event.stream_id)
            if isinstance(event, (Body, Data)) and len(event.data) > LOW_WATER:
                for start in range(0, len(event.data), LOW_WATER):
                    piece = event.data[start : start + LOW_WATER]
                    await super().stream_send(type(event)(stream_id=event.stream_id, data=piece))
            elif isinstance(event, Response):
                await self._send_head(event)
            else:
                await super().stream_send(event)
        except trio.TooSlowError:
            await self._stalled(event.stream_id)

    async def _send_head(self, event: Response) -> None:
        if any(name.lower() == b"te" for name, _ in event.headers):
            # h2 leaves out fields of a connection (RFC 9113 § 8.2.2), but refuses this one.
            fields = [field for field in event.headers if field[0].lower() != b"te"]
            event = replace(event, headers=fields)
        stream = self.streams.get(event.stream_id)
        head = None if stream is None else stream.scope["state"].get(HEAD_KEY)
        if head is None or not head.is_wanted:
            await super().stream_send(event)
            return
        # h2 keeps the head until something else is written on the connection.
        self._held[event.stream_id] = head
        head.is_held = self._holding = True
        try:
            await super().stream_send(event)
        finally:
            self._holding = False

    def _open_direct_write(self, stream_id: int) -> DirectWrite:
        """Return the direct writes to the response on a stream."""
        stream = self.connection.streams.get(stream_id)
        buffer = self.stream_buffers.get(stream_id)
        if stream is None or buffer is None:
            return DirectWrite.impossible(NotDirect.ENDED)
        return StreamDirectWrite(self._direct_frames, stream, buffer)

    def _take_along(self, stream_id: int) -> None:
        """Stop holding a stream's head: the sending task will send it with what follows."""
        if head := self._held.pop(stream_id, None):
            head.is_held = False

    async def _flush(self) -> None:
        """Write publishers' frames, then h2's bytes, even if cancelled.

        Windows and HPACK count them as sent.
        """
        if self._holding:
            return
        if data := self._direct_frames.take():
            self._carrier.note_progress()
        data += self.connection.data_to_send()
        if not data:
            return
        if not await self._carrier.write(data):
            with trio.CancelScope(shield=True):
                await self.handle(Closed())

    async def _send_data(self, stream_id: int) -> None:
        # Hypercorn's sends one more frame for the end, and never forgets a stream that was reset
        # while it had nothing to send.
        connection, buffer = self.connection, self.stream_buffers[stream_id]
        over = buffer.complete
        try:
            window = connection.local_flow_control_window(stream_id)
            size = max(0, min(window, connection.max_outbound_frame_size))
            data = await buffer.pop(size)
            over = buffer.complete
            if data or over:
                connection.send_data(stream_id, data, end_stream=over)
            else:
                self.priority.block(stream_id)
            if over:
                self._discourage(stream_id)
        except h2.exceptions.ProtocolError:
            over = True  # the stream or the connection is closed
            await buffer.close()
        if over:
            del self.stream_buffers[stream_id]
            self.priority.remove_stream(stream_id)
        await self._flush()
        await trio.lowlevel.cancel_shielded_checkpoint()  # let others run between two frames
        if over:
            await self.say_goodbye()
            await self._leave_if_done()

    def _discourage(self, stream_id: int) -> None:
        """Stop an upload whose response is already complete (RFC 9113 § 8.1)."""
        stream = self.connection.streams.get(stream_id)
        if stream is not None and not stream.closed:
            self.connection.reset_stream(stream_id, h2.errors.ErrorCodes.NO_ERROR)

    # -- how a stream ends -----------------------------------------------------------------

    async def reset(self, stream_id: int, code: h2.errors.ErrorCodes) -> None:
        """Send RST_STREAM, and wake the task that waits to write to the stream."""
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self.connection.reset_stream(stream_id, code)
        await self._close_stream(stream_id, "the server reset the HTTP/2 stream")
        await self._flush()

    async def _finish(self, stream_id: int) -> None:
        """Close a stream whose application has left, or whose WebSocket is closed."""
        self._links.pop(stream_id, None)  # so that what follows is not a disconnect to it
        stream, buffer = self.streams.get(stream_id), self.stream_buffers.get(stream_id)
        if stream is not None and buffer is not None and not buffer.completed:
            if stream.state in ACCEPTED:
                buffer.set_complete()  # RFC 8441 § 5: END_STREAM for TCP's FIN
                await super()._window_updated(stream_id)
            await buffer.drain()  # first send what the application did write
            if not buffer.completed:
                await self.reset(stream_id, h2.errors.ErrorCodes.INTERNAL_ERROR)
        await self._close_stream(stream_id)
        await self.say_goodbye()
        await self._leave_if_done()

    async def _stalled(self, stream_id: int) -> None:
        """Give up a stream, because its client grants it no window."""
        link = self._links.get(stream_id)
        detail = str(self._carrier.stall_bound() if link is None else link.stall_bound())
        if link is not None:
            link.end(CloseReason.STALLED, detail)
        if (
            self.connection.outbound_flow_control_window <= 0
            and self._carrier.seconds_since_progress() >= self._carrier.stall_bound().seconds
        ):
            self._carrier.abort(CloseReason.STALLED, detail)
        else:
            # In another task, since the response may have just cancelled this one.
            self.task_group.spawn(self.reset, stream_id, h2.errors.ErrorCodes.CANCEL)

    async def _close_stream(self, stream_id: int, detail: str = CLOSED) -> None:
        if link := self._links.pop(stream_id, None):
            link.end(CloseReason.CLIENT_DISCONNECTED, detail)
        self._size_of_heads -= self._heads.pop(stream_id, 0)
        stream = self.streams.get(stream_id)
        inbox = inbox_of(stream)
        if self._uploads.close(stream_id) and inbox and isinstance(stream, HTTPStream):
            inbox.drop()  # the rest of the upload will never come
        self._take_along(stream_id)
        await super()._close_stream(stream_id)
        if buffer := self.stream_buffers.get(stream_id):
            await buffer.close()
            await self._window_updated(stream_id)  # so that the sending task removes it
        if not self.closed:  # the connection may be idle now
            await self.send(Updated(idle=self.idle))

    # -- how the connection ends -----------------------------------------------------------

    async def say_goodbye(self) -> None:
        """Send GOAWAY if it is time to. Called at a shutdown and whenever a stream has ended."""
        if not self._going_away and self._is_time_to_go():
            await self.say_goaway()

    def _is_time_to_go(self) -> bool:
        # Some clients take GOAWAY for the end of all open streams (those built on Python's h2, such
        # as httpx). So streams that are about to end by themselves end first.
        if any(stream_id not in self.streams for stream_id in self.stream_buffers):
            return False  # END_STREAM is on its way
        attached = [link.is_attached for link in self._links.values()]
        if self._carrier.closing:  # streams say goodbye; a first request may still come
            return bool(self._last_request) and not any(attached)
        most = self.config.keep_alive_max_requests
        if self.keep_alive_requests >= 2 * most:
            return True
        return self.keep_alive_requests >= most and all(attached)

    async def say_goaway(self) -> None:
        """Tell the client to open another connection for new requests; let open ones end."""
        if not self._going_away and not self.closed:
            self._going_away = True
            # Not h2's close_connection(): after it h2 sends nothing more.
            frame = GoAwayFrame(0, last_stream_id=self._last_request, error_code=0)
            await self.send(RawData(frame.serialize()))
            await self._leave_if_done()

    async def _leave_if_done(self) -> None:
        if self._going_away and not self.streams and not self.stream_buffers:
            await self.send(Closed())
