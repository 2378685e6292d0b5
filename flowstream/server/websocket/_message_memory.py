"""What the WebSockets of one connection keep of messages, all of them together.

A message is handed to its application whole, so until then the server has to keep it. HTTP/2 has
room for a hundred WebSockets on one connection: if each might keep a message of the greatest size,
one client could have the server keep a gigabyte and more. So:

* Each WebSocket may keep `SHARE` of messages that its application has not received.
* To keep more it needs the connection's permit, of which there is one. It has it until its
  application has received enough, or has returned.
* The others wait for it in the order in which they came. Nothing fails: what they were sent is not
  read, and HTTP/2's windows stop the client. Messages within the share go on.
* `COMPRESSING` of them may use deflate, whose two windows take 300 KiB. Others are accepted
  without it.

The one that has the permit waits for its own client and its own application, and for nobody else.
So it can't wait for one that waits for it. With HTTP/1.1 a connection has one WebSocket, and the
permit is always free.
"""

from __future__ import annotations

import trio

SHARE = 16 * 1024
COMPRESSING = 8

# Compressed bytes that are taken at once under the permit, and how many come out of each at most.
_STEP = 1024
_RATIO = 1032


class MessageMemory:
    """That of one connection."""

    __slots__ = ("compressing", "permit")

    def __init__(self) -> None:
        self.permit = trio.Semaphore(1, max_value=1)
        self.compressing = 0


class MemoryShare:
    """What one WebSocket may keep.

    Args:
        memory: that of its connection.

    Attributes:
        has_permit: whether it may keep more.
    """

    __slots__ = ("_compresses", "_memory", "_waiting", "has_permit")

    def __init__(self, memory: MessageMemory) -> None:
        self._memory = memory
        self.has_permit = False
        self._compresses = False
        self._waiting: trio.CancelScope | None = None  # while it waits for the permit

    @property
    def may_compress(self) -> bool:
        """Whether one more WebSocket of the connection may use deflate."""
        return self._memory.compressing < COMPRESSING

    def compress(self) -> None:
        """Note that this one uses deflate."""
        self._compresses = True
        self._memory.compressing += 1

    def step(self, kept: int, coming: int, *, compressed: bool) -> int:
        """Return how many bytes may be read now. If it is 0, `wait` comes first.

        Args:
            kept: bytes of messages that are here.
            coming: bytes that are to be read.
            compressed: whether more may come out of them.
        """
        ratio = _RATIO if compressed else 1
        if not self.has_permit:
            if kept + coming * ratio <= SHARE:
                return coming
            try:
                self._memory.permit.acquire_nowait()
            except trio.WouldBlock:
                return min(coming, max(0, SHARE - kept) // ratio)
            self.has_permit = True
        return min(coming, _STEP) if compressed else coming

    async def wait(self) -> None:
        """Wait for the permit, or for `stop_waiting`."""
        if self.has_permit:
            return
        try:
            with trio.CancelScope() as self._waiting:
                await self._memory.permit.acquire()
                self.has_permit = True
        finally:
            self._waiting = None

    def stop_waiting(self) -> None:
        """Wake whoever waits for the permit, without it."""
        if self._waiting is not None:
            self._waiting.cancel()

    def settle(self, kept: int) -> None:
        """Give the permit back if what is kept is within the share."""
        if self.has_permit and kept <= SHARE:
            self.has_permit = False
            self._memory.permit.release()

    def close(self) -> None:
        """Note that the WebSocket reads and sends nothing more. It may keep what it has."""
        self.stop_waiting()
        if self._compresses:
            self._compresses = False
            self._memory.compressing -= 1
