"""How this machine is doing: CPU, memory and load, as a live feed of real numbers.

On Linux they are read from `/proc`, which needs no dependency. Reading it in the event loop
is right for once: the kernel makes these files up in memory in some ten microseconds, less
than a change of threads. Where there is no `/proc`, what cannot be known is None.
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

    A client that is slow gets fewer and still fresh readings: each is taken when it is
    asked for, and the time that was waited for the client is not made up for.
    """
    before = cpu_times(proc)
    cpu: float | None = None  # a share of time needs two readings
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
    # user nice system idle iowait irq softirq steal; guest time is in user already.
    ticks = [int(field) for field in first.split()[1:9]]
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, sum(ticks)


def cpu_percent(before: tuple[int, int] | None, now: tuple[int, int] | None) -> float | None:
    """Return how busy the CPUs were between two readings, from 0 to 100."""
    if before is None or now is None or now[1] <= before[1]:
        return None
    # Clamped: the kernel lets idle and iowait run backwards by a tick now and then.
    share = (now[0] - before[0]) / (now[1] - before[1])
    return round(100 * min(1.0, max(0.0, share)), 1)


def memory(proc: Path = PROC) -> tuple[int | None, int | None]:
    """Return the bytes of memory that are in use, and all there are."""
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
