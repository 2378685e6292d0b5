"""HTTP on one client's connection: plain requests first, then Hypercorn's protocols.

What is different from ``hypercorn.trio.tcp_server.TCPServer`` (and see `Connection`), and why:

* An exception ends this connection and no other. Hypercorn's escapes into the nursery of
  all connections.
* A hang-up is noticed while the reader is parked, behind pipelined bytes or a body that the
  app does not read.
* At a shutdown a connection whose first request is on its way is not closed under it.

::

    accepted ──► plain requests, one task each ──► a request that is not plain ──► a protocol
        └── TLS, or no watch for hang-ups ────────────────────────────────────────────┘

For plain requests (`PlainExchange`) one task does both the reading and the application. A protocol
has the connection for good.
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
        connections: those of the worker, which this one joins.

    Attributes:
        applications: those at work on it.
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
        # Not TCPServer's, which would make two locks that nobody needs.
        Connection.__init__(self, connections, config, stream)
        self.app = app
        self.context = context
        self.state = ConnectionState({**state, STATE_KEY: self})
        self.applications = self._task_group = Applications(self.is_broken, self.turn)
        self._exchange: PlainExchange | None = None  # the plain request that is answered
        self._answered = 0  # plain requests that have begun
        self._speaking = False  # there is a protocol: no more plain requests
        self._requested = False  # a request has begun
        self._asked = False  # the protocol has something to answer
        self._holder = 0  # the number of the task that has the connection
        self._tasks = 0
        self._over = False

    # -- for all connections together ------------------------------------------------------

    def say_goodbye(self) -> None:
        """Have the streams on this connection send their farewell and end."""
        for stream in self._carried:
            stream.close(CloseReason.SHUTDOWN, GOING_DOWN)
        if self.reason is not None:
            return
        if self._speaking:
            self._task_group.spawn(self.protocol.say_goodbye)
            self._task_group.spawn(self._end_unasked)
        elif self._requested and self in self._connections.idle and not self._has_unread():
            # A client that is about to ask, or has asked, is still answered.
            self.end_idle()

    def requests(self) -> list[str]:
        """Return the requests that are being answered, in words for the log."""
        return self.applications.requests()

    def end_idle(self) -> None:
        """Close the connection: nothing was asked for in time."""
        if self._speaking:
            self._task_group.spawn(self._close_idle)
        else:
            self._stop_reading()

    # -- for streams and plain requests ----------------------------------------------------

    def may_bring_more(self, scope: Mapping[str, Any]) -> bool:
        """Return whether a body follows this request (RFC 9112 § 6.3: its headers say so)."""
        return self._exchange is None and any(
            name.lower() in (b"content-length", b"transfer-encoding")
            for name, _ in scope["headers"]
        )

    async def answered(self, keeps: bool) -> None:
        """Hear that a plain request is answered, and whether another may come after it.

        The application may have more to do, so the next one is another task's.
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
        """Do `work`; then close the connection, unless it is another task's by then."""
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
                    await self._close()  # noqa: ASYNC102  # it shields itself, under the deadline
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
        """Wait for a request and answer it: a plain one here, another one by a protocol.

        The time for the head of another one goes on: it began when this connection fell idle.
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
            self.abort(CloseReason.CLIENT_DISCONNECTED, CLOSED)  # its state is anybody's guess
        except trio.Cancelled:
            self._end(CloseReason.CANCELLED, "")
            raise

    async def _speak(self, alpn: str, data: bytes = b"") -> None:
        """Have a protocol of Hypercorn's for all that follows `data`, which has come."""
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
                # Its state is anybody's guess.
                self.abort(CloseReason.CLIENT_DISCONNECTED, CLOSED)
            except trio.Cancelled:
                self._end(CloseReason.CANCELLED, "")
                raise
            finally:
                # Before the nursery closes: nothing is spawned in it from here on.
                self._end(CloseReason.CLIENT_DISCONNECTED, CLOSED)
                self._connections.idle.discard(self)
            await self.protocol.handle(Closed())
            applications.end_background()

    # -- what the client sends -------------------------------------------------------------

    async def _read_data(self, data: bytes | None = b"") -> None:
        if not data:
            data = await self._receive_in_turn()
        while data is not None:
            # Not open while it reads, which is as long as it lasts: a scope takes 0.8 KB.
            with trio.CancelScope() as self._handling:
                await self.protocol.handle(RawData(data))  # b"": what it thinks of an early end
            self._handling = None
            if not data:
                break
            data = await self._receive_in_turn()

    async def _receive_in_turn(self) -> bytes | None:
        data = await self._receive()
        await self.turn()
        return None if self._read_enough else data

    def _hung_up(self) -> None:
        """Take note that the client has closed its end, or more than that."""
        if self._reading:
            # The reader hears of it by itself, after the bytes that came before.
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
        # What it has sent may be read yet, and answered.
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
        """Carry out what the protocol wants of the transport."""
        if isinstance(event, RawData):
            if await self._outgoing.write(event.data):
                await trio.lowlevel.checkpoint()  # a loop that only sends lets others run
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
        elif self.reason is None:  # else the wait for another request would outlast the connection
            self._connections.idle.add(self)
            if self.closing:
                self._task_group.spawn(self._end_unasked)

    def write_rest(self) -> None:
        """Have a task write what is left over of a direct write."""
        self._connections.start(self._write_rest)

    async def _write_rest(self) -> None:
        try:
            if not await self._outgoing.write(b""):
                await self._tell_protocol()
        except Exception as error:  # noqa: BLE001  # logged
            _log(error)
            self.abort(CloseReason.CLIENT_DISCONNECTED, CLOSED)

    async def _tell_protocol(self) -> None:
        """Tell whatever speaks to the client that it has left."""
        if self._speaking:
            await self.protocol.handle(Closed())
        elif self._exchange is not None:
            self._exchange.leave()

    def _is_shared(self) -> bool:
        # With HTTP/1.1 a response has the connection for itself.
        return self._speaking and not self.protocol.may_half_close

    # -- when nothing is asked for ---------------------------------------------------------

    async def _close_idle(self) -> None:
        """Close the connection, unless a request has come in this very tick."""
        if not self._asked and self.reason is None:
            with trio.CancelScope(shield=True):
                await self._initiate_server_close()

    async def _end_unasked(self) -> None:
        """Close the connection at a shutdown, unless a client is about to ask, or has asked."""
        # The reader may hold a request that it has read in this very tick.
        await trio.lowlevel.checkpoint()
        if self._requested and not self._has_unread():
            await self._close_idle()

    async def _initiate_server_close(self) -> None:
        await self.protocol.handle(Closed())
        await self._close()


def _may_be_plain(config: Any) -> bool:
    """Return whether a plain request can be answered without what a protocol does beside."""
    needs_protocol = config.server_names or config.h11_pass_raw_headers
    return not needs_protocol and config.read_timeout is None  # else somebody has to read


def _log(error: BaseException) -> None:
    # What a peer sent has tripped Hypercorn or a library below it: a matter for who looks
    # for it, not for who watches the log at night.
    first = first_of(error)
    logger.info("a connection was closed: %s: %s", type(first).__name__, first)
    logger.debug("what closed it", exc_info=error)
