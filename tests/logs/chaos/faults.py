"""What is done to the processes of a run, and to their machine."""

from __future__ import annotations

import math
import os
import random
import resource
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from . import broker_faults
from .broker_faults import Fault

if TYPE_CHECKING:
    from .run import Run, Seat

# Writes beyond this many bytes of a file fail while there is a quota. An index of the log's WAL is
# no longer than that.
_QUOTA = 1 << 17

# Seconds by which the date of the machine is set.
_JUMPS = (-5 * 365 * 86400.0, -86400.0, -3600.0, 3600.0, 30 * 86400.0, 5 * 365 * 86400.0)


def _running(seats: list[Seat], dice: random.Random) -> Seat | None:
    """Draw a seat whose process is there."""
    there = [seat for seat in seats if seat.process is not None and not seat.done]
    return dice.choice(there) if there else None


async def kill_a_worker(run: Run, dice: random.Random) -> None:
    """Kill -9 a worker, or its supervisor."""
    seat = _running(run.workers, dice)
    child = dice.random() < 0.5
    if seat is None or seat.process is None:
        return
    if seat.supervised and child and (children := seat.process.children):
        run.count("kills")
        _signal(children[0], signal.SIGKILL)
    else:
        run.kill(seat)


async def kill_a_publisher(run: Run, dice: random.Random) -> None:
    """Kill -9 a publisher. The next life publishes again what has an idempotency key."""
    if seat := _running(run.publishers, dice):
        run.kill(seat)


async def freeze_a_worker(run: Run, dice: random.Random) -> None:
    await _freeze(run, run.workers, dice)


async def freeze_a_publisher(run: Run, dice: random.Random) -> None:
    """Freeze a publisher, wherever it is: it may have the write lock."""
    await _freeze(run, run.publishers, dice)


async def _freeze(run: Run, seats: list[Seat], dice: random.Random) -> None:
    async with run.busy():
        seat = _running(seats, dice)
        if seat is None or seat.process is None:
            return
        process = seat.process
        pids = process.children if seat.supervised else [process.pid]
        run.count("freezes")
        try:
            for pid in pids:
                _signal(pid, signal.SIGSTOP)
            await trio.sleep(dice.uniform(0.3, 2.0))
        finally:
            if not process.over.is_set():
                for pid in pids:
                    _signal(pid, signal.SIGCONT)


async def trim(run: Run, dice: random.Random) -> None:
    """Have a topic forget nearly all that it keeps, while clients read."""
    topic = dice.choice(("keyed", "small"))
    run.count("trims")
    await run.hand("trim", topic, str(dice.randrange(0, 20)))


async def set_the_clock(run: Run, dice: random.Random) -> None:
    """Set the machine's date, as the log's processes see it."""
    run.count("dates set")
    run.clock.set(wall=dice.choice(_JUMPS))


async def fill_the_disk(run: Run, dice: random.Random) -> None:
    """Leave no room on the log's disk, for a while."""
    if not run.disk.mounted:
        await set_a_quota(run, dice)
        return
    run.count("full disks")
    async with run.trouble():
        try:
            await trio.to_thread.run_sync(run.disk.fill)
            await trio.sleep(dice.uniform(0.3, 1.5))
        finally:
            run.disk.empty()


async def set_a_quota(run: Run, dice: random.Random) -> None:
    """Have writes of all processes fail, for a while."""
    run.count("quotas")
    limited: list[int] = []
    async with run.trouble():
        try:
            for seat in run.workers + run.publishers:
                if seat.process is not None:
                    for pid in (seat.process.pid, *seat.process.children):
                        limited += _limit(pid, _QUOTA)
            await trio.sleep(dice.uniform(0.3, 1.5))
        finally:
            for pid in limited:
                _limit(pid, math.inf)


def _limit(pid: int, size: float) -> list[int]:
    soft = resource.RLIM_INFINITY if size == math.inf else int(size)
    with suppress(ProcessLookupError):
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))
        return [pid]
    return []


async def restart_a_worker(run: Run, dice: random.Random) -> None:
    """End a worker as a deploy does; the next one may be of another release."""
    process = await run.one_ready(run.workers, dice)
    run.count("restarts")
    process.expected = True
    process.send(signal.SIGTERM)


async def hand_over(run: Run, dice: random.Random) -> None:
    """Have a supervised worker hand over to a new one, which takes its port."""
    process = await run.one_ready([seat for seat in run.workers if seat.supervised], dice)
    run.count("hand-overs")
    process.send(signal.SIGHUP)


async def reboot(run: Run, dice: random.Random) -> None:
    """Kill everything at once, and come back in another boot, with another date."""
    run.count("reboots")
    await run.power_cut(wall=dice.choice(_JUMPS), boot=f"boot {dice.randrange(1 << 30)}")


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


BY_NAME: dict[str, Fault] = {
    "kill a worker": kill_a_worker,
    "kill a publisher": kill_a_publisher,
    "freeze a worker": freeze_a_worker,
    "freeze a publisher": freeze_a_publisher,
    "trim": trim,
    "set the clock": set_the_clock,
    "fill the disk": fill_the_disk,
    "set a quota": set_a_quota,
    "restart a worker": restart_a_worker,
    "hand over": hand_over,
    "reboot": reboot,
    **broker_faults.BY_NAME,
}
"""See `plan.FAULTS`."""
