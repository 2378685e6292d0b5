"""Serve HTTP on one client's connection: plain requests first, then Hypercorn's protocols.

What is different from ``hypercorn.trio.tcp_server.TCPServer`` (`Connection` lists more), and why:

* An exception ends this connection and no other. In Hypercorn it escapes into the nursery of all
  connections.
* A hang-up is noticed even while the reader is parked because of pipelined bytes, or of a body that
  the app does not read.
* At a shutdown, a connection whose first request is on its way answers it first.

::

    accepted ──► plain requests, one task each ──► a request that is not plain ──► a protocol
        └── TLS, or no watch for hang-ups ────────────────────────────────────────────┘

For a plain request (`PlainExchange`) one task reads it and runs the application. Once a protocol
has the connection, it keeps it.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

from flowstream._closing import CloseReason
from flowstream.asgi._carrier import STATE_KEY
from flowstream.server._applications import Applications
from flowstream.server._connection import Connection
from flowstream.server._connections import Connections
from flowstream.server._hypercorn import (
    Closed,
    ConnectionState,
    RawData,
    TCPServer,
    TransportEvent,
    Updated,
    parse_socket_addr,
)
from flowstream.server._listening import Transport
from flowstream.server._protocol_carrier import CLOSED, GOING_DOWN, LEFT, RESET
from flowstream.server._protocols import Protocols
from flowstream.server._settings import ServerConfig
from flowstream.server.http1._plain_http1 import PlainExchange
from flowstream.server.http1._plain_request import read_plain
from flowstream.tasks._failure import first_of, split

logger = logging.getLogger("flowstream.server")


class HTTPConnection(Connection, TCPServer):
    """HTTP on one client's connection.

    Args:
        connections: the connections of the worker, which this one joins.

    Attributes:
        applications: the applications at work on this connection.
    """

    config: ServerConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol: Protocols
    _task_group: Applications

    def __init__(
        self,
        connections: Connections,
        app: Any,
        config: Any,
        context: Any,
        state: Any,
        stream: Transport,
    ) -> None:
        # Not TCPServer.__init__, which would make two locks that nobody needs.
        Connection.__init__(self, connections, config, stream)
        self.app = app
        self.context = context
        self.state = ConnectionState({**state, STATE_KEY: self})
        self.applications = self._task_group = Applications(self.is_broken, self.turn)
        self._exchange: PlainExchange | None = None  # the current plain request
        self._answered = 0  # plain requests that have begun
        self._speaking = False  # a protocol has the connection: no more plain requests
        self._requested = False  # a request has begun
        self._asked = False  # the protocol has a request to answer
        self._holder = 0  # the number of the task that has the connection
        self._tasks = 0
        self._over = False

    # -- called for all connections --------------------------------------------------------

    def say_goodbye(self) -> None:
        """Make the streams on this connection say goodbye and end."""
        for stream in self._carried:
            stream.close(CloseReason.SHUTDOWN, GOING_DOWN)
        if self.reason is not None:
            return
        if self._speaking:
            self._task_group.spawn(self.protocol.say_goodbye)
            self._task_group.spawn(self._end_unasked)
        elif self._requested and self in self._connections.idle and not self._has_unread():
            # The server still answers a first request that is on its way, or has come.
            self.end_idle()

    def requests(self) -> list[str]:
        """Describe the requests at work, for the log."""
        return self.applications.requests()

    def end_idle(self) -> None:
        """Close the connection: no request came in time."""
        if self._speaking:
            self._task_group.spawn(self._close_idle)
        else:
            self._stop_reading()

    # -- for streams and plain requests ----------------------------------------------------

    def may_bring_more(self, scope: Mapping[str, Any]) -> bool:
        """Return whether a body follows this request. Its headers say so (RFC 9112 § 6.3)."""
        return self._exchange is None and any(
            name.lower() in (b"content-length", b"transfer-encoding")
            for name, _ in scope["headers"]
        )

    async def answered(self, keeps: bool) -> None:
        """Take note that a plain request is answered, and whether another may follow.

        The application may have more to do, so another task waits for the next request.
        """
        if keeps and not self.closing and self.reason is None:
            self._holder += 1
            self._exchange = None
            self._connections.start(self._go_on)
        else:
            await self._close()

    # -- its tasks -------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the connection until it ends. Raises nothing but Cancelled."""
        self._connections.add(self)
        await self._hold(self._run)

    async def _go_on(self) -> None:
        await self._hold(self._converse)

    async def _hold(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work`; then close the connection, unless another task has it by then."""
        holder = self._holder
        self._tasks += 1
        try:
            try:
                await work()
            finally:
                self._tasks -= 1
                if holder == self._holder:
                    self._over = True
                    self._connections.idle.discard(self)
                    self._end(CloseReason.CLIENT_DISCONNECTED, CLOSED)
                    await self._close()  # noqa: ASYNC102  # shields itself, and has a deadline
                if self._over and not self._tasks:
                    self._connections.discard(self)
        except BaseException as error:  # noqa: ASYNC103  # but for failures, which are logged
            cancelled, failure = split(error)
            if failure is None:
                raise
            if not isinstance(first_of(failure), OSError):
                _log(failure)
            if cancelled is not None:
                raise cancelled from None  # noqa: ASYNC104  # the Cancelled in it

    async def _run(self) -> None:
        if self._tls:
            try:
                with trio.fail_after(self.config.ssl_handshake_timeout):
                    self._wire.turn = self.turn
                    await self.stream.do_handshake()
                    self._wire.turn = None
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                return
            alpn = self.stream.selected_alpn_protocol()
        else:
            alpn = "http/1.1"
        sock = self._socket
        self.client = parse_socket_addr(sock.family, sock.getpeername())
        self.server = parse_socket_addr(sock.family, sock.getsockname())
        watched = self._connections.hangups.add(sock.fileno(), self._hung_up)
        if watched and not self._tls and _may_be_plain(self.config):
            await self._converse()
        else:
            self._connections.others += 1
            self._connections.idle.add(self)
            await self._speak(alpn)

    async def _converse(self) -> None:
        """Wait for a request and answer it: here if it is plain, else by a protocol.

        The time for a head in pieces began when this connection became idle, and goes on.
        """
        connections = self._connections
        try:
            connections.idle.add(self)
            data = self._read_at_once() or await self._receive()
            if not data:
                return
            await self.turn()
            request = None
            if len(data) <= self.config.h11_max_incomplete_size:
                request = read_plain(data, self.config.max_request_fields)
            if request is None:
                connections.others += 1
                await self._speak("http/1.1", data)
                return
            connections.idle.discard(self)
            self._requested = True
            self._answered += 1
            connections.plain += 1
            last = self.closing or self._answered >= self.config.keep_alive_max_requests
            self._exchange = exchange = PlainExchange(
                self, connections.fields, connections.exchange_class, last=last
            )
            await exchange.run(request)
        except Exception as error:  # noqa: BLE001  # logged
            _log(error)
            self.abort(CloseReason.CLIENT_DISCONNECTED, CLOSED)  # its state is unknown
        except trio.Cancelled:
            self._end(CloseReason.CANCELLED, "")
            raise

    async def _speak(self, alpn: str, data: bytes = b"") -> None:
        """Let a protocol of Hypercorn handle `data` and everything after it."""
        async with self.applications as applications:
            self.protocol = Protocols(  # pyright: ignore[reportIncompatibleVariableOverride]
                self,
                self.app,
                self.config,
                self.context,
                applications,
                ConnectionState(self.state),
                self._tls,
                self.client,
                self.server,
                self.protocol_send,
                alpn,
            )
            self.protocol.count_requests(self._answered)
            self._speaking = True
            try:
                await self.protocol.initiate()
                if self.closing:
                    await self.protocol.say_goodbye()
                await self._read_data(data)
            except Exception as error:  # noqa: BLE001  # logged
                _log(error)
                # Its state is unknown.
                self.abort(CloseReason.CLIENT_DISCONNECTED, CLOSED)
            except trio.Cancelled:
                self._end(CloseReason.CANCELLED, "")
                raise
            finally:
                # Before the nursery closes. Nothing may be spawned in it from here on.
                self._end(CloseReason.CLIENT_DISCONNECTED, CLOSED)
                self._connections.idle.discard(self)
            await self.protocol.handle(Closed())
            applications.end_background()

    # -- what the client sends -------------------------------------------------------------

    async def _read_data(self, data: bytes | None = b"") -> None:
        if not data:
            data = await self._receive_in_turn()
        while data is not None:
            # No scope is open while it reads, which is most of the time: a scope takes 0.8 KB.
            with trio.CancelScope() as self._handling:
                await self.protocol.handle(RawData(data))  # b"" is an early end
            self._handling = None
            if not data:
                break
            data = await self._receive_in_turn()

    async def _receive_in_turn(self) -> bytes | None:
        data = await self._receive()
        await self.turn()
        return None if self._read_enough else data

    def _hung_up(self) -> None:
        """Take note that the client has closed its half of the connection, or all of it."""
        if self._reading:
            # The reader will notice by itself, after the bytes that came before.
            self._hung_up_unread = True
            return
        if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._outgoing.is_broken = True
            self._end(CloseReason.CLIENT_DISCONNECTED, RESET)
        else:
            self._end(CloseReason.CLIENT_DISCONNECTED, LEFT)
        if self._speaking and not self.protocol.may_half_close:
            self._stop_reading()
            return
        # What the client has sent may still be read and answered.
        self.applications.half_close()
        if self._exchange is not None:
            self._exchange.leave()

    def _leave(self) -> None:
        """Stop reading, and tell the plain request that its client has left."""
        self._stop_reading()
        if self._exchange is not None:
            self._exchange.leave()

    # -- what is sent ----------------------------------------------------------------------

    async def protocol_send(self, event: TransportEvent) -> None:
        """Carry out an event of the protocol."""
        if isinstance(event, RawData):
            if await self._outgoing.write(event.data):
                await self.pause()  # so that a loop which only sends lets others run
            else:
                await self._tell_protocol()
            return
        if not isinstance(event, Updated):
            await super().protocol_send(event)
            return
        self._asked = not event.idle
        self._requested = self._requested or self._asked
        if self._asked:
            self._connections.idle.discard(self)
        elif self.reason is None:  # an ended connection waits for no further request
            self._connections.idle.add(self)
            if self.closing:
                self._task_group.spawn(self._end_unasked)

    def write_rest(self) -> None:
        """Start a task that writes the rest of a direct write."""
        self._connections.start(self._write_rest)

    async def _write_rest(self) -> None:
        try:
            if not await self._outgoing.write(b""):
                await self._tell_protocol()
        except Exception as error:  # noqa: BLE001  # logged
            _log(error)
            self.abort(CloseReason.CLIENT_DISCONNECTED, CLOSED)

    async def _tell_protocol(self) -> None:
        """Tell the protocol, or the plain request, that the client has left."""
        if self._speaking:
            await self.protocol.handle(Closed())
        elif self._exchange is not None:
            self._exchange.leave()

    def _is_shared(self) -> bool:
        # With HTTP/1.1 there is only one response at a time.
        return self._speaking and not self.protocol.may_half_close

    # -- when no request comes -------------------------------------------------------------

    async def _close_idle(self) -> None:
        """Close the connection, unless a request has come in this pass of the event loop."""
        if not self._asked and self.reason is None:
            with trio.CancelScope(shield=True):
                await self._initiate_server_close()

    async def _end_unasked(self) -> None:
        """Close the connection at a shutdown, unless a request has come or is on its way."""
        # The reader may have read a request in this pass.
        await trio.lowlevel.checkpoint()
        if self._requested and not self._has_unread():
            await self._close_idle()

    async def _initiate_server_close(self) -> None:
        await self.protocol.handle(Closed())
        await self._close()


def _may_be_plain(config: Any) -> bool:
    """Return whether no setting needs a protocol for every request."""
    needs_protocol = config.server_names or config.h11_pass_raw_headers
    return not needs_protocol and config.read_timeout is None  # which needs a reader


def _log(error: BaseException) -> None:
    # Hypercorn or a library below it failed on what the peer sent. That is worth a line for those
    # who look for it, and no alarm.
    first = first_of(error)
    logger.info("a connection was closed: %s: %s", type(first).__name__, first)
    logger.debug("what closed it", exc_info=error)
