"""Stop a server's process on a signal, and end it at a deadline if it has not ended by itself.

::

    first signal ──► told ──► startup is cancelled, or the server shuts down in stages
        │                            │
        │                            └─► overdue: log what still runs, exit status 1
        └─► second signal ──► the kernel ends the process at once

Both must work while code blocks the event loop. So a handler takes the first signal, not a task,
and gives further signals back to the kernel. A thread watches the deadline.
"""

from __future__ import annotations

import _thread
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

import trio

from flowstream.server._connections import at_work
from flowstream.server._settings import ServerConfig
from flowstream.server.log._output import last_words

logger = logging.getLogger("flowstream.server")

# Seconds that a process may take beyond its own deadlines, to notice them and to exit.
_MARGIN = 1.0

# Seconds to wait for a reader of the last lines of the log, who may be gone.
_LAST_WORDS = 1.0

# How many requests the log names.
_NAMED = 10


def shutdown_bound(config: ServerConfig) -> float:
    """Return the seconds within which a server ends that was told to stop."""
    return config.lame_duck + config.graceful_timeout + config.shutdown_timeout + _MARGIN


class StopSignals:
    """Handles the signals that tell a process to end. A context manager, used inside Trio.

    Args:
        numbers: the signals.
        final: whether a second signal ends the process at once. In a worker it must not: systemd
            sends SIGTERM to every process of a unit, and the supervisor passes its own on, so a
            worker gets two for one stop.
        deadline: started by the first signal.
    """

    def __init__(
        self, numbers: Iterable[signal.Signals], deadline: Deadline, *, final: bool
    ) -> None:
        self._numbers = tuple(numbers)
        self._deadline = deadline
        self._final = final
        self._told = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        """Begin to handle the signals."""
        for number in self._numbers:
            self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *raised: object) -> None:
        """Restore the handlers from before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    async def wait(self) -> None:
        """**Wait** until the process is told to end."""
        await self._told.wait()

    def tell(self) -> None:
        """Tell the process to end, as a signal does. Works in any thread."""
        self._deadline.start()
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._told.set, idempotent=True)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._final:
            for each in self._numbers:
                signal.signal(each, signal.SIG_DFL)
        self.tell()


class Deadline:
    """The time by which a process must have ended, once it was told to.

    Args:
        bound: returns the seconds that the process has from then on.
        overdue: called in a thread when the time is up.
    """

    def __init__(self, bound: Callable[[], float], overdue: Callable[[], None]) -> None:
        self._bound = bound
        self._overdue = overdue
        self._met = threading.Event()
        self._started = False

    def start(self) -> None:
        """Start the clock. Does nothing the second time."""
        if not self._started:
            self._started = True
            # No `threading.Thread`, which takes locks: a signal's handler calls this, and the
            # code that it interrupts may hold them.
            _thread.start_new_thread(self._count, ())

    def met(self) -> None:
        """Note that the process has finished its work in time."""
        self._met.set()

    def _count(self) -> None:
        if not self._met.wait(self._bound()):
            self._overdue()


def end_the_process() -> None:
    """Log what the process still waits for, and end it with status 1, whatever other threads do."""
    said = threading.Event()

    def say() -> None:
        log_what_holds_on()
        logging.shutdown()
        last_words(_LAST_WORDS)
        said.set()

    _thread.start_new_thread(say, ())
    said.wait(_LAST_WORDS)
    os._exit(1)


def log_what_holds_on() -> None:
    """Log which requests a shutdown still waits for."""
    requests = at_work()
    named = "; ".join(requests[:_NAMED])
    more = f"; and {len(requests) - _NAMED} more" if len(requests) > _NAMED else ""
    logger.error(
        "shutdown: the process did not end in time and is killed; it waits for %s%s",
        named or "the app's startup or shutdown, or a thread of the app's",
        more,
    )
