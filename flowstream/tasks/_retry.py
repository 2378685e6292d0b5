"""Retry: how long to wait before something that failed is tried again.

Exponential back-off with full jitter: each wait is a random number between 0 and a ceiling, which
doubles with each failure in a row. Without the jitter, servers that lost the same database at the
same moment would all come back at the same moment, again and again.
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
        TypeError, ValueError: a value is not as described below.
    """

    first: float = 1.0
    """Longest first wait, in seconds. Each wait is a random part of its maximum, which doubles
    with each failure in a row."""
    longest: float = 60.0
    """Longest wait of all, in seconds. A try that lasted at least this long counts as a success:
    the next failure counts as the first."""

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
        failures: the number of failures in a row.
    """

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self._ceiling = retry.first
        self.failures = 0

    def fail(self, lasted: float) -> float:
        """Count a failed try that `lasted` some seconds; return the seconds to wait."""
        if lasted >= self._retry.longest:
            self.failures, self._ceiling = 0, self._retry.first
        wait = chance.uniform(0, self._ceiling)
        self.failures += 1
        self._ceiling = min(2 * self._ceiling, self._retry.longest)
        return wait
