"""Bound the memory that all WebSockets of one connection take for messages.

An application receives a message whole, so the server keeps it until its last part is here. HTTP/2
has room for a hundred WebSockets on one connection. If each could keep a message of the greatest
size, one client could make the server keep a gigabyte and more. So:

* Each WebSocket may keep `SHARE` of messages that its application has not received.
* To keep more, it needs the connection's one permit. It gives the permit back when its application
  has received enough, or has returned.
* The others wait for the permit, first come, first served. Nothing fails: the server does not read
  what they were sent, and HTTP/2's windows stop the client. Messages within the share go on.
* `COMPRESSING` of them may use deflate, whose two windows take 300 KiB. Others are accepted
  without it.

The one with the permit waits only for its own client and its own application, so no two can wait
for each other. With HTTP/1.1 a connection has one WebSocket, and the permit is always free.
"""

from __future__ import annotations

import trio

SHARE = 16 * 1024
COMPRESSING = 8

# Compressed bytes that are read at once under the permit, and the most bytes that one expands to.
_STEP = 1024
_RATIO = 1032


class MessageMemory:
    """The memory that the WebSockets of one connection share."""

    __slots__ = ("compressing", "permit")

    def __init__(self) -> None:
        self.permit = trio.Semaphore(1, max_value=1)
        self.compressing = 0


class MemoryShare:
    """One WebSocket's part of the memory.

    Args:
        memory: the memory of its connection.

    Attributes:
        has_permit: whether it may keep more than `SHARE`.
    """

    __slots__ = ("_compresses", "_memory", "_waiting", "has_permit")

    def __init__(self, memory: MessageMemory) -> None:
        self._memory = memory
        self.has_permit = False
        self._compresses = False
        self._waiting: trio.CancelScope | None = None  # set while it waits for the permit

    @property
    def may_compress(self) -> bool:
        """Whether another WebSocket of the connection may use deflate."""
        return self._memory.compressing < COMPRESSING

    def compress(self) -> None:
        """Note that this one uses deflate."""
        self._compresses = True
        self._memory.compressing += 1

    def step(self, kept: int, coming: int, *, compressed: bool) -> int:
        """Return how many bytes may be read now. If it is 0, call `wait` first.

        Args:
            kept: bytes of messages that are kept already.
            coming: bytes that wait to be read.
            compressed: whether these may expand.
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
        """**Wait** for the permit, or for `stop_waiting`."""
        if self.has_permit:
            return
        try:
            with trio.CancelScope() as self._waiting:
                await self._memory.permit.acquire()
                self.has_permit = True
        finally:
            self._waiting = None

    def stop_waiting(self) -> None:
        """Wake the task that waits for the permit, without giving it the permit."""
        if self._waiting is not None:
            self._waiting.cancel()

    def settle(self, kept: int) -> None:
        """Give the permit back, if the bytes kept are within the share."""
        if self.has_permit and kept <= SHARE:
            self.has_permit = False
            self._memory.permit.release()

    def close(self) -> None:
        """Note that the WebSocket reads and sends nothing more. It may still keep messages."""
        self.stop_waiting()
        if self._compresses:
            self._compresses = False
            self._memory.compressing -= 1
