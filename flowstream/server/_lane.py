"""Lane: the way past a connection's writer straight to its socket.

A publisher has to know, for each of ten thousand connections, whether it may write to it now.
To ask each for its state would cost more than the write: the objects it is spread over are in
nobody's cache. So it is kept in one place, a file descriptor, and whoever changes the state
says so here.
"""

from __future__ import annotations

import os
from collections.abc import Callable


class Lane:
    """A socket that can be written to while nobody else writes.

    Args:
        fd: the socket.
        keep: called with what is left over when the kernel takes a part of the bytes.
    """

    __slots__ = ("_fd", "_keep", "_open")

    def __init__(self, fd: int, keep: Callable[[bytes], None]) -> None:
        self._open = self._fd = fd
        self._keep = keep

    def write(self, data: bytes) -> bool:
        """Write bytes that are framed already; return False if nothing was done.

        So it is if somebody else writes, if the kernel takes nothing, or if the connection
        has ended.
        """
        fd = self._fd
        if fd < 0:
            return False
        try:
            sent = os.write(fd, data)
        except OSError:  # nothing fits; or the peer is gone, of which the reader hears, too
            return False
        if sent < len(data):
            self._keep(data[sent:])
        return True

    def block(self) -> None:
        """Keep it closed while somebody else writes, or is about to."""
        self._fd = -1

    def free(self) -> None:
        """Open it again, unless it was closed for good."""
        self._fd = self._open

    def close(self) -> None:
        """Close it for good. To be called before the socket is: its number is used again."""
        self._fd = self._open = -1
