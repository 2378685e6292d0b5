"""Write to one connection: one piece after another, each of them whole.

Several may want to write at the same time: an application, a protocol with an answer of its own,
and a publisher with a direct write (`flowstream.asgi._direct_write`). The first two wait for each
other, first come, first served. A publisher never waits: it writes only if nobody else writes or
waits to. If the kernel does not take a direct write whole, the rest is kept, and written before
anything else.
"""

from __future__ import annotations

from typing import Any, Protocol

import trio

from flowstream.asgi._direct_write import DirectWrite
from flowstream.server._wire import Wire

# Bytes that are encrypted at a time. They bound the memory that a client which reads nothing can
# take. A whole HTTP/2 frame or chunk is one piece, framing included: to encrypt those few bytes
# alone would double the cost.
_PIECE = 16 * 1024 + 64


class Writing(Protocol):
    """The connection that is written to."""

    def write_failed(self) -> None:
        """Take note that the connection can no longer send."""

    def write_rest(self) -> None:
        """Start a task that calls ``write(b"")``: a part of a direct write is kept."""


class Outgoing:
    """Writes to one connection.

    Args:
        connection: told when a write fails, or a direct write is not taken whole.
        wire: the client's socket.
        tls: the TLS stream over it, or None.

    Attributes:
        is_broken: a write has failed, or the client has reset the connection.
    """

    __slots__ = (
        "_busy",
        "_connection",
        "_direct_write",
        "_queue",
        "_rest",
        "_tls",
        "_wire",
        "is_broken",
    )

    def __init__(self, connection: Writing, wire: Wire, tls: Any) -> None:
        self._connection = connection
        self._wire = wire
        self._tls = tls
        self._busy = False  # somebody writes
        self._queue: trio.lowlevel.ParkingLot | None = None  # waiting writers; made when needed
        self._rest = b""  # the part of a direct write that the kernel did not take
        self._direct_write: DirectWrite | None = None  # of the last response
        self.is_broken = False

    @property
    def is_busy(self) -> bool:
        """Whether somebody writes now, or waits to."""
        return self._busy

    async def write(self, data: bytes) -> bool:
        """**Wait** until nobody else writes, then write all of `data`, even if cancelled.

        The protocol counts `data` as sent, so an unwritten part would be missing in the middle.

        Returns:
            Whether the connection can still send.
        """
        if self._direct_write is not None:
            self._direct_write.block()  # a writer that waits here goes before a publisher
        if self._busy:
            if self._queue is None:
                self._queue = trio.lowlevel.ParkingLot()
            with trio.CancelScope(shield=True):
                await self._queue.park()  # the one that is woken may write
        self._busy = True
        try:
            return await self._write(data)
        finally:
            if self._queue:
                self._queue.unpark()
            else:
                self._busy = False
                if self._direct_write is not None:
                    self._direct_write.free()

    async def _write(self, data: bytes) -> bool:
        if self._rest:
            data, self._rest = self._rest + data, b""
        if self._wire.closed:
            return False
        try:
            if self._tls is not None:
                await self._encrypt(data)
            else:
                await self._wire.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.is_broken = True
            self._connection.write_failed()
            return False
        return True

    async def _encrypt(self, data: bytes) -> None:
        with trio.CancelScope(shield=True), memoryview(data) as view:
            for start in range(0, len(data), _PIECE):
                await self._tls.send_all(view[start : start + _PIECE])

    # -- direct writes ---------------------------------------------------------------------

    def open_direct_write(self) -> DirectWrite:
        """Return the direct writes of a new response, and end those of the last one.

        They begin blocked. Writing the head, which comes first, frees them.
        """
        self.end_direct_write()
        self._direct_write = DirectWrite(self._wire.socket.fileno(), self._keep)
        return self._direct_write

    def end_direct_write(self) -> None:
        """End the direct writes of the last response, if there are any."""
        if self._direct_write is not None:
            self._direct_write.end()

    def _keep(self, rest: bytes) -> None:
        self._rest = rest
        assert self._direct_write is not None
        self._direct_write.block()  # until the rest is written, under the usual deadline
        self._connection.write_rest()
