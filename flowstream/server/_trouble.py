"""What goes wrong again and again, told in few lines: the first at once, then one in a while.

A server without descriptors fails to accept ten times a second. Each failure is the same, so
counting them says as much as a line for each.
"""

from __future__ import annotations

import math

EVERY = 10.0
"""Seconds between two lines at least."""

QUIET = 1.0
"""Seconds without a failure after which it is over. Who is short of descriptors has one now and
then, when a client leaves."""


class Trouble:
    """Counts failures, and says when there is something to tell."""

    def __init__(self) -> None:
        self._count = 0
        self._untold = 0
        self._first = self._last = 0.0
        self._due = -math.inf
        self._told = False
        self._works = False

    @property
    def is_on(self) -> bool:
        """Whether there were failures that are not over."""
        return self._count > 0

    def fail(self, now: float) -> int:
        """Note a failure; return how many are to be told of now, or 0."""
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
        """Note that it works."""
        self._works = True

    def end(self, now: float) -> tuple[int, float] | None:
        """Return how often it failed and for how long, once it is over and that is to be told."""
        if not (self._works and self._count and now - self._last >= QUIET):
            return None
        found = self._count, self._last - self._first
        told, self._told = self._told, False
        self._count = self._untold = 0
        return found if told else None


def times(count: int) -> str:
    """Return what a line says of so many failures, of which it tells for all."""
    return f" ({count} times since the last such line)" if count > 1 else ""
