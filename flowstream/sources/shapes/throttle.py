"""throttle: limit the items per second. Nothing is dropped: the producer waits.

It uses the generic cell rate algorithm (GCRA; ITU-T I.371). That keeps one number, the time at
which the bucket would be empty again, and no bucket that must be filled. Each item gets its turn
when it arrives, so tasks that send at the same time go in the order of arrival.
"""

from __future__ import annotations

import math
from typing import Any

import trio

from flowstream._clock import clock
from flowstream.buffer._outlet import Outlet
from flowstream.limits import check_count, check_positive
from flowstream.sources._relay import Relay
from flowstream.sources._source import Source
from flowstream.sources._source_like import SourceLike
from flowstream.sources.shapes._wrapper import Wrapper, wrap

__all__ = ["throttle"]


def throttle(source: SourceLike, *, per_second: float, burst: int = 1) -> Source:
    """Return `source`, limited to `per_second` items a second on average.

    **Emits** each item when its turn has come. Until then the producer **waits** in its ``send``.
    **Ends** with `source`, and raises what `source` raises.

    Args:
        source: what `stream` takes, except a topic or a run.
        per_second: items a second, more than 0; ``0.1`` is one every ten seconds.
        burst: how many may go at once after a pause, 1 or more.

    Raises:
        SourceError: `source` is not a source of one client.
        TypeError, ValueError: a number is out of range.
    """
    check_positive("per_second", per_second, unit="items a second")
    check_count("burst", burst, unit="items")
    return wrap(source, "throttle", lambda inner: _Throttled(inner, 1 / per_second, burst))


class _Throttled(Wrapper):
    def __init__(self, inner: Source, interval: float, burst: int) -> None:
        super().__init__(inner, alike=True)
        self._interval = interval
        self._tolerance = (burst - 1) * interval

    async def run(self, out: Outlet) -> None:
        """Run the inner source, and hold each item until its turn."""
        turns = _Turns(self._interval, self._tolerance)

        async def send(item: Any) -> None:
            at = turns.take(clock.current_time())
            if at > clock.current_time():
                await trio.sleep_until(at)
            await out.send(item)

        def send_nowait(item: Any) -> None:
            if not turns.is_free(clock.current_time()):
                raise trio.WouldBlock
            out.send_nowait(item)
            turns.take(clock.current_time())

        await self._inner.run(Relay(send, out.statistics, send_nowait, out.reject))


class _Turns:
    """When the next item may go; times in seconds."""

    def __init__(self, interval: float, tolerance: float) -> None:
        self._interval = interval
        self._tolerance = tolerance
        self._empty_at = -math.inf  # GCRA's theoretical arrival time: the bucket is empty then

    def is_free(self, now: float) -> bool:
        """Return whether an item may go at once."""
        return now >= self._empty_at - self._tolerance

    def take(self, now: float) -> float:
        """Take the next turn; return when it is."""
        at = max(now, self._empty_at - self._tolerance)
        self._empty_at = max(at, self._empty_at) + self._interval
        return at
