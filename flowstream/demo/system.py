"""How this machine is doing: CPU, memory and load, as a live feed of real numbers.

On Linux they are read from `/proc`, which needs no dependency. The event loop may read these files
itself: the kernel makes them in memory in some ten microseconds, less than a change of threads.
Without `/proc`, numbers that cannot be known are None.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import trio

PROC = Path("/proc")


async def system(
    interval: float = 1.0, *, proc: Path = PROC
) -> AsyncGenerator[dict[str, object], None]:
    """Yield the state of this machine at once and then every `interval` seconds, for ever.

    A slow client gets fewer readings, but fresh ones: each is taken when the client has room for
    it, and missed ones are not made up for.
    """
    before = cpu_times(proc)
    cpu: float | None = None  # known after two readings
    while True:
        used, total = memory(proc)
        yield {
            "time": time.time(),
            "cpu": cpu,
            "cpus": os.cpu_count(),
            "memory_used": used,
            "memory_total": total,
            "load": load_average(),
        }
        await trio.sleep(interval)
        now = cpu_times(proc)
        cpu = cpu_percent(before, now)
        before = now


def cpu_times(proc: Path = PROC) -> tuple[int, int] | None:
    """Return the ticks that all CPUs were busy, and all their ticks, since boot."""
    try:
        first = (proc / "stat").read_text().split("\n", 1)[0]
    except OSError:
        return None
    # user nice system idle iowait irq softirq steal. Guest time is part of user.
    ticks = [int(field) for field in first.split()[1:9]]
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, sum(ticks)


def cpu_percent(before: tuple[int, int] | None, now: tuple[int, int] | None) -> float | None:
    """Return how busy the CPUs were between two readings, from 0 to 100."""
    if before is None or now is None or now[1] <= before[1]:
        return None
    # Clamped, because idle and iowait sometimes run backwards by a tick.
    share = (now[0] - before[0]) / (now[1] - before[1])
    return round(100 * min(1.0, max(0.0, share)), 1)


def memory(proc: Path = PROC) -> tuple[int | None, int | None]:
    """Return the bytes of memory that are in use, and the total."""
    try:
        lines = (proc / "meminfo").read_text().splitlines()
    except OSError:
        return None, None
    sizes = {
        name: int(rest.split()[0]) * 1024 for name, _, rest in (x.partition(":") for x in lines)
    }
    total = sizes["MemTotal"]
    return total - sizes["MemAvailable"], total


def load_average() -> list[float] | None:
    """Return the load of the last 1, 5 and 15 minutes."""
    try:
        return [round(value, 2) for value in os.getloadavg()]
    except OSError:
        return None


def resident_memory(proc: Path = PROC) -> int | None:
    """Return the bytes of memory that this process holds."""
    try:
        pages = int((proc / "self" / "statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
