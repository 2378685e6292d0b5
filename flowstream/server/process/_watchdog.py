"""The watchdog: decide when a worker hangs, and what the log says about it.

A worker's event loop sends one byte, its beat, each `beat_interval`. The supervisor counts how long
no beat has come. Code that blocks the loop also stops every stream of the worker, its heartbeats
and its shutdown, and nothing inside the worker can end that.

The default of 30 s is gunicorn's ``--timeout``; Puma's ``worker_timeout`` is 60 s. uvicorn's
``--timeout-worker-healthcheck`` is 5 s, but a thread answers it: it finds a stopped process, and
misses a blocked loop.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

BEAT = b"."
"""What a worker's event loop writes to its supervisor while it runs."""

STACK_LIMIT = 1 << 16
"""Bytes that are kept of a dying worker's stacks: enough for some hundred threads."""

_STOPPED = "It did not answer SIGABRT, so there is no stack: it may have been stopped (SIGSTOP)."


def beat_interval(worker_timeout: float) -> float:
    """Return the seconds between two beats, and between two checks by the supervisor."""
    return min(1.0, worker_timeout / 10)


class Silence:
    """Counts how long a worker has been silent.

    It counts only time in which the supervisor ran. After both were stopped, or the machine was
    suspended, the worker gets time again to send a beat.

    Args:
        bound: seconds of silence after which the worker hangs.
        now: the time on the supervisor's clock.
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
        """Return whether the silence is too long. Call this each `beat_interval`."""
        # A call may come late on a busy machine. If it is later still, the supervisor was stopped.
        self.seconds += min(now - self._looked, 2 * self._interval)
        self._looked = now
        # A beat may have been due just before the silence began.
        return self.seconds > self._bound + self._interval


def is_traced(pid: int) -> bool:
    """Return whether a debugger or tracer is attached to the process; False if that is unknown."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        return re.search(r"^TracerPid:\s+[1-9]", status, re.MULTILINE) is not None
    return False


def told(worker: str, seconds: float, dump: str) -> str:
    """Return the log's text about a worker that was killed, with its stack.

    Args:
        worker: the worker's name.
        seconds: how long it was silent.
        dump: the output of `faulthandler`, which may be empty.
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
    """Return the stacks in the output of `faulthandler`, with the main thread's first."""
    blocks = re.split(r"\n\s*\n", dump)
    found = [block.strip() for block in blocks if re.match(r"\s*(Current thread|Thread) ", block)]
    return "\n".join(sorted(found, key=lambda block: not block.startswith("Current")))
