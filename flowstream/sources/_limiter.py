"""Limiters of worker threads: one of a kind in each Trio run, made when it is first asked for."""

from __future__ import annotations

import trio

_TOTAL_THREADS = 40


def limiter_of(held: trio.lowlevel.RunVar[trio.CapacityLimiter]) -> trio.CapacityLimiter:
    """Return the limiter that `held` has in this Trio run; a new one of 40 if it has none."""
    try:
        return held.get()
    except LookupError:
        limiter = trio.CapacityLimiter(_TOTAL_THREADS)
        held.set(limiter)
        return limiter
