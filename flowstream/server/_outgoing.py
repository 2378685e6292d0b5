"""What is written to one connection: one piece after the other, each of them whole.

Several may want to write at a time: an application, a protocol with an answer of its own, and a
publisher with a direct write (`flowstream.asgi._direct_write`). The first two wait for one another,
in the order in which they came. A publisher never waits: it writes where nobody else does or wants
to. What the kernel does not take of a direct write is kept, and is written before anything else.
"""

from __future__ import annotations

from typing import Any, Protocol

import trio

from flowstream.asgi._direct_write import DirectWrite
from flowstream.server._wire import Wire

# What is encrypted at a time, and so what a client that takes nothing can make of memory. A
# whole HTTP/2 frame or chunk is one piece with its framing: to encrypt those few bytes by
# themselves costs as much again.
_PIECE = 16 * 1024 + 64


class Writing(Protocol):
    """The connection that is written to."""

    def write_failed(self) -> None:
        """Hear that nothing can be sent any more."""

    def write_rest(self) -> None:
        """Have a task call ``write(b"")``: something is kept."""


class Outgoing:
    """What is written to one connection.

    Args:
        connection: hears of what goes wrong.
        wire: the client's socket.
        tls: what encrypts for it, or None.

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
        self._queue: trio.lowlevel.ParkingLot | None = None  # who waits for that, once anybody has
        self._rest = b""  # what is kept of a direct write
        self._direct_write: DirectWrite | None = None  # that of the last response
        self.is_broken = False

    async def write(self, data: bytes) -> bool:
        """Write `data` when nobody else does, whoever is cancelled meanwhile.

        The protocol counts it as sent: what is not written would be missing in the middle.

        Returns:
            Whether the client is there.
        """
        if self._direct_write is not None:
            self._direct_write.block()  # who waits here has come before a publisher
        if self._busy:
            if self._queue is None:
                self._queue = trio.lowlevel.ParkingLot()
            with trio.CancelScope(shield=True):
                await self._queue.park()  # who is woken may write
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
        """Return the direct writes to the response that begins, and end those to the last one.

        They begin blocked: the head, which is written first, frees them.
        """
        self.end_direct_write()
        self._direct_write = DirectWrite(self._wire.socket.fileno(), self._keep)
        return self._direct_write

    def end_direct_write(self) -> None:
        """End the direct writes to the last response, if there are any."""
        if self._direct_write is not None:
            self._direct_write.end()

    def _keep(self, rest: bytes) -> None:
        self._rest = rest
        assert self._direct_write is not None
        self._direct_write.block()  # until that is written, under the deadline of all writes
        self._connection.write_rest()
