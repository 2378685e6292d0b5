"""When a stream has to be looked at next, and what for: a decision without I/O.

One task per stream sleeps until the earliest of three deadlines. None of them costs the
hot path anything: the writer notes when a write begins and ends, and the deadlines are
read off those notes when they come due.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from flowstream._clock import chance
from flowstream.limits import Limits


class Due(enum.Enum):
    """What has come due."""

    NOTHING = enum.auto()
    HEARTBEAT = enum.auto()
    STALLED = enum.auto()
    MAX_DURATION = enum.auto()


@dataclass(frozen=True, slots=True)
class Activity:
    """What the writer has noted down, all in seconds on one clock."""

    sending_since: float | None
    """When the write that is under way began."""
    last_write: float
    """When the last one ended."""


class Deadlines:
    """The deadlines of one stream.

    Args:
        limits: the stream's limits.
        heartbeat: seconds of silence after which a heartbeat is due, or None for never.
        start: when the stream began.
    """

    def __init__(self, limits: Limits, heartbeat: float | None, start: float) -> None:
        self._limits = limits
        self._heartbeat = heartbeat
        self._pause = math.inf
        self._end = math.inf if limits.max_duration is None else start + limits.max_duration
        self._ending = False
        self._draw()

    def check(self, now: float, activity: Activity) -> tuple[Due, float]:
        """Return what is due now, and the time at which to look again.

        Each thing is returned once per occasion, but `STALLED` for as long as it lasts.
        """
        due = Due.NOTHING
        if activity.sending_since is not None:
            stalled_at = activity.sending_since + self._limits.stall_timeout
            if now >= stalled_at:
                return Due.STALLED, math.inf
            beat_at = now + self._pause  # a write is under way: there is no silence
        else:
            # A write that begins right after this look is looked at in time to end it.
            stalled_at = now + self._limits.stall_timeout
            beat_at = activity.last_write + self._pause
            if now >= beat_at:
                due = Due.HEARTBEAT
                self._draw()
                beat_at = now + self._pause
        if now >= self._end:
            if self._ending:
                return Due.STALLED, math.inf
            # What is queued is still written, but a reader that is steady and very slow must
            # not make an hour of it.
            self._ending = True
            self._end = now + self._limits.stall_timeout
            due = Due.MAX_DURATION
        return due, min(stalled_at, beat_at, self._end)

    def bound(self, due: Due) -> str:
        """Return which bound it is that has come due, for the report."""
        if due is Due.MAX_DURATION:
            return f"max_duration {self._limits.max_duration:g} s"
        stall = f"stall_timeout {self._limits.stall_timeout:g} s"
        return f"{stall} after max_duration" if self._ending else stall

    def _draw(self) -> None:
        """Draw the length of the next silence.

        Never longer than asked for, because it was chosen to stay below some proxy's idle
        timeout; up to a fifth shorter, so that a thousand streams which fell silent
        together do not beat together.
        """
        if self._heartbeat is not None:
            self._pause = self._heartbeat * chance.uniform(0.8, 1.0)
