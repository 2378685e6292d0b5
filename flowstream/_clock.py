"""Time and chance: the one place that flowstream takes them from.

What a stream writes depends on its source and its client, on the time, and on chance: the ids of
its events, and the jitter of heartbeats, retries and reconnects. Everything outside the server and
the demo asks `clock` for the one and `chance` for the other. So a test can put a simulation in
their place, and the same seed gives the same bytes (`flowstream.testing.simulated`).

Trio's clock is handed to `trio.run` and is asked for here only. Trio itself is imported when it
is asked for the first time: encoders, which have no I/O, want a date and an id at the most.
"""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any


class Clock:
    """The clocks. Each is a function without arguments, and is looked up when it is needed."""

    __slots__ = ("current_time", "file_time_ns", "monotonic", "perf_counter", "wall_time")

    current_time: Callable[[], float]
    """Seconds on the clock of the Trio run: for deadlines and durations."""
    perf_counter: Callable[[], float]
    """Seconds of real time: for how long our own code keeps the event loop."""
    monotonic: Callable[[], float]
    """Seconds of real time: for a thread that waits for a database. A simulation leaves it
    as it is, for the thread would never end."""
    wall_time: Callable[[], float]
    """Seconds since 1970 (UTC): for dates that people read."""
    file_time_ns: Callable[[], int]
    """Nanoseconds since 1970, to be compared with the times of files. A simulation leaves it
    as it is, for the files have the machine's."""

    def __init__(self) -> None:
        self.perf_counter = time.perf_counter
        self.monotonic = time.monotonic
        self.wall_time = time.time
        self.file_time_ns = time.time_ns

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # Called for what is not set: once, for Trio's clock.
            if name != "current_time":
                raise AttributeError(f"there is no clock {name!r}", name=name, obj=self)
            import trio

            self.current_time = trio.current_time
            return trio.current_time


class Chance:
    """What is left to chance. Each is a function, and is looked up when it is needed."""

    __slots__ = ("token_bytes", "uniform")

    uniform: Callable[[float, float], float]
    """Draws a number between two others, evenly."""
    token_bytes: Callable[[int], bytes]
    """Draws so many bytes; nobody can guess them."""

    def __init__(self) -> None:
        self.uniform = random.uniform
        self.token_bytes = os.urandom

    def token_hex(self, size: int) -> str:
        """Draw so many bytes, written in twice as many hexadecimal digits."""
        return self.token_bytes(size).hex()

    def uuid4(self) -> uuid.UUID:
        """Draw a UUID (RFC 9562, version 4)."""
        return uuid.UUID(bytes=self.token_bytes(16), version=4)


clock = Clock()
chance = Chance()

_SIMULATED_DAY = 946684800.0  # 2000-01-01T00:00:00Z


@contextmanager
def simulation(seed: int) -> Iterator[None]:
    """Put a simulation in the place of `clock` and `chance`, in this process, and take it away.

    All that is left to chance follows from `seed`. Our own code takes no time, and Trio's clock,
    which `trio.run` is handed, counts from the first day of 2000. What is made in the simulation
    is to be used in it.
    """
    dice = random.Random(seed)
    machine = clock.perf_counter, clock.wall_time, chance.uniform, chance.token_bytes
    clock.perf_counter, clock.wall_time = _no_time, _simulated_wall_time
    chance.uniform, chance.token_bytes = dice.uniform, dice.randbytes
    try:
        yield
    finally:
        clock.perf_counter, clock.wall_time, chance.uniform, chance.token_bytes = machine


def _no_time() -> float:
    return 0.0


def _simulated_wall_time() -> float:
    try:
        return _SIMULATED_DAY + clock.current_time()
    except RuntimeError:  # outside a Trio run
        return _SIMULATED_DAY
