"""Log failures that repeat in few lines: the first at once, then one now and then.

A server without free descriptors fails to accept ten times a second. All the failures are the same,
so their number says as much as a line for each.
"""

from __future__ import annotations

import math

EVERY = 10.0
"""Seconds between two lines, at least."""

QUIET = 1.0
"""Seconds without a failure after which the trouble is over. One success is not enough: a server
that is short of descriptors has a free one whenever a client leaves."""


class Trouble:
    """Counts failures, and says when to log a line."""

    def __init__(self) -> None:
        self._count = 0
        self._untold = 0
        self._first = self._last = 0.0
        self._due = -math.inf
        self._told = False
        self._works = False

    @property
    def is_on(self) -> bool:
        """Whether there were failures, and the trouble is not over."""
        return self._count > 0

    def fail(self, now: float) -> int:
        """Note a failure. Return how many failures to log now, or 0 for none."""
        if not self._count:
            self._first = now
        self._last = now
        self._works = False
        self._count += 1
        self._untold += 1
        if now < self._due:
            return 0
        untold, self._untold = self._untold, 0
        self._due = now + EVERY
        self._told = True
        return untold

    def work(self) -> None:
        """Note a success."""
        self._works = True

    def end(self, now: float) -> tuple[int, float] | None:
        """Return the number of failures and their seconds, if the end is to be logged now."""
        if not (self._works and self._count and now - self._last >= QUIET):
            return None
        found = self._count, self._last - self._first
        told, self._told = self._told, False
        self._count = self._untold = 0
        return found if told else None


def times(count: int) -> str:
    """Return what to add to a line that stands for `count` failures."""
    return f" ({count} times since the last such line)" if count > 1 else ""
