"""Time and chance: the one place where flowstream gets them.

The bytes of a stream depend on its source and its client, on the time, and on chance: the ids of
its events, and the jitter of heartbeats, retries and reconnects. All code outside the server and
the demo asks `clock` for the time, `chance` for random numbers and `stamps` for both together. So a
test can replace all of them by a simulation, and the same seed gives the same bytes
(`flowstream.testing.simulated`).

Only this module asks for Trio's clock, which `trio.run` is given. It imports Trio when that clock
is first needed, because encoders have no I/O and need a date and an id at most.
"""

from __future__ import annotations

import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any


class Clock:
    """The clocks. Each is a function without arguments. Look it up at each use."""

    __slots__ = (
        "current_time",
        "file_time_ns",
        "monotonic",
        "perf_counter",
        "since_boot",
        "wall_time",
    )

    current_time: Callable[[], float]
    """Seconds on the clock of the Trio run: for deadlines and durations."""
    perf_counter: Callable[[], float]
    """Seconds of real time: to measure how long our own code keeps the event loop."""
    monotonic: Callable[[], float]
    """Seconds of real time: for a thread that waits for a database. A simulation does not replace
    it, because the thread would never end."""
    since_boot: Callable[[], float]
    """Seconds since the machine booted, those asleep included where that is known. They are the
    same for all processes. A simulation leaves it as it is, for files bear it."""
    wall_time: Callable[[], float]
    """Seconds since 1970 (UTC): for dates that people read."""
    file_time_ns: Callable[[], int]
    """Nanoseconds since 1970: to compare with the times of files. A simulation does not replace
    it, because files have the machine's time."""

    def __init__(self) -> None:
        self.perf_counter = time.perf_counter
        self.monotonic = time.monotonic
        self.since_boot = _since_boot
        self.wall_time = time.time
        self.file_time_ns = time.time_ns

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # Python calls this for an attribute that is not set: once, for Trio's clock.
            if name != "current_time":
                raise AttributeError(f"there is no clock {name!r}", name=name, obj=self)
            import trio

            self.current_time = trio.current_time
            return trio.current_time


class Chance:
    """Random values. Each attribute is a function. Look it up at each use."""

    __slots__ = ("token_bytes", "uniform")

    uniform: Callable[[float, float], float]
    """Draws a number between two others, evenly."""
    token_bytes: Callable[[int], bytes]
    """Draws that many bytes, which nobody can guess."""

    def __init__(self) -> None:
        self.uniform = random.uniform
        self.token_bytes = os.urandom

    def token_hex(self, size: int) -> str:
        """Draw `size` bytes, written as twice as many hexadecimal digits."""
        return self.token_bytes(size).hex()

    def uuid4(self) -> uuid.UUID:
        """Draw a UUID (RFC 9562, version 4)."""
        return uuid.UUID(bytes=self.token_bytes(16), version=4)


class Stamps:
    """Numbers that grow with time: seconds since 1970, and 20 random bits behind them.

    Each is larger than the last one of this process, even if the clock is set back.
    """

    __slots__ = ("_lock", "last")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.last: int = 0

    def draw(self) -> int:
        """Return the next one, of at most 55 bits."""
        seconds = min(max(int(clock.wall_time()), 0), _LAST_SECOND)
        drawn = seconds << 20 | int.from_bytes(chance.token_bytes(3)) >> 4
        with self._lock:
            self.last = drawn = max(drawn, self.last + 1)
        return drawn


_LAST_SECOND = (1 << 35) - 2  # in the year 3058


def _since_boot() -> float:
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


clock = Clock()
chance = Chance()
stamps = Stamps()

_SIMULATED_DAY = 946684800.0  # 2000-01-01T00:00:00Z


@contextmanager
def simulation(seed: int) -> Iterator[None]:
    """Replace `clock` and `chance` by a simulation, in this process, while the context is open.

    All random values follow from `seed`. Our own code takes no time. Dates begin on the first day
    of 2000 and follow the clock that `trio.run` is given. Stamps begin anew. Use what
    you make in the simulation only there.
    """
    dice = random.Random(seed)
    machine = clock.perf_counter, clock.wall_time, chance.uniform, chance.token_bytes
    stamp, stamps.last = stamps.last, 0
    clock.perf_counter, clock.wall_time = _no_time, _simulated_wall_time
    chance.uniform, chance.token_bytes = dice.uniform, dice.randbytes
    try:
        yield
    finally:
        clock.perf_counter, clock.wall_time, chance.uniform, chance.token_bytes = machine
        stamps.last = stamp


def _no_time() -> float:
    return 0.0


def _simulated_wall_time() -> float:
    try:
        return _SIMULATED_DAY + clock.current_time()
    except RuntimeError:  # outside a Trio run
        return _SIMULATED_DAY
