"""One WebSocket: Hypercorn's, with a bound, one answer to a handshake and an end to it.

What is different from ``hypercorn.protocol.ws_stream.WSStream``, and why:

* A message's bound holds before anything is stored, and what is compressed is decompressed in
  steps between which others run (`MessageBound`). Hypercorn stores, then looks, sends 1009, and
  goes on storing for as long as the client sends.
* After a close of ours for a fault of the client's nothing more is read, and the connection ends
  (RFC 6455 § 7.1.7). Hypercorn leaves the end to the client.
* What is kept of messages is bounded for all WebSockets of a connection (`MessageMemory`), and of
  one: while its application has not received a long message, no other one is stored. Hypercorn
  keeps ten that are complete.
* A client may send before it is accepted, though RFC 6455 § 4.1 has it wait. Hypercorn answers
  400 to that, also when the application is answering or has answered: h11 refuses the second
  answer, and the traceback of it is the application's. Here the first answer counts.
* The application is told that the handshake is over. Hypercorn leaves it waiting.
* A refusal ends the connection, with HTTP/2 the stream. Hypercorn keeps it for as long as the
  client likes.
* The application hears with which code the client closed. Hypercorn says 1006 to all.
* When the application has closed, the client has 10 s to answer (RFC 6455 § 7.1.1). With HTTP/1.1
  Hypercorn waits for ever; with HTTP/2 it ends the stream at once, and the application, which waits
  for the answer, is never told.
* Others run between small frames, too: 64 KiB have room for ten thousand of them.
"""

from __future__ import annotations

from dataclasses import replace
from time import time
from typing import Any

import trio
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import CloseConnection, Message, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.handshake import WEBSOCKET_VERSION

from flowstream.server._applications import Applications
from flowstream.server._hypercorn import (
    ASGIWebsocketState,
    Body,
    Data,
    EndBody,
    Request,
    Response,
    StreamClosed,
    StreamEvent,
    WSStream,
)
from flowstream.server._inbox import Inbox, inbox_of
from flowstream.server.log._access_entry import Logged
from flowstream.server.websocket import _ws_handshake
from flowstream.server.websocket._message_bound import MessageBound, Pieces
from flowstream.server.websocket._message_memory import MemoryShare, MessageMemory

# Decompressed bytes after which others run: a millisecond's work. A frame counts as `_FRAME`.
_PASS_BYTES = 1 << 18
_FRAME = 1 << 12
_READABLE = (ConnectionState.OPEN, ConnectionState.LOCAL_CLOSING)
# Seconds that a client has to answer the application's close.
CLOSE_TIMEOUT = 10.0


