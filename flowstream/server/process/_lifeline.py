"""A worker's end of a pipe, which tells it when its supervisor is gone.

Nothing is ever written to the pipe. It ends when the last process that could write has ended, in
whatever way. A thread waits for that, not a task, since a worker whose event loop is blocked must
not outlive its supervisor either.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

ORPHANED = 1.8
"""Seconds that a worker has to end when its supervisor is gone."""

# EX_SOFTWARE of sysexits.h. Nobody is left to read it.
_EXIT_STATUS = 70


class Lifeline:
    """The pipe that ends with the supervisor.

    Args:
        fd: the descriptor of the pipe's reading end.
    """

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)
        self._fd = fd
        self._cut = False
        self._lock = threading.Lock()
        self._on_cut: Callable[[], None] | None = None
        threading.Thread(target=self._hold, name="lifeline", daemon=True).start()

    def when_cut(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the supervisor is gone; at once if it is. May run in any thread."""
        with self._lock:
            self._on_cut = callback
            cut = self._cut
        if cut:
            callback()

    def _hold(self) -> None:
        os.read(self._fd, 1)
        end = time.monotonic() + ORPHANED
        with self._lock:
            self._cut = True
            callback = self._on_cut
        if callback is not None:
            callback()
        time.sleep(max(0.0, end - time.monotonic()))
        os._exit(_EXIT_STATUS)
