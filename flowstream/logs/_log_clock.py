"""The time of a log: it never goes back, and no change of the machine's clock moves it.

Ages of events are counted on the time since the machine booted, which all processes of a machine
share. The log stores what to add to it (`anchor`) with the boot that this is for. After the next
boot the log goes on from the machine's date, or from its own last time if that is later. So a wrong
date never makes an old event young, and never lets all events expire at once while the machine
runs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flowstream._clock import chance, clock

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Return what tells this boot of the machine from others; new at each call if there is none."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return chance.token_hex(16)


class LogClock:
    """The clocks that a log of this machine is kept with. A test passes others.

    Attributes:
        boot: the id of this boot.
        since_boot: returns seconds that pass at the same rate for all processes of this boot.
        wall: returns seconds since 1970, which somebody may set.
    """

    __slots__ = ("boot", "since_boot", "wall")

    def __init__(
        self,
        boot: str | None = None,
        since_boot: Callable[[], float] | None = None,
        wall: Callable[[], float] | None = None,
    ) -> None:
        self.boot = boot_id() if boot is None else boot
        self.since_boot = since_boot or clock.since_boot
        self.wall = wall or clock.wall_time

    def anchor(self, newest: float) -> float:
        """Return the anchor for this boot, of a log whose newest event is of `newest`."""
        return max(self.wall(), newest) - self.since_boot()
