"""One client's socket: write to it under a deadline that any progress restarts.

This is the innermost layer, below TLS, so that one deadline holds for everything that is written: a
response, a handshake, the answer to a key update, the close_notify.

Trio's own ``send_all`` can't be given such a deadline from outside. When it is cancelled, it does
not say how much it wrote; until it returns, it does not say whether anything moved. With 16 KiB
unsent (TCP_NOTSENT_LOWAT, as Trio sets it) Linux reports a socket as writable again only when less
than 8 KiB are unsent. A client that reads a few KiB per deadline would seem to read nothing. But
the kernel accepts a write as soon as it has room, so a write is tried from time to time.

Reading is done here, too. With Trio's stream and socket a waiting reader would hold seven more
frames and two more objects. A connection is read as long as it lasts, so that is 2 KB of each.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from flowstream.server._stall_bound import StallBound

_READ_SIZE = 1 << 16

# How often a write is tried within the deadline. So the deadline is exact to a sixteenth of it.
_TRIES = 16

# With this, close() sends RST and frees unsent bytes, instead of still sending them (socket(7)).
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

_USER_TIMEOUT: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux has it
_LONGEST = (1 << 31) - 1  # milliseconds


class Owner(Protocol):
    """The connection that owns a wire."""

    def stall_bound(self) -> StallBound:
        """Return how long the peer may currently read nothing."""
        ...

    def stalled(self) -> None:
        """Take note that the peer read nothing for that long. Must call `Wire.reset`."""


class Wire(trio.abc.HalfCloseableStream):
    """One client's socket.

    Args:
        sock: one of Trio's sockets.

    Attributes:
        socket: the socket.
        timeout: seconds that the peer may read nothing while a write waits, unless `owner` says
            otherwise. No bound until it is set.
        owner: knows the bound that currently holds, and is told at the deadline.
        progress_at: when the peer was last seen to read something.
        turn: if set, waits for a turn before each read. Used in a TLS handshake, which is
            expensive.
    """

    __slots__ = ("_user_timeout", "owner", "progress_at", "socket", "timeout", "turn")

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self.socket = sock
        self.timeout = math.inf
        self.progress_at = trio.current_time()
        self.owner: Owner | None = None
        self.turn: Callable[[], Awaitable[None]] | None = None
        self._user_timeout: int | None = None  # TCP's own bound, before `stretch` changed it

    @property
    def closed(self) -> bool:
        """Whether the socket is closed on this side."""
        return bool(self.socket.fileno() == -1)

    def write_nowait(self, data: bytes | memoryview) -> int:
        """Write as much as the kernel takes at once; return how many bytes that was.

        Raises:
            trio.BrokenResourceError: the peer has left.
            trio.ClosedResourceError: the socket was closed on this side.
        """
        try:
            return os.write(self.socket.fileno(), data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._translated(error) from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data`, even if cancelled: half a chunk can't be taken back.

        It is a checkpoint only if the kernel doesn't take all of it at once.

        Raises:
            trio.BrokenResourceError: the peer has left.
            trio.ClosedResourceError: the socket was closed on this side, perhaps because the
                peer read nothing for too long.
        """
        with memoryview(data) as view:
            sent = self.write_nowait(view)
            if sent < len(view):
                with trio.CancelScope(shield=True), view[sent:] as rest:
                    await self._write_patiently(rest)

    async def _write_patiently(self, rest: memoryview) -> None:
        self.progress_at = trio.current_time()
        start = 0
        while start < len(rest):
            now = trio.current_time()
            bound = self.timeout if self.owner is None else self.owner.stall_bound().seconds
            deadline = self.progress_at + bound
            if now >= deadline:
                (self.reset if self.owner is None else self.owner.stalled)()
            if self.closed:
                raise trio.ClosedResourceError("the connection was closed")
            # Ask for the bound each time: a stream that has set a longer one may end.
            with trio.move_on_at(min(deadline, now + min(bound, self.timeout) / _TRIES)):
                await trio.lowlevel.wait_writable(self.socket)
            if sent := self.write_nowait(rest[start:]):
                self.progress_at = trio.current_time()
                start += sent

    @property
    def is_stretched(self) -> bool:
        """Whether `stretch` has given the peer more time than TCP does by itself."""
        return self._user_timeout is not None

    def stretch(self, seconds: float) -> None:
        """Let the peer read nothing for `seconds` more before TCP gives it up; 0 undoes that.

        TCP gives up a peer whose window stays closed (``TCP_USER_TIMEOUT``), which could be before
        a longer bound of ours. With `math.inf` only the system's own bound is left, for peers that
        do not even acknowledge.
        """
        if self.socket.family not in (socket.AF_INET, socket.AF_INET6) or _USER_TIMEOUT is None:
            return
        with contextlib.suppress(OSError):  # closed, or the peer was faster
            usual = self._user_timeout
            if usual is None:
                usual = self.socket.getsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT)
            if usual:  # else there is none
                most = 0 if seconds == math.inf else min(usual + round(1000 * seconds), _LONGEST)
                self.socket.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, most)
                self._user_timeout = usual if seconds else None

    async def wait_send_all_might_not_block(self) -> None:
        """**Wait** until the kernel would accept bytes."""
        if self.closed:
            raise trio.ClosedResourceError("the connection was closed")
        await trio.lowlevel.wait_writable(self.socket)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """**Wait** for bytes of the peer and return them; ``b""`` at their end.

        Raises:
            trio.BrokenResourceError: the peer has reset the connection.
            trio.ClosedResourceError: the socket was closed on this side.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        data = self.read_nowait(max_bytes or _READ_SIZE)
        if data is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return data
        while data is None:
            await trio.lowlevel.wait_readable(self.socket)
            if self.turn is not None:
                await self.turn()
            data = self.read_nowait(max_bytes or _READ_SIZE)
        return data

    async def send_eof(self) -> None:
        """Send FIN after all that was written."""
        await trio.lowlevel.checkpoint()
        if self.socket.did_shutdown_SHUT_WR:
            return
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._translated(error) from error

    def read_nowait(self, max_bytes: int) -> bytes | None:
        """Return bytes that the peer has sent, ``b""`` at their end; None if there are none yet.

        Raises:
            trio.BrokenResourceError: the peer has reset the connection.
            trio.ClosedResourceError: the socket was closed on this side.
        """
        try:
            return os.read(self.socket.fileno(), max_bytes)
        except BlockingIOError:
            return None  # a wait inside this block would keep the error alive
        except OSError as error:
            raise self._translated(error) from error

    def reset(self) -> None:
        """Close the socket at once, drop unsent bytes, and wake the tasks that wait for it."""
        with contextlib.suppress(OSError):  # the peer was faster
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.socket.close()

    async def aclose(self) -> None:
        """Close the socket; the kernel still delivers the bytes that it has accepted."""
        self.socket.close()
        await trio.lowlevel.checkpoint()

    def _translated(self, error: OSError) -> Exception:
        if self.closed:
            return trio.ClosedResourceError("the connection was closed")
        return trio.BrokenResourceError(f"the client is gone: {error}")
