"""Retry: how long to wait before something that failed is tried again.

Exponential back-off with full jitter: each wait is drawn evenly from 0 to a ceiling, which
doubles with each failure in a row. Without the jitter, servers that lost the same database at the
same moment would all come back to it at the same moment, again and again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from flowstream._clock import chance
from flowstream.limits import check_positive


@dataclass(frozen=True, slots=True)
class Retry:
    """How long to wait before each new try.

    Raises:
        TypeError, ValueError: a value is not what is said below.
    """

    first: float = 1.0
    """Longest first wait, in seconds. Each wait is a random part of its maximum, which doubles
    with each failure in a row."""
    longest: float = 60.0
    """Longest wait, in seconds. A try that lasted at least this long has worked: the failure
    after it counts as the first."""

    def __post_init__(self) -> None:
        for name in ("first", "longest"):
            check_positive(name, getattr(self, name), unit="seconds")
            if getattr(self, name) == math.inf:
                raise ValueError(f"{name} must be finite: nothing would ever be tried again")
        if self.longest < self.first:
            raise ValueError(
                f"longest must be at least first, {self.first} seconds, not {self.longest}"
            )


class Backoff:
    """The failures in a row of one thing, and the waits between them.

    Attributes:
        failures: how many there were in a row.
    """

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self._ceiling = retry.first
        self.failures = 0

    def fail(self, lasted: float) -> float:
        """Count a failure of a try that lasted so many seconds; return the seconds to wait."""
        if lasted >= self._retry.longest:
            self.failures, self._ceiling = 0, self._retry.first
        wait = chance.uniform(0, self._ceiling)
        self.failures += 1
        self._ceiling = min(2 * self._ceiling, self._retry.longest)
        return wait
