"""What `Runs` was given for runs in a log."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from flowstream.abc import Log
from flowstream.limits import Replay, check_positive
from flowstream.runs._lost_run import Resume

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class LogRunsOptions:
    """See `Runs` for each."""

    name: str
    """Tells these runs from others in the log."""
    grace: float
    """Seconds without a reader; infinity for as long as it takes."""
    replay: Replay
    """What is kept of each."""
    max_running: int
    """Runs of a worker at a time."""
    keep: float
    """Seconds that a run is kept when it is over."""
    cleanup_timeout: float
    """Seconds for a producer to clean up."""
    lease: float
    """Seconds after which a worker counts as gone."""
    resume: Resume | None
    """Makes a source that goes on with a run whose worker is gone; None to end it."""

    @property
    def prefix(self) -> str:
        """What the names of their topics begin with."""
        return f"run:{self.name}:"


def check_log_options(name: str, log: Any, lease: float, on_owner_lost: Any) -> None:
    """Check what `Runs` was given for a log.

    Raises:
        TypeError, ValueError: an argument is wrong; the message says what to write.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            "name must have up to 64 letters, digits, -, _ and ., such as 'chats', not "
            f"{name[:100]!r}"
        )
    if log is not None and not isinstance(log, Log):
        raise TypeError(
            "log must be a log such as SQLiteLog('events.db') that the app has open, too, not "
            f"{type(log).__name__}"
        )
    check_positive("lease", lease, unit="seconds")
    if lease == math.inf:
        raise ValueError("lease must be finite: a run would outlive its worker for ever")
    if on_owner_lost != "close" and not callable(on_owner_lost):
        raise TypeError(f"on_owner_lost must be 'close' or a function, not {on_owner_lost!r}")
