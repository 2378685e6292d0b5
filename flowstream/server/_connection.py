"""One client's connection: Hypercorn's, with the promises that it does not keep.

What is different from ``hypercorn.trio.tcp_server.TCPServer``, and why:

* A write has a deadline, which any progress restarts (`Wire`). Hypercorn's is shielded and
  waits for ever, so a client that stops reading holds a task, a buffer and the shutdown.
* At the deadline the socket is reset. A close would leave the kernel to deliver what the
  client does not take.
* An exception ends this connection and no other. Hypercorn's escapes into the nursery of
  all connections.
* A hang-up is noticed while the reader is parked, behind pipelined bytes or a body that the
  app does not read.
* The connection tells the streams it carries of its end and of a shutdown, by a call
  instead of a task that polls; and it can be written to directly.
* At a shutdown a connection whose first request is on its way is not closed under it.

A connection begins with plain requests (`PlainExchange`), one task for both the reading and the
application. It goes over to Hypercorn's protocols with the first request that is not plain. TLS,
and a system on which a hang-up is noticed by reading alone, begin there.
"""

from __future__ import annotations

import contextlib
import logging
import math
import select
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import trio

from flowstream._closing import CloseReason
from flowstream.asgi._carrier import STATE_KEY, Carried
from flowstream.asgi._direct_write import DirectWrite, NotDirect
from flowstream.asgi._live import Live
from flowstream.server._applications import Applications
from flowstream.server._connections import CLOSED, GOING_DOWN, LEFT, RESET, Connections
from flowstream.server._context import IdleTask
from flowstream.server._forwarded import Origin
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
from flowstream.server._pass_budget import Share, Turnstile
from flowstream.server._protocols import Protocols
from flowstream.server._settings import ServerConfig
from flowstream.server._stall_bound import StallBound, stall_bound
from flowstream.server.http1._plain_http1 import PlainExchange
from flowstream.server.http1._plain_request import read_plain
from flowstream.tasks._failure import first_of, split

logger = logging.getLogger("flowstream.server")

# What is encrypted at a time, and so what a client that takes nothing can make of memory. A
# whole HTTP/2 frame or chunk is one piece with its framing: to encrypt those few bytes by
# themselves costs as much again.
_PIECE = 16 * 1024 + 64

_READ_SIZE = 1 << 16

_NOT_THROUGH_TLS = DirectWrite.impossible(NotDirect.ENCRYPTED)
_NOT_WITHOUT_CHUNKS = DirectWrite.impossible(NotDirect.HTTP_VERSION)


