"""Keep a producer at a rate, by the clock.

To sleep `1 / rate` after each item would be too slow, by the time that the item takes. Here each
item has a due time. But a producer that was held up does not catch up with all of it, because a
client that reads again would get a burst.
"""

from __future__ import annotations

import trio

CATCH_UP = 0.05
"""Seconds of delay that are made up for. More is forgotten."""


class Rate:
    """Lets `rate` items a second through; None for no limit."""

    def __init__(self, rate: float | None) -> None:
        self._step = 0.0 if rate is None else 1 / rate
        self._due = trio.current_time()

    async def wait(self) -> None:
        """**Wait** until the next item is due. If it is due already, pass no checkpoint."""
        if not self._step:
            return
        now = trio.current_time()
        self._due = max(self._due + self._step, now - CATCH_UP)
        if self._due > now:
            await trio.sleep_until(self._due)
