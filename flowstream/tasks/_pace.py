"""Pace: when a producer that never waits has to let the other tasks run.

After 64 items or 1 ms, whichever is first. 64 items take some 50 µs; 1 ms is what a slow
producer may hold the loop for, a twentieth of what a person notices.

The clock is not looked at for each item: that costs 40 to 90 ns, a tenth of what an item
costs in all. While items come quickly it is looked at for every sixteenth, so that many may
pass before it is noticed that they have become slow.
"""

from __future__ import annotations

from flowstream._clock import clock

_BURST_ITEMS = 64
_BURST_SECONDS = 0.001
_STRIDE = 16
# Quick: a stride of such items, each as long as this, still fits into a burst.
_QUICK_SECONDS = _BURST_SECONDS / (_STRIDE + 2)


class Pace:
    """Tells one loop of sends when to pause. The loop counts its items itself."""

    __slots__ = ("_last", "_quick", "_until")

    def __init__(self) -> None:
        self._last = 0.0
        self._quick = False
        self._until = 0.0

    def next_look(self, count: int) -> int:
        """Look at the clock after `count` items since the last pause.

        Returns:
            The count at which to look again; 0 if it is time to let others run.
        """
        now = clock.perf_counter()
        if count >= _BURST_ITEMS:
            return 0
        if now >= self._until:
            self._quick = False
            return 0
        self._quick = now - self._last < _QUICK_SECONDS
        self._last = now
        return min(count + _STRIDE, _BURST_ITEMS) if self._quick else count + 1

    def resume(self) -> int:
        """Begin a burst after a pause; return the count at which to look first."""
        self._last = clock.perf_counter()
        self._until = self._last + _BURST_SECONDS
        return _STRIDE if self._quick else 1
