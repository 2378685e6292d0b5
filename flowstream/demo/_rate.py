"""Pace: a producer's rate, kept against the clock instead of by sleeping in between.

Sleeping `1 / rate` after each item would be too slow by whatever the item cost. Here each
item has its due time; but a producer that was held up does not rush to catch up, or a client
that reads again would be met by a burst.
"""

from __future__ import annotations

import trio

CATCH_UP = 0.05
"""Seconds of delay that are made up for; what is more is forgotten."""


class Rate:
    """Lets `rate` items a second through; None for as many as there are."""

    def __init__(self, rate: float | None) -> None:
        self._step = 0.0 if rate is None else 1 / rate
        self._due = trio.current_time()

    async def wait(self) -> None:
        """Wait until the next item is due; no checkpoint if it is due already."""
        if not self._step:
            return
        now = trio.current_time()
        self._due = max(self._due + self._step, now - CATCH_UP)
        if self._due > now:
            await trio.sleep_until(self._due)
