"""The watch: look at a stream's deadlines, each when it comes due.

Under flowstream's own server the watch is a timer, one of those that all streams share. Under other
servers it is a task, because a task also notices that something around the stream is cancelled.
Nothing else would: the writer may be stuck in a shielded ``send``, and the stream shields its
producer. flowstream's server calls the stream instead.
"""

from __future__ import annotations

import math
from typing import Protocol

import trio

from flowstream._clock import clock
from flowstream._closing import CloseReason
from flowstream.asgi._deadlines import Activity, Deadlines, Due
from flowstream.tasks._timers import Timer, start_timer


class Watched(Protocol):
    """A stream, as its watch knows it."""

    def activity(self, now: float) -> Activity:
        """Return what the writer has noted until `now`."""
        ...

    def beat(self) -> None:
        """Let the writer send a heartbeat."""

    def close(self, reason: CloseReason, detail: str = "") -> None:
        """End gracefully."""

    def abort(self, reason: CloseReason, detail: str = "") -> None:
        """End at once."""

    def watch_ended(self) -> None:
        """The task that watched was cancelled: from outside, or because the stream has ended."""


class Watch:
    """Watches one stream.

    Args:
        stream: is told what is due.
        deadlines: the stream's.
    """

    __slots__ = ("_deadlines", "_stream", "_timer")

    def __init__(self, stream: Watched, deadlines: Deadlines) -> None:
        self._stream = stream
        self._deadlines = deadlines
        self._timer: Timer | None = None

    def start(self, now: float) -> None:
        """Look now, and whenever something comes due, with a shared timer."""
        again = self._look(now)
        if again < math.inf:
            self._timer = start_timer(again, self._look)

    async def run(self, now: float) -> None:
        """Look now, and whenever something comes due, until it is cancelled."""
        try:
            again = now
            while True:
                await trio.sleep_until(again)
                again = self._look(clock.current_time())
        finally:
            self._stream.watch_ended()

    def stop(self) -> None:
        """Stop the timer. A task is cancelled by the code that started it."""
        if self._timer is not None:
            self._timer.stop()

    def _look(self, now: float) -> float:
        """Do what is due; return when to look again."""
        due, again = self._deadlines.check(now, self._stream.activity(now))
        if due is Due.HEARTBEAT:
            self._stream.beat()
        elif due is Due.MAX_DURATION:
            self._stream.close(CloseReason.MAX_DURATION, self._deadlines.bound(due))
        elif due is Due.STALLED:
            self._stream.abort(CloseReason.STALLED, self._deadlines.bound(due))
        return again
