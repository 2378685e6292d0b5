"""Idempotency keys that are kept in memory: what was published with each, and until when.

An app that is not sure whether a publish succeeded calls again with the same key. The second call
then gets the result of the first, and publishes nothing.
"""

from __future__ import annotations

import heapq
import math
from typing import Generic, TypeVar

from flowstream._errors import LogFullError
from flowstream.limits import check_positive

# Keys of one topic. More would grow for as long as the app says, in memory.
MEMORY_KEYS = 100_000

_Result = TypeVar("_Result")


class IdempotencyKeys(Generic[_Result]):
    """The keys of one topic, each with a result. Time is an argument, in seconds of any clock."""

    __slots__ = ("_ends", "_results")

    def __init__(self) -> None:
        self._results: dict[str, _Result] = {}
        self._ends: list[tuple[float, str]] = []  # a heap: the key that ends next comes first

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._results)

    def find(self, key: str, now: float) -> _Result | None:
        """Return the result for `key`, or None if it is not known, or no longer."""
        self.trim(now)
        return self._results.get(key)

    def remember(self, key: str, result: _Result, until: float) -> None:
        """Remember the result for `key`, which is not known yet, until then."""
        self._results[key] = result
        heapq.heappush(self._ends, (until, key))

    def check_room(self, topic: str, now: float, more: int = 1) -> None:
        """Raise unless there is room for `more` keys.

        Args:
            topic: what has the keys, for the error.
            now: the time.
            more: how many.

        Raises:
            LogFullError: there is none.
        """
        self.trim(now)
        if len(self._results) + more > MEMORY_KEYS:
            raise LogFullError(
                f"{topic} has {len(self._results):,} idempotency keys in memory: give events a "
                "shorter idempotency_seconds"
            )

    def trim(self, now: float) -> None:
        """Forget the keys whose time is over."""
        ends = self._ends
        while ends and ends[0][0] <= now:
            del self._results[heapq.heappop(ends)[1]]


def check_seconds(seconds: float) -> None:
    """Raise unless a key can be remembered for so long."""
    check_positive("idempotency_seconds", seconds, unit="seconds")
    if seconds == math.inf:
        raise ValueError(
            "idempotency_seconds must be finite, because the log remembers the key as long"
        )
