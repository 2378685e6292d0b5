"""What one HTTP/2 stream has yet to send.

Hypercorn's own buffer releases its sender whenever a *pop* was small, as every pop is at a
closed window, and so takes in all that an application has. This one holds the sender back
for as long as it is full, and gives it up when its client takes nothing for too long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from flowstream.server._hypercorn import BufferCompleteError, StreamBuffer

# Two frames of HTTP/2's default size (RFC 9113 § 4.2), as in Hypercorn; and one of them.
HIGH_WATER = 32 * 1024
LOW_WATER = 16 * 1024


class BoundedStreamBuffer(StreamBuffer):
    """At most 32 KiB, and the piece that went over it.

    Args:
        event_class: Hypercorn's event.
        timeout: seconds that nothing may be taken while somebody waits.
        on_progress: called when something was taken.
    """

    def __init__(
        self, event_class: type[Any], timeout: float, on_progress: Callable[[], None]
    ) -> None:
        super().__init__(event_class)
        self._timeout = timeout
        self._on_progress = on_progress
        self._popped_at = trio.current_time()

    async def push(self, data: bytes) -> None:
        """Add `data`; wait while the buffer is full.

        Raises:
            BufferCompleteError: nothing more is to be added: the stream is over.
            trio.TooSlowError: nothing was taken for `timeout` seconds.
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
            trio.TooSlowError: nothing was taken for `timeout` seconds.
        """
        if self.buffer:
            await self._wait(self._is_empty)

    @property
    def completed(self) -> bool:
        """Whether nothing more is to be added; `complete` is when nothing is left, either."""
        return self._complete

    async def _wait(self, event: Any) -> None:
        since = trio.current_time()
        while not event.is_set():
            popped_at = self._popped_at
            with trio.move_on_at(max(since, popped_at) + self._timeout) as scope:
                await event.wait()
            if scope.cancelled_caught and self._popped_at == popped_at:
                raise trio.TooSlowError
