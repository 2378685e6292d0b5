"""One client's connection, as the streams and protocols on it see it.

What is different from ``hypercorn.trio.tcp_server.TCPServer``, and why:

* A write has a deadline, which any progress restarts (`Wire`). Hypercorn's writes are shielded and
  wait for ever, so a client that stops reading holds a task, a buffer and the shutdown.
* At the deadline the socket is reset. After a close the kernel would go on trying to deliver bytes
  that the client does not read.
* The connection tells its streams of its end and of a shutdown by a call, so no stream needs a task
  that polls. Publishers can write to it directly.

`HTTPConnection` adds what HTTP does on it.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

import trio

from flowstream._closing import CloseReason
from flowstream.asgi._carrier import Carried
from flowstream.asgi._direct_write import DirectWrite, NotDirect
from flowstream.asgi._request import Live
from flowstream.server._connections import Connections
from flowstream.server._forwarded import Origin
from flowstream.server._listening import Transport
from flowstream.server._outgoing import Outgoing
from flowstream.server._pass_budget import Share
from flowstream.server._protocol_carrier import GOING_DOWN, LEFT, RESET
from flowstream.server._settings import ServerConfig
from flowstream.server._stall_bound import StallBound, stall_bound

_READ_SIZE = 1 << 16

_NOT_THROUGH_TLS = DirectWrite.impossible(NotDirect.ENCRYPTED)
_NOT_WITHOUT_CHUNKS = DirectWrite.impossible(NotDirect.HTTP_VERSION)


class Connection(Live, ABC):
    """One client's connection.

    Args:
        connections: the connections of the worker.
        config: the server's configuration.
        stream: the client's socket, perhaps with TLS.

    Attributes:
        stream: the same.
        client, server: the addresses of both ends.
        reason: why the connection ended, or None.
        detail: the cause of that, for reports.
    """

    def __init__(self, connections: Connections, config: ServerConfig, stream: Transport) -> None:
        self.config = config
        self.stream: Any = stream
        self._connections = connections
        self._carried: tuple[Carried, ...] = ()  # usually one; a set would take 216 bytes
        self._share = Share()
        self._tls = isinstance(stream, trio.SSLStream)
        self._wire = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
        self._wire.timeout = connections.write_timeout
        self._wire.owner = self
        self._socket = self._wire.socket
        self._outgoing = Outgoing(self, self._wire, stream if self._tls else None)
        self._reading = False
        self._handling: trio.CancelScope | None = None  # while the protocol handles what was read
        self._read_enough = False
        self._hung_up_unread = False  # the client hung up while unread bytes were left
        self.client: Any = None
        self.server: Any = None
        self.reason: CloseReason | None = None
        self.detail = ""

    # -- for streams -----------------------------------------------------------------------

    def attach(self, stream: Carried) -> None:
        """From now on tell `stream` when the connection ends or the server shuts down.

        If either has happened already, this tells it before it returns.
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
        """Reset the connection: drop unsent bytes, and wake every task of it."""
        if self._wire.closed:
            return
        self._outgoing.end_direct_write()
        self._connections.hangups.remove(self._socket.fileno())
        self._wire.reset()
        self._end(reason, detail)

    def open_direct_write(self, scope: Mapping[str, Any]) -> DirectWrite:
        """Return the direct writes of a new response, and end those of the last one."""
        if self._tls:
            return _NOT_THROUGH_TLS
        if scope["http_version"] != "1.1":
            return _NOT_WITHOUT_CHUNKS
        direct_write = self._outgoing.open_direct_write()
        if self.reason is not None or scope["method"] == "HEAD":
            direct_write.end()
        return direct_write

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
        """Return where a request comes from. The names of its headers are in lower case."""
        socket_path = "" if self.client else str(self._socket.getsockname())
        return self._connections.proxies.origin(headers, self.client, socket_path, tls=self._tls)

    def is_broken(self) -> bool:
        """Return whether it can no longer send. After the client's half-close it still can."""
        return self._outgoing.is_broken or self._wire.closed

    @property
    def write_timeout(self) -> float:
        """Seconds that a write may make no progress, unless a stream says otherwise."""
        return self._wire.timeout

    def stall_bound(self) -> StallBound:
        """Return how long a write may currently make no progress."""
        return stall_bound(self._carried, self._wire.timeout, shared=self._is_shared())

    def stalled(self) -> None:
        """Reset the connection, because its client read nothing for that long."""
        self.abort(CloseReason.STALLED, str(self.stall_bound()))

    def _stretch_wire(self) -> None:
        bound = self.stall_bound().seconds
        self._wire.stretch(bound if bound > self._wire.timeout else 0)

    def note_progress(self) -> None:
        """Note that the client has read something."""
        self._wire.progress_at = trio.current_time()

    def turn(self) -> Awaitable[None]:
        """**Wait** for this client's turn, before starting what it asked for."""
        return self._connections.budget.turn(self._share)

    def pause(self) -> Awaitable[None]:
        """Let others run, if this pass of the event loop has no time left."""
        return self._connections.budget.pause()

    def seconds_since_progress(self) -> float:
        """Return how long ago the client last read something, as far as was noted."""
        return trio.current_time() - self._wire.progress_at

    def is_writing(self) -> bool:
        """Return whether somebody writes to it now, or waits to."""
        return self._outgoing.is_busy

    def write(self, data: bytes) -> Awaitable[bool]:
        """Write all of `data`, even if cancelled; return whether the connection can still send.

        It is a checkpoint only if the kernel doesn't take all of it at once.
        """
        return self._outgoing.write(data)

    # -- what the client sends -------------------------------------------------------------

    def _read_at_once(self) -> bytes | None:
        """Return bytes that have come already, or None. A new client has usually sent some."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            return self._wire.read_nowait(_READ_SIZE)
        return None

    async def _receive(self) -> bytes | None:
        """**Wait** for bytes and return them; b"" at their end; None if reading is over."""
        timeout = self.config.read_timeout
        if self._read_enough:
            return None
        try:
            self._reading = True
            if timeout is None:  # usually; a scope would take 1.2 KB of each connection
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
            self._outgoing.is_broken = True
            self._end(CloseReason.CLIENT_DISCONNECTED, RESET)
            return None
        finally:
            self._reading = False
        if not data:
            self._end(CloseReason.CLIENT_DISCONNECTED, LEFT)
        elif self._hung_up_unread:
            # The protocol may park us now, before we have read as far as the FIN.
            self._hung_up_unread = False
            self._connections.hangups.again(self._socket.fileno())
        if self._read_enough:  # set after the bytes came, and before this task ran
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

    def _has_unread(self) -> bool:
        """Whether the client has sent bytes that were not read yet."""
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    # -- its end ---------------------------------------------------------------------------

    def _end(self, reason: CloseReason, detail: str) -> None:
        """Tell the streams, once, that the connection has ended; stop its protocol."""
        if self.reason is None:
            self.reason, self.detail = reason, detail
        self._outgoing.end_direct_write()
        carried, self._carried = self._carried, ()
        for stream in carried:
            stream.abort(self.reason, self.detail)
        if self._wire.closed:
            self._leave()

    def write_failed(self) -> None:
        """Take note that the connection can no longer send."""
        self._end(CloseReason.CLIENT_DISCONNECTED, "a write failed")
        self._stop_reading()  # the reader may be parked until this response ends

    async def _close(self) -> None:
        """Close the socket, after the bytes that the kernel has; with TLS, tell the client."""
        self._outgoing.end_direct_write()
        self._connections.hangups.remove(self._socket.fileno())
        with (
            trio.CancelScope(shield=True),  # the write deadline still holds
            contextlib.suppress(
                trio.BrokenResourceError, trio.BusyResourceError, trio.ClosedResourceError
            ),
        ):
            if not self._tls:
                await self._wire.send_eof()
            await self.stream.aclose()
        self._socket.close()
        # The reader may be parked before a pipelined request, after a response without an end.
        self._stop_reading()

    # -- for HTTPConnection ----------------------------------------------------------------

    @abstractmethod
    def may_bring_more(self, scope: Mapping[str, Any]) -> bool:
        """Return whether a body follows this request. Its headers say so (RFC 9112 § 6.3)."""

    @abstractmethod
    def write_rest(self) -> None:
        """Start a task that writes the rest of a direct write."""

    @abstractmethod
    def _is_shared(self) -> bool:
        """Whether several responses may share the connection."""

    @abstractmethod
    def _leave(self) -> None:
        """Stop reading, and tell the protocol or the plain request that the client has left."""
