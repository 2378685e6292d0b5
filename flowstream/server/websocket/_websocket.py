"""One WebSocket: Hypercorn's, with bounds, one answer to a handshake, and a definite end.

What is different from ``hypercorn.protocol.ws_stream.WSStream``, and why:

* A message's bound is checked before anything is stored, and decompression goes in steps, between
  which other tasks run (`MessageBound`). Hypercorn stores, then checks, sends 1009, and goes on
  storing for as long as the client sends.
* After a close because of the client's fault, nothing more is read, and the connection ends
  (RFC 6455 § 7.1.7). Hypercorn waits for the client to end it.
* The memory for messages is bounded for all WebSockets of a connection (`MessageMemory`), and for
  each one: while its application has not received a long message, no other one is stored. Hypercorn
  keeps ten complete ones.
* A client that sends before it is accepted gets one answer, though RFC 6455 § 4.1 asks it to wait.
  The first answer counts. Hypercorn answers 400 even if the application is answering or has
  answered: h11 refuses the second answer, and the traceback of that is the application's.
* The application is told when the handshake fails. Hypercorn leaves it waiting.
* A refusal ends the connection, or with HTTP/2 the stream. Hypercorn keeps it for as long as the
  client likes.
* The application gets the code with which the client closed. Hypercorn always says 1006.
* When the application has closed, the client has 10 s to answer (RFC 6455 § 7.1.1). With HTTP/1.1
  Hypercorn waits for ever. With HTTP/2 it ends the stream at once, and never tells the application,
  which waits for the answer.
* Other tasks run between small frames, too: 64 KiB have room for ten thousand of them.
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

# Decompressed bytes after which other tasks run: a millisecond's work. Each frame adds `_FRAME`.
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
        self._is_failed = False  # we have closed it because of the client's fault
        self._taken = 0  # the cost of what was read since other tasks ran
        self._gone: trio.Event | None = None  # made when the application has closed it
        self._code = CloseReason.ABNORMAL_CLOSURE.value  # for the application

    def join(self, memory: MessageMemory) -> None:
        """Share `memory` with the connection's other WebSockets."""
        self._share = MemoryShare(memory)

    async def handle(self, event: StreamEvent) -> None:
        """Take an event of the client."""
        if isinstance(event, Request):
            headers = _ws_handshake.combined(event.headers)
            if not _ws_handshake.is_valid(headers, event.http_version):
                headers = _ws_handshake.without(headers)
            await super().handle(replace(event, headers=headers))
            if self.closed:  # it was refused, and no application called
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
            self.closed = True  # the request was refused, or never came
        elif isinstance(event, StreamClosed) and self.handshake.accepted:
            if not self.closed:
                self.closed = True
                if self._gone is not None:
                    self._gone.set()
                self._bound.close()
                self._share.close()
                inbox = inbox_of(self)
                assert inbox is not None  # an application has accepted
                inbox.disconnect({"type": "websocket.disconnect", "code": self._code})
                self._settle()
        else:
            await super().handle(event)

    async def app_send(self, message: Any) -> None:
        """Take a message of the application; None means that it has ended."""
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
        self._is_reading = True  # so that no step gives the permit back in its middle
        try:
            start = 0
            # Nothing after a close is read (RFC 6455 § 5.5.1).
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
        """Give back memory that is no longer needed. Called whenever less is kept."""
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
        """Keep a piece of a message; hand the message over if the piece was its last."""
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
        """Wait until the application has received enough to store the next piece.

        Meanwhile others may have the permit, unless this one keeps too much.
        """
        size = len(event.data) * (4 if isinstance(event, TextMessage) else 1)
        had_permit = self._share.has_permit
        self._share.settle(self._kept + size)
        await inbox.until_room()
        if had_permit:  # the current step may expand to more than the share
            await self._share.wait()

    async def _end(self, event: CloseConnection) -> None:
        state = self.connection.state
        if state is ConnectionState.REMOTE_CLOSING:
            self._code = event.code
            await self._send_wsproto_event(event.response())
        elif state is ConnectionState.CLOSED:  # the answer to ours
            self._code = event.code
        elif state is ConnectionState.OPEN:  # what came breaks the protocol
            self._is_failed = True
            self._code = event.code
            await self._send_wsproto_event(CloseConnection(code=event.code))
        await self._leave()

    async def _send_error_response(self, status_code: int) -> None:
        # Hypercorn's, with the version that a client may try (RFC 6455 § 4.4).
        self.state = ASGIWebsocketState.HTTPCLOSED  # before the wait, so that this answer counts
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


class LoggedWebSocket(Logged, WebSocket):  # type: ignore[misc]  # it fits both of Hypercorn's
    """A WebSocket with a line in the access log."""
