"""A connection without TLS, which a lone caller writes to without another task.

Trio's own stream has every write wait for a turn of the event loop, and a writer task is one more.
That is half of what a small question to a server on the same network takes.
"""

from __future__ import annotations

import os
import socket

import trio

_READ_BYTES = 64 << 10


class PlainStream(trio.abc.Stream):
    """A stream over a socket that never blocks.

    Args:
        stream: a new connection of Trio's; its socket is taken over.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = socket.socket(fileno=os.dup(stream.socket.fileno()))
        self._socket.setblocking(False)
        stream.socket.close()

    def send_nowait(self, data: bytes | memoryview) -> int:
        """Send what the kernel takes at once, and return how many bytes these are.

        Raises:
            BrokenResourceError, ClosedResourceError: the connection is gone.
        """
        try:
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise self._gone() from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it, and **wait** until the kernel has it."""
        await trio.lowlevel.checkpoint()
        with memoryview(data) as rest:
            sent = 0
            while (sent := sent + self.send_nowait(rest[sent:])) < len(rest):
                await trio.lowlevel.wait_writable(self._socket)

    async def wait_send_all_might_not_block(self) -> None:
        """**Wait** until the kernel takes something."""
        await trio.lowlevel.wait_writable(self._socket)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """**Wait** for bytes and return them; ``b""`` is the end."""
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return self._socket.recv(_READ_BYTES if max_bytes is None else max_bytes)
            except (BlockingIOError, InterruptedError):
                continue
            except OSError as error:
                raise self._gone() from error

    async def aclose(self) -> None:
        """Close the connection."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
        await trio.lowlevel.checkpoint()

    def _gone(self) -> Exception:
        if self._socket.fileno() < 0:
            return trio.ClosedResourceError("the connection was closed here")
        return trio.BrokenResourceError("the connection is broken")
