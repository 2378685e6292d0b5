"""Simulated time and chance: the same seed, the same bytes.

Event ids, jitter and the order in which Trio runs its tasks differ from run to run. Inside
`simulated` they follow from a seed. So a test can compare a complete response, or repeat an order
of tasks that has failed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trio

from flowstream._clock import simulation

# Trio shuffles the tasks that are ready, so that nobody relies on their order. There is no public
# way to choose the order; pytest-trio sets the same two names for Hypothesis.
_DICE = "_r"
_IN_ORDER = "_ALLOW_DETERMINISTIC_SCHEDULING"


@contextmanager
def simulated(seed: int) -> Iterator[None]:
    """Make flowstream depend only on `seed` and on Trio's clock while the context is open.

    Ids, the jitter of heartbeats, retries and reconnects, and the order in which Trio runs tasks
    follow from `seed`. Code takes no time. Dates count from the first day of 2000. With
    `trio.testing.MockClock` two runs with the same seed write the same bytes. Make topics and
    responses inside the context, too. Threads, sockets, files and the app's own `random` are not
    simulated.

    It changes the whole process: use one at a time, and not while a server runs in another thread.

    Args:
        seed: any whole number.

    Raises:
        TypeError: `seed` is not a whole number.
        RuntimeError: this version of Trio cannot be told how to order its tasks.
    """
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise TypeError(f"seed must be a whole number, not {seed!r}")
    scheduler: Any = vars(trio)["_core"]._run
    if not (hasattr(scheduler, _DICE) and hasattr(scheduler, _IN_ORDER)):
        raise RuntimeError(f"Trio {trio.__version__} cannot be told how to order its tasks")
    dice = getattr(scheduler, _DICE)
    state, in_order = dice.getstate(), getattr(scheduler, _IN_ORDER)
    with simulation(seed):
        dice.seed(seed)
        setattr(scheduler, _IN_ORDER, True)
        try:
            yield
        finally:
            setattr(scheduler, _IN_ORDER, in_order)
            dice.setstate(state)