class WebSocket(WSStream):
    """One WebSocket."""

    task_group: Applications  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._bound = MessageBound(self.config.websocket_max_message_size)
        self._pieces = Pieces()
        self._share = MemoryShare(MessageMemory())
        self._is_reading = False
        self._is_failed = False  # we have closed it for a fault of the client's
        self._taken = 0  # bytes of messages since others ran, and frames
        self._gone: trio.Event | None = None  # once the application has closed it
        self._code = CloseReason.ABNORMAL_CLOSURE.value  # what the application is told

    def join(self, memory: MessageMemory) -> None:
        """Share the memory of a connection that has several."""
        self._share = MemoryShare(memory)

    async def handle(self, event: StreamEvent) -> None:
        """Take what the client says."""
        if isinstance(event, Request):
            headers = _ws_handshake.combined(event.headers)
            if not _ws_handshake.is_valid(headers, event.http_version):
                headers = _ws_handshake.without(headers)
            await super().handle(replace(event, headers=headers))
            if self.closed:  # refused: no application was asked
                await self._leave()
            elif inbox := inbox_of(self):
                inbox.on_less = self._settle
        elif isinstance(event, (Body, Data)):
            if self.closed or self._is_failed:
                return
            if self.handshake.accepted:
                await self._take(event.data)
            elif self.state is ASGIWebsocketState.HANDSHAKE:
                await super().handle(StreamClosed(stream_id=self.stream_id))
                await self._send_error_response(400)
                await self._leave()
        elif isinstance(event, StreamClosed) and self.app_put is None:
            self.closed = True  # its request was refused, or has never come
        elif isinstance(event, StreamClosed) and self.handshake.accepted:
            if not self.closed:
                self.closed = True
                if self._gone is not None:
                    self._gone.set()
                self._bound.close()
                self._share.close()
                inbox = inbox_of(self)
                assert inbox is not None  # its application was asked, since it has accepted
                inbox.disconnect({"type": "websocket.disconnect", "code": self._code})
                self._settle()
        else:
            await super().handle(event)

    async def app_send(self, message: Any) -> None:
        """Take what the application says; None is its end."""
        is_open = self.state is ASGIWebsocketState.CONNECTED and not self.closed
        if message is None or message["type"] != "websocket.close" or not is_open:
            await super().app_send(message)
            return
        code = int(message.get("code", CloseReason.NORMAL_CLOSURE))
        self.state = ASGIWebsocketState.CLOSED
        await self._send_wsproto_event(CloseConnection(code=code, reason=message.get("reason")))
        self._gone = trio.Event()
        self.task_group.spawn(self._leave_without_an_answer, self._gone)

    async def _leave_without_an_answer(self, gone: trio.Event) -> None:
        with trio.move_on_after(CLOSE_TIMEOUT):
            await gone.wait()
            return
        await self._leave()

    async def _accept(self, message: Any) -> None:
        self.state = ASGIWebsocketState.CONNECTED
        if not self._share.may_compress:
            self.handshake.extensions = None
        status, headers = _ws_handshake.answer(
            self.handshake, message.get("subprotocol"), message.get("headers", []), self._bound
        )
        if self._bound.compresses:
            self._share.compress()
        self.connection = Connection(ConnectionType.SERVER, [self._bound])
        await self.send(Response(stream_id=self.stream_id, status_code=status, headers=headers))
        await self.config.log.access(
            self.scope, {"status": status, "headers": []}, time() - self.start_time
        )
        if self.config.websocket_ping_interval is not None:
            self.task_group.spawn(self._send_pings)

    async def _take(self, data: bytes) -> None:
        self._is_reading = True  # so that the permit is not given back in the middle of a step
        try:
            start = 0
            # What follows a close is not read (RFC 6455 § 5.5.1).
            while start < len(data) and self.connection.state in _READABLE:
                coming = len(data) - start
                step = self._share.step(self._kept, coming, compressed=self._bound.compresses)
                if step:
                    self.connection.receive_data(data[start : start + step])
                    start += step
                    await self._handle_events()
                else:
                    await self._share.wait()
                if self.closed or self._is_failed:
                    return
        finally:
            self._is_reading = False
            self._settle()

    @property
    def _kept(self) -> int:
        """Bytes of messages that the application has not received."""
        inbox = inbox_of(self)
        return self._pieces.size + (0 if inbox is None else inbox.size)

    def _settle(self) -> None:
        """Give back what is needed no more; called whenever less is kept."""
        inbox = inbox_of(self)
        if inbox is not None and inbox.is_over:
            self._pieces = Pieces()  # nobody will receive it
            self._share.stop_waiting()
        if not self._is_reading:
            self._share.settle(self._kept)

    async def _handle_events(self) -> None:
        for event in self.connection.events():
            self._taken += _FRAME
            if self._taken >= _PASS_BYTES:
                self._taken = 0
                await trio.lowlevel.checkpoint()
                await self.task_group.turn()
                if self.closed:
                    return
            if isinstance(event, Message):
                await self._store(event)
                if self.closed:
                    return
            elif isinstance(event, Ping):
                await self._send_wsproto_event(event.response())
            elif isinstance(event, CloseConnection):
                await self._end(event)
                return

    async def _store(self, event: Message[Any]) -> None:
        """Keep a piece of a message; hand the message over when it was the last one."""
        inbox = inbox_of(self)
        assert inbox is not None
        if inbox.is_full:
            await self._until_room(inbox, event)
        if self.closed or inbox.is_over:
            return
        self._taken += len(event.data)
        whole = self._pieces.add(event)
        if whole is not None:
            await inbox.put(whole)

    async def _until_room(self, inbox: Inbox, event: Message[Any]) -> None:
        """Wait until the application has received so much that a piece may be stored.

        Others have the permit meanwhile, unless this one keeps too much.
        """
        size = len(event.data) * (4 if isinstance(event, TextMessage) else 1)
        had_permit = self._share.has_permit
        self._share.settle(self._kept + size)
        await inbox.until_room()
        if had_permit:  # more may come out of the step at hand than the share
            await self._share.wait()

    async def _end(self, event: CloseConnection) -> None:
        state = self.connection.state
        if state is ConnectionState.REMOTE_CLOSING:
            self._code = event.code
            await self._send_wsproto_event(event.response())
        elif state is ConnectionState.CLOSED:  # the answer to ours
            self._code = event.code
        elif state is ConnectionState.OPEN:  # what came is no WebSocket
            self._is_failed = True
            self._code = event.code
            await self._send_wsproto_event(CloseConnection(code=event.code))
        await self._leave()

    async def _send_error_response(self, status_code: int) -> None:
        # Hypercorn's, but for the version that a client may try (RFC 6455 § 4.4).
        self.state = ASGIWebsocketState.HTTPCLOSED  # before the wait, so that it is the only one
        headers = [(b"content-length", b"0"), (b"connection", b"close")]
        if status_code == 400:
            headers.append((b"sec-websocket-version", WEBSOCKET_VERSION))
        stream_id = self.stream_id
        await self.send(Response(stream_id=stream_id, status_code=status_code, headers=headers))
        await self.send(EndBody(stream_id=stream_id))
        await self.config.log.access(
            self.scope, {"status": status_code, "headers": []}, time() - self.start_time
        )

    async def _leave(self) -> None:
        await self.send(StreamClosed(stream_id=self.stream_id))


class LoggedWebSocket(Logged, WebSocket):  # type: ignore[misc]  # it fits either of Hypercorn's
    """One that the access log tells of."""
