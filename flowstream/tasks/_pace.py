"""Pace: decide when a producer that never waits must let other tasks run.

It must after 64 items or 1 ms, whichever comes first. 64 items take some 50 µs. A slow producer may
hold the event loop for 1 ms, a twentieth of what a person notices.

A look at the clock costs 40 to 90 ns, a tenth of what an item costs in all. So while items come
quickly, look only after every sixteenth. If they then become slow, up to sixteen pass unnoticed.
"""

from __future__ import annotations

from flowstream._clock import clock

_BURST_ITEMS = 64
_BURST_SECONDS = 0.001
_STRIDE = 16
# Items are quick if a stride of them, each this long, still fits into a burst.
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
        """Begin a burst after a pause; return the count at which to look at the clock first."""
        self._last = clock.perf_counter()
        self._until = self._last + _BURST_SECONDS
        return _STRIDE if self._quick else 1
