"""The watchdog: when a worker counts as hung, and what the log says about it.

A worker's event loop sends a byte, its beat, each `beat_interval`. Its supervisor counts how long
none came. Code that blocks the loop also stops every stream of the worker, its heartbeats and its
shutdown, and nothing inside the worker can end that.

The default is gunicorn's ``--timeout`` of 30 s; Puma's ``worker_timeout`` has 60. uvicorn's
``--timeout-worker-healthcheck`` has 5 s, but is answered by a thread, so that it finds a process
that is stopped and no loop that is blocked.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

BEAT = b"."
"""What a worker's event loop writes to its supervisor while it runs."""

STACK_LIMIT = 1 << 16
"""Bytes that are kept of the stacks of a worker that ends: some hundred threads."""

_STOPPED = "It did not answer SIGABRT, so there is no stack: it may have been stopped (SIGSTOP)."


def beat_interval(worker_timeout: float) -> float:
    """Return the seconds between two beats, and between two looks of the supervisor."""
    return min(1.0, worker_timeout / 10)


class Silence:
    """How long a worker has been silent.

    Only what its supervisor was awake for is counted. When both were stopped, or the machine was
    suspended, a worker has its time again to say that it is there.

    Args:
        bound: seconds of silence after which it counts as hung.
        now: the supervisor's clock.
    """

    def __init__(self, bound: float, now: float) -> None:
        self._bound = bound
        self._interval = beat_interval(bound)
        self._looked = now
        self.seconds = 0.0

    def end(self) -> None:
        """Note a beat."""
        self.seconds = 0.0

    def look(self, now: float) -> bool:
        """Return whether it has lasted too long. To be asked each `beat_interval`."""
        # One look may come late on a busy machine; more than that is the supervisor's own sleep.
        self.seconds += min(now - self._looked, 2 * self._interval)
        self._looked = now
        # A beat may have been due just before the silence began.
        return self.seconds > self._bound + self._interval


def is_traced(pid: int) -> bool:
    """Return whether a debugger or tracer holds the process. False where that can't be told."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        return re.search(r"^TracerPid:\s+[1-9]", status, re.MULTILINE) is not None
    return False


def told(worker: str, seconds: float, dump: str) -> str:
    """Return what the log says of a worker that was killed, with its stack.

    Args:
        worker: what it is called.
        seconds: how long it has been silent.
        dump: what `faulthandler` has written, if anything.
    """
    stack = stacks(dump)
    return (
        f"{worker} is killed: its event loop has not run for {seconds:.1f} s (worker_timeout). "
        + (
            f"Look for code that blocks it, at the top of the first stack:\n{stack}"
            if stack
            else _STOPPED
        )
    )


def stacks(dump: str) -> str:
    """Return the stacks in what `faulthandler` has written: that of the main thread first."""
    blocks = re.split(r"\n\s*\n", dump)
    found = [block.strip() for block in blocks if re.match(r"\s*(Current thread|Thread) ", block)]
    return "\n".join(sorted(found, key=lambda block: not block.startswith("Current")))
