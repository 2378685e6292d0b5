"""Decide when to look at a stream next, and what is due then. No I/O.

A stream has three deadlines (heartbeat, stall, longest duration) and is looked at when the earliest
comes. They cost the hot path nothing: the writer notes when a write begins and ends, and the
deadlines are computed from that when one comes due.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from flowstream._clock import chance
from flowstream.limits import Limits


class Due(enum.Enum):
    """What is due."""

    NOTHING = enum.auto()
    HEARTBEAT = enum.auto()
    STALLED = enum.auto()
    MAX_DURATION = enum.auto()


@dataclass(frozen=True, slots=True)
class Activity:
    """What the writer has noted, in seconds on one clock."""

    sending_since: float | None
    """When the current write began; None if there is none."""
    last_write: float
    """When the last write ended."""


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

        `STALLED` is returned for as long as it lasts, anything else once per occasion.
        """
        due = Due.NOTHING
        if activity.sending_since is not None:
            stalled_at = activity.sending_since + self._limits.stall_timeout
            if now >= stalled_at:
                return Due.STALLED, math.inf
            beat_at = now + self._pause  # during a write there is no silence
        else:
            # If a write begins right after this look, the next look comes in time to end it.
            stalled_at = now + self._limits.stall_timeout
            beat_at = activity.last_write + self._pause
            if now >= beat_at:
                due = Due.HEARTBEAT
                self._draw()
                beat_at = now + self._pause
        if now >= self._end:
            if self._ending:
                return Due.STALLED, math.inf
            # What is queued is still written, but a steady and very slow reader must not take an
            # hour for it.
            self._ending = True
            self._end = now + self._limits.stall_timeout
            due = Due.MAX_DURATION
        return due, min(stalled_at, beat_at, self._end)

    def bound(self, due: Due) -> str:
        """Return the name and value of the bound that is due, for the report."""
        if due is Due.MAX_DURATION:
            return f"max_duration {self._limits.max_duration:g} s"
        stall = f"stall_timeout {self._limits.stall_timeout:g} s"
        return f"{stall} after max_duration" if self._ending else stall

    def _draw(self) -> None:
        """Draw the length of the next silence: as asked for, or up to a fifth shorter.

        Shorter, so that a thousand streams that fell silent together do not send their heartbeats
        together. Never longer, because it was chosen to stay below some proxy's idle timeout.
        """
        if self._heartbeat is not None:
            self._pause = self._heartbeat * chance.uniform(0.8, 1.0)
