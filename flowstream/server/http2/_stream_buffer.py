"""The bytes that one HTTP/2 stream has not sent yet.

Hypercorn's own buffer releases its sender whenever a *pop* was small, as every pop is at a
closed window, and so takes in all that an application has. This one makes the sender
wait while it is full, and ends the stream when its client takes nothing for too long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import trio

from flowstream.server._hypercorn import BufferCompleteError, StreamBuffer
from flowstream.server._stall_bound import StallBound

# Two frames of HTTP/2's default size (RFC 9113 § 4.2), as in Hypercorn; and one of them.
HIGH_WATER = 32 * 1024
LOW_WATER = 16 * 1024


# So often within the usual bound is it seen that a longer one holds no more.
_LOOKS = 16


class Bounded(Protocol):
    """What knows how long a write may make no progress."""

    @property
    def write_timeout(self) -> float:
        """Seconds, as a rule."""
        ...

    def stall_bound(self) -> StallBound:
        """Return the bound that holds now."""
        ...


class BoundedStreamBuffer(StreamBuffer):
    """At most 32 KiB, and the piece that went over it.

    Args:
        event_class: Hypercorn's event.
        link: the stream, which knows for how long nothing may be taken while somebody waits.
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
        """Add `data`; wait while the buffer is full.

        Raises:
            BufferCompleteError: nothing more is to be added: the stream is over.
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
        """Take up to `max_length` bytes; let the sender go on once half is gone."""
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
        """Wait until all is taken.

        Raises:
            trio.TooSlowError: nothing was taken for too long.
        """
        if self.buffer:
            await self._wait(self._is_empty)

    @property
    def completed(self) -> bool:
        """Whether nothing more is to be added; `complete` is when nothing is left, either."""
        return self._complete

    async def _wait(self, event: Any) -> None:
        began = now = trio.current_time()
        usual = self._link.write_timeout
        while not event.is_set():
            since = max(began, self._popped_at)
            deadline = since + self._link.stall_bound().seconds
            if now >= deadline:
                raise trio.TooSlowError
            # One that is longer than usual may end while we wait.
            look_at = max(since + usual, now + usual / _LOOKS)
            with trio.move_on_at(min(deadline, look_at)):
                await event.wait()
            now = trio.current_time()
