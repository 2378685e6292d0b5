"""The bytes that one HTTP/2 stream has not sent yet.

The buffer makes its sender wait while it is full, and ends the stream when its client takes nothing
for too long. Hypercorn's own buffer lets the sender go on whenever a *pop* was small. At a closed
window every pop is small, so it collects all that an application sends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import trio

from flowstream.server._hypercorn import BufferCompleteError, StreamBuffer
from flowstream.server._stall_bound import StallBound

# Two frames of HTTP/2's default size (RFC 9113 § 4.2), as in Hypercorn, and one frame.
HIGH_WATER = 32 * 1024
LOW_WATER = 16 * 1024


# How often, within the usual bound, to check whether a longer bound still holds.
_LOOKS = 16


class Bounded(Protocol):
    """Knows how long a write may make no progress."""

    @property
    def write_timeout(self) -> float:
        """The usual bound, in seconds."""
        ...

    def stall_bound(self) -> StallBound:
        """Return the current bound."""
        ...


class BoundedStreamBuffer(StreamBuffer):
    """Holds at most 32 KiB and the piece that filled it.

    Args:
        event_class: Hypercorn's class of events.
        link: the stream, which knows how long nothing may be taken while a task waits.
        on_progress: called when something was taken.
    """

    def __init__(
        self, event_class: type[Any], link: Bounded, on_progress: Callable[[], None]
    ) -> None:
        super().__init__(event_class)
        self._link = link
        self._on_progress = on_progress
        self._popped_at = trio.current_time()

    async def push(self, data: bytes) -> None:
        """Add `data`; **wait** while the buffer is full.

        Raises:
            BufferCompleteError: the stream is over, and nothing more may be added.
            trio.TooSlowError: nothing was taken for too long.
        """
        if self._complete:
            raise BufferCompleteError
        self.buffer.extend(data)
        await self._is_empty.clear()
        while len(self.buffer) >= HIGH_WATER and not self._complete:
            await self._paused.clear()
            await self._wait(self._paused)

    async def pop(self, max_length: int) -> bytes:
        """Take up to `max_length` bytes; let the sender go on when half of the room is free."""
        data = bytes(self.buffer[:max_length])
        if data:
            del self.buffer[: len(data)]
            self._popped_at = trio.current_time()
            self._on_progress()
        if len(self.buffer) < LOW_WATER:
            await self._paused.set()
        if not self.buffer:
            await self._is_empty.set()
        return data

    async def drain(self) -> None:
        """**Wait** until all is taken.

        Raises:
            trio.TooSlowError: nothing was taken for too long.
        """
        if self.buffer:
            await self._wait(self._is_empty)

    @property
    def completed(self) -> bool:
        """Whether nothing more may be added. `complete` means that nothing is left, too."""
        return self._complete

    async def _wait(self, event: Any) -> None:
        began = now = trio.current_time()
        usual = self._link.write_timeout
        while not event.is_set():
            since = max(began, self._popped_at)
            deadline = since + self._link.stall_bound().seconds
            if now >= deadline:
                raise trio.TooSlowError
            # The stream that set a longer bound may end while we wait.
            look_at = max(since + usual, now + usual / _LOOKS)
            with trio.move_on_at(min(deadline, look_at)):
                await event.wait()
            now = trio.current_time()