class Connection(Live, TCPServer):
    """One client's connection.

    Args:
        connections: those of the worker, which this one joins.

    Attributes:
        applications: those at work on it.
        client, server: the addresses of both ends.
        reason: why it ended, or None.
        detail: the cause of that, for reports.
    """

    config: ServerConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol: Protocols
    stream: Any
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
        # Not super().__init__: it would make two locks, which nobody needs.
        self.app = app
        self.config = config
        self.context = context
        self.state = ConnectionState({**state, STATE_KEY: self})
        self.stream = stream
        self._connections = connections
        self.idle_task = IdleTask()  # type: ignore[assignment]  # without a lock
        self._carried: tuple[Carried, ...] = ()  # one, as a rule; a set takes 216 bytes
        self._reading = False
        self._handling: trio.CancelScope | None = None  # what was read
        self._read_enough = False
        self._speaking = False  # there is a protocol: no more plain requests
        self._exchange: PlainExchange | None = None  # the plain request that is answered
        self._answered = 0  # plain requests that have begun
        self._turn = 0  # of the tasks that hold the connection, one after the other
        self._tasks = 0
        self._share = Share()
        self._over = False
        self._idle_until = math.inf
        self._requested = False  # a request has begun
        self._broken = False  # a write has failed: nothing can be sent any more
        self._hung_up_unread = False  # told of it while reading on
        self._tls = isinstance(stream, trio.SSLStream)
        self._wire = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
        self._wire.timeout = connections.write_timeout
        self._wire.owner = self
        self._socket = self._wire.socket
        self._writing = False  # somebody has the turn to write
        self._turns: trio.lowlevel.ParkingLot | None = None  # who waits for it
        self._carry = b""  # what was left over of a direct write
        self._direct_write: DirectWrite | None = None  # that of the last response
        self.applications = self._task_group = Applications(self.is_broken, self.turn)
        self.client: Any = None
        self.server: Any = None
        self.reason: CloseReason | None = None
        self.detail = ""

    # -- for streams -----------------------------------------------------------------------

    def attach(self, stream: Carried) -> None:
        """Tell `stream` when the connection ends or the server shuts down.

        If either has happened already it is told before this returns.
        """
        self._carried += (stream,)
        if stream.stall_timeout is not None:
            self._stretch_wire()
        if self.reason is not None:
            stream.abort(self.reason, self.detail)
        elif self._connections.closing:
            stream.close(CloseReason.SHUTDOWN, GOING_DOWN)

    def detach(self, stream: Carried) -> None:
        """Tell `stream` nothing more."""
        self._carried = tuple(other for other in self._carried if other is not stream)
        if self._wire.is_stretched:
            self._stretch_wire()

    def abort(self, reason: CloseReason, detail: str = "") -> None:
        """Reset the connection: what is unsent is dropped, every task of it is woken."""
        if self._wire.closed:
            return
        self._end_direct_write()
        self._connections.hangups.remove(self._socket.fileno())
        self._wire.reset()
        self._end(reason, detail)

    def may_bring_more(self, scope: Mapping[str, Any]) -> bool:
        """Return whether a body follows this request (RFC 9112 § 6.3: its headers say so)."""
        return self._exchange is None and any(
            name.lower() in (b"content-length", b"transfer-encoding")
            for name, _ in scope["headers"]
        )

    def open_direct_write(self, scope: Mapping[str, Any]) -> DirectWrite:
        """Return the direct writes to the response that begins, and end those to the last one."""
        if self._tls:
            return _NOT_THROUGH_TLS
        if scope["http_version"] != "1.1":
            return _NOT_WITHOUT_CHUNKS
        self._end_direct_write()
        # It begins blocked: the head, which is written first, frees it.
        self._direct_write = direct_write = DirectWrite(self._socket.fileno(), self._keep)
        if self.reason is not None or scope["method"] == "HEAD":
            direct_write.end()
        return direct_write

    def say_goodbye(self) -> None:
        """Have the streams on this connection send their farewell and end."""
        for stream in self._carried:
            stream.close(CloseReason.SHUTDOWN, GOING_DOWN)
        if self.reason is not None:
            return
        if self._speaking:
            self._task_group.spawn(self.protocol.say_goodbye)
        elif self._requested and self in self._connections.idle and not self._has_unread():
            # A client that is about to ask, or has asked, is still answered.
            self.end_idle()

    def requests(self) -> list[str]:
        """Return the requests that are being answered, in words for the log."""
        return self.applications.requests()

    def end_idle(self) -> None:
        """Close the connection, on which nothing is asked for."""
        self._stop_reading()

    # -- for protocols and applications ----------------------------------------------------

    @property
    def nursery(self) -> trio.Nursery:
        """The nursery that outlives the connection: the worker's."""
        return self._connections.nursery

    @property
    def closing(self) -> bool:
        """Whether the server is shutting down."""
        return self._connections.closing

    def origin(self, headers: Sequence[tuple[bytes, bytes]]) -> Origin:
        """Return where a request with these headers, whose names are in lower case, comes from."""
        socket_path = "" if self.client else str(self._socket.getsockname())
        return self._connections.proxies.origin(headers, self.client, socket_path, tls=self._tls)

    @property
    def turnstile(self) -> Turnstile:
        """What a protocol goes through before it begins with more than a few requests."""
        return self._connections.turnstile

    def is_broken(self) -> bool:
        """Return whether nothing can be sent any more: not so if the client half-closed."""
        return self._broken or self._wire.closed

    @property
    def write_timeout(self) -> float:
        """Seconds that a write may make no progress where no stream says otherwise."""
        return self._wire.timeout

    def stall_bound(self) -> StallBound:
        """Return how long a write may make no progress now."""
        # With HTTP/1.1 a response has the connection for itself.
        shared = self._speaking and not self.protocol.may_half_close
        return stall_bound(self._carried, self._wire.timeout, shared=shared)

    def stalled(self) -> None:
        """Reset the connection: its client took nothing for so long."""
        self.abort(CloseReason.STALLED, str(self.stall_bound()))

    def _stretch_wire(self) -> None:
        bound = self.stall_bound().seconds
        self._wire.stretch(bound if bound > self._wire.timeout else 0)

    def note_progress(self) -> None:
        """Note that the client has taken something."""
        self._wire.progress_at = trio.current_time()

    async def turn(self) -> None:
        """**Wait** for the turn to do something that the client has asked for."""
        await self._connections.budget.turn(self._share)

    async def write(self, data: bytes) -> bool:
        """Write what belongs to the response; return whether the client is there.

        There is a checkpoint only if the kernel doesn't take it at once.
        """
        return await self._write_in_turn(data)

    async def answered(self, keeps: bool) -> None:
        """Hear that a plain request is answered, and whether another may come after it.

        The application may have more to do, so the next one is another task's.
        """
        if keeps and not self.closing and self.reason is None:
            self._turn += 1
            self._exchange = None
            self._connections.start(self._go_on)
        else:
            await self._close()

    def seconds_since_progress(self) -> float:
        """Return how long ago the client last took something, as far as was noted."""
        return trio.current_time() - self._wire.progress_at

    # -- Hypercorn's interface -------------------------------------------------------------

    async def run(self) -> None:
        """Serve the connection until it ends. Raises nothing but Cancelled."""
        self._connections.add(self)
        await self._hold(self._run)

    async def _go_on(self) -> None:
        await self._hold(self._converse)

    async def _hold(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work`; then close the connection, unless it is another task's by then."""
        turn = self._turn
        self._tasks += 1
        try:
            try:
                await work()
            finally:
                self._tasks -= 1
                if turn == self._turn:
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

    async def protocol_send(self, event: TransportEvent) -> None:
        """Carry out what the protocol wants of the transport."""
        if isinstance(event, RawData):
            if await self._write_in_turn(event.data):
                await trio.lowlevel.checkpoint()  # a loop that only sends lets others run
            else:
                await self._tell_protocol()
            return
        if isinstance(event, Updated):
            self._requested = self._requested or not event.idle
            if self.reason is not None:
                return  # the wait for another request would outlast the connection
        await super().protocol_send(event)

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
            await self._speak(alpn)

    async def _converse(self) -> None:
        """Wait for a request and answer it: a plain one here, another one by a protocol."""
        connections = self._connections
        try:
            self._idle_until = connections.idle.add(self)
            data = self._read_at_once() or await self._receive()
            connections.idle.discard(self)
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
            self._requested = True
            self._answered += 1
            connections.plain += 1
            last = self.closing or self._answered >= self.config.keep_alive_max_requests
            self._exchange = exchange = PlainExchange(self, connections, last=last)
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
                await self.idle_task.restart(applications, self._idle_timeout)
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
            await self.idle_task.stop()
            await self.protocol.handle(Closed())
            applications.end_background()

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

    def _read_at_once(self) -> bytes | None:
        """Return what the client has sent already, which is what a new one has, as a rule."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            return self._wire.read_nowait(_READ_SIZE)
        return None

    async def _receive(self) -> bytes | None:
        """Return what the client has sent, b"" at its end; None if no more is to be read."""
        timeout = self.config.read_timeout
        if self._read_enough:
            return None
        try:
            self._reading = True
            if timeout is None:  # as a rule; a scope would take 1.2 KB of each connection
                data = bytes(await self.stream.receive_some(_READ_SIZE))
            else:
                with trio.fail_after(timeout or math.inf):
                    data = bytes(await self.stream.receive_some(_READ_SIZE))
        except trio.ClosedResourceError:
            return None
        except trio.TooSlowError:
            self._end(CloseReason.CLIENT_DISCONNECTED, f"read_timeout {timeout:g} s")
            return None
        except trio.BrokenResourceError:
            self._broken = True
            self._end(CloseReason.CLIENT_DISCONNECTED, RESET)
            return None
        finally:
            self._reading = False
        if not data:
            self._end(CloseReason.CLIENT_DISCONNECTED, LEFT)
        elif self._hung_up_unread:
            # The protocol may park us now, with the FIN still behind what it wants.
            self._hung_up_unread = False
            self._connections.hangups.again(self._socket.fileno())
        if self._read_enough:  # it was told so when it had read and not run yet
            return None  # type: ignore[unreachable]  # not to mypy, which knows no other tasks
        return data

    def _stop_reading(self) -> None:
        """End the reader, wherever it is parked."""
        self._read_enough = True
        if self._handling is not None:
            self._handling.cancel()
        elif self._reading:
            with contextlib.suppress(OSError):  # if it is closed already, the reader is awake
                self._socket.shutdown(socket.SHUT_RD)

    async def _idle_timeout(self) -> None:
        until = trio.current_time() + self.config.keep_alive_timeout
        # It may have waited for the beginning of a head that then was not plain.
        until, self._idle_until = min(until, self._idle_until), math.inf
        with trio.move_on_at(until):
            await self.context.terminated.wait()
            # The reader may hold a request that it has read in this very tick.
            await trio.lowlevel.checkpoint()
            if not self._requested or self._has_unread():
                # A client that is about to ask, or has asked, is still answered.
                await trio.sleep_forever()
        # A request that came as we woke up has cancelled this: the shield would hide it.
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(shield=True):
            await self._initiate_server_close()

    async def _initiate_server_close(self) -> None:
        await self.protocol.handle(Closed())
        await self._close()

    async def _close(self) -> None:
        """Close the socket, after what the kernel has taken; with TLS, say so to the client."""
        self._end_direct_write()
        self._connections.hangups.remove(self._socket.fileno())
        with (
            trio.CancelScope(shield=True),  # what is still to be written is under the deadline
            contextlib.suppress(
                trio.BrokenResourceError, trio.BusyResourceError, trio.ClosedResourceError
            ),
        ):
            if not self._tls:
                await self._wire.send_eof()
            await self.stream.aclose()
        self._socket.close()
        # It may be parked behind a response that was not ended, before a pipelined request.
        self._stop_reading()

    # -- what is done here -----------------------------------------------------------------

    async def _write(self, data: bytes) -> bool:
        """Write `data`, and what was left over before it; return whether the peer is there."""
        if self._carry:
            data, self._carry = self._carry + data, b""
        if self._wire.closed:
            return False
        try:
            if self._tls:
                await self._encrypt(data)
            else:
                await self._wire.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._broken = True
            self._end(CloseReason.CLIENT_DISCONNECTED, "a write failed")
            self._stop_reading()  # who may be parked behind the response that this was
            return False
        return True

    async def _encrypt(self, data: bytes) -> None:
        with trio.CancelScope(shield=True), memoryview(data) as view:
            for start in range(0, len(data), _PIECE):
                await self.stream.send_all(view[start : start + _PIECE])

    def _keep(self, rest: bytes) -> None:
        """Write what is left over of a direct write before anything else, under our deadline."""
        self._carry = rest
        assert self._direct_write is not None
        self._direct_write.block()  # until that is written
        self._connections.start(self._write_carry)

    async def _write_carry(self) -> None:
        try:
            if not await self._write_in_turn(b""):
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

    async def _write_in_turn(self, data: bytes) -> bool:
        """Write `data` when nobody else does, whoever is cancelled meanwhile.

        The protocol counts it as sent: what is not written would be missing in the middle.
        """
        if self._direct_write is not None:
            self._direct_write.block()  # who waits for the turn has come before a publisher
        if self._writing:
            if self._turns is None:
                self._turns = trio.lowlevel.ParkingLot()
            with trio.CancelScope(shield=True):
                await self._turns.park()  # until the turn is ours
        self._writing = True
        try:
            return await self._write(data)
        finally:
            if self._turns:
                self._turns.unpark()
            else:
                self._writing = False
                if self._direct_write is not None:
                    self._direct_write.free()

    def _hung_up(self) -> None:
        """Take note that the client has closed its end, or more than that."""
        if self._reading:
            # The reader hears of it by itself, after the bytes that came before.
            self._hung_up_unread = True
            return
        if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._broken = True
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

    def _end_direct_write(self) -> None:
        if self._direct_write is not None:
            self._direct_write.end()

    def _end(self, reason: CloseReason, detail: str) -> None:
        """Tell the streams, once, and have the reader stop."""
        if self.reason is None:
            self.reason, self.detail = reason, detail
        self._end_direct_write()
        carried, self._carried = self._carried, ()
        for stream in carried:
            stream.abort(self.reason, self.detail)
        if self._wire.closed:
            self._stop_reading()
            if self._exchange is not None:
                self._exchange.leave()

    def _has_unread(self) -> bool:
        """Whether the client has sent something that was not read yet."""
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLIN)
        return bool(poll.poll(0))


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
