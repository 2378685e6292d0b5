"""Stopping: how a server's process hears that it is to end, and the bound by which it has ended.

::

    first signal ──► told ──► startup is cancelled, or the server shuts down in stages
        │                            │
        │                            └─► overdue: what holds on is logged, exit status 1
        └─► second signal ──► the kernel ends the process at once

Both must work while the event loop is stuck in code that blocks it. So the first signal is heard
by a handler and not by a task, and that handler gives the others back to the kernel. And the
bound is kept by a thread.
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

# What a process may take beyond its own deadlines: to notice, and to exit.
_MARGIN = 1.0

# How long the last words may take: nobody may read the log any more.
_LAST_WORDS = 1.0

# Requests that the log names.
_NAMED = 10


def shutdown_bound(config: ServerConfig) -> float:
    """Return the seconds after which a server that was told to stop has ended."""
    return config.lame_duck + config.graceful_timeout + config.shutdown_timeout + _MARGIN


class StopSignals:
    """Hears the signals that tell a process to end: a context manager, used inside Trio.

    Args:
        numbers: the signals.
        final: whether a second one ends the process at once. It does not in a worker: systemd
            sends SIGTERM to every process of a unit, the supervisor passes on its own, and
            that is no second word.
        deadline: started when the first one comes.
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
        """Begin to listen."""
        for number in self._numbers:
            self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *raised: object) -> None:
        """Listen no more: the signals do what they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    async def wait(self) -> None:
        """**Wait** until the process is told to end."""
        await self._told.wait()

    def tell(self) -> None:
        """Tell it to end, as a signal does. Works in any thread."""
        self._deadline.start()
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._told.set, idempotent=True)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._final:
            for each in self._numbers:
                signal.signal(each, signal.SIG_DFL)
        self.tell()


class Deadline:
    """The time by which a process that was told to end has ended.

    Args:
        bound: returns the seconds that it has, from when it is told.
        overdue: called in a thread when they are over.
    """

    def __init__(self, bound: Callable[[], float], overdue: Callable[[], None]) -> None:
        self._bound = bound
        self._overdue = overdue
        self._met = threading.Event()
        self._started = False

    def start(self) -> None:
        """Begin to count. Does nothing the second time."""
        if not self._started:
            self._started = True
            # Not `threading.Thread`, which takes locks: this is called by a signal's handler,
            # and the code that it interrupts may hold them.
            _thread.start_new_thread(self._count, ())

    def met(self) -> None:
        """Note that the process has ended its work."""
        self._met.set()

    def _count(self) -> None:
        if not self._met.wait(self._bound()):
            self._overdue()


def end_the_process() -> None:
    """Log what holds the process up, and end it with status 1, whatever its other threads do."""
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
