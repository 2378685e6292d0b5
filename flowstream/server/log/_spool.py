"""The spool: keeps a log from waiting for a pipe that nobody reads.

A write to a pipe, a terminal or a socket waits while the other side reads nothing: a program that
hangs, a terminal that was stopped with Ctrl-S. The event loop must not wait for that.

::

    write ──► there is room ──────────────────► the kernel
      │                                             ▲
      └─────► there is none ──► buffer ──► thread ──┘
                                  │
                                  └──► full: dropped, counted, announced

While there is room, the kernel has a line when `Spool.write` returns, so a crash loses none. When
there is no room, lines wait in a bounded buffer, and a thread writes them in order. Lines that do
not fit are dropped. The next line that is written says how many.

Turned down: let a thread write every line, as `logging.handlers.QueueListener` does. Each line
would cost a change of threads, and a killed process would lose the lines in its queue.
"""

from __future__ import annotations

import _thread
import io
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from flowstream.server.log._sinks import Sink, sink

BOUND = 1 << 20
"""Bytes that wait for a slow reader: some 8,000 lines of an access log."""

NOBODY_READS = "nobody reads them"

# Bytes that the thread writes at once: as many as a pipe holds.
_PIECE = 1 << 16


class Spool(io.BufferedIOBase):
    """A binary stream that never waits for its reader. Works in any thread.

    `write` raises no `OSError`: if the pipe is closed or the disk is full, lines are dropped, too.

    Args:
        fd: the descriptor to write to. It is not closed.
        name: the stream's name, as of any stream.
        announce: makes the line about dropped lines from their number and the reason.
        bound: bytes that may wait. A single larger write may wait alone.
        to: how to write there. By default the kind of descriptor decides.
    """

    mode = "wb"

    def __init__(
        self,
        fd: int,
        *,
        name: str = "",
        announce: Callable[[int, str], bytes] | None = None,
        bound: int = BOUND,
        to: Sink | None = None,
    ) -> None:
        self._fd = fd
        self._bound = bound
        self._sink = sink(fd) if to is None else to
        self._at_line_start = True
        self.name = name
        self.announce = announce or _announced
        self._reset()
        _all.add(self)

    def _reset(self) -> None:
        """Start empty: at first, and in a forked process."""
        # Reentrant, since a signal's handler may log.
        self._lock = threading.RLock()
        self._buffer = bytearray()
        self._lost = 0  # lines that were dropped
        self._why = ""  # why; empty if none were
        self._busy = False  # whether a thread runs
        self._idle = threading.Event()
        self._idle.set()

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return os.isatty(self._fd)

    def write(self, data: Any) -> int:
        """Write `data`, or keep it, or drop it. Return its length at once in each case."""
        if type(data) is not bytes:
            data = memoryview(data).tobytes()
        with self._lock:
            if self._busy:
                self._keep(data)
                return len(data)
            piece = self._announcement() + data if self._why else data
            try:
                written = self._sink.write_nowait(piece)
            except BlockingIOError:
                written = 0
            except OSError as error:
                self._lose(data, error.strerror or str(error))
                return len(data)
            if written < len(piece) and not self._start():
                self._lose(data, "no thread can be started")
                self._at_line_start = self._at_line_start and not written
                return len(data)
            self._lost, self._why = 0, ""
            self._at_line_start = piece[-1:] == b"\n"
            if written < len(piece):
                self._buffer += piece[written:]
        return len(data)

    def drain(self, seconds: float) -> bool:
        """**Wait** until the buffer is empty, for at most `seconds`; return whether it is."""
        return self._idle.wait(seconds)

    def release(self) -> bool:
        """Close the way to the descriptor, unless bytes wait; return whether it was closed."""
        with self._lock:
            if not self._busy:
                self._sink.close()
            return not self._busy

    def _start(self) -> bool:
        try:
            _thread.start_new_thread(self._empty, ())
        except RuntimeError:  # there are too many, or the process ends
            return False
        self._busy = True
        self._idle.clear()
        return True

    def _keep(self, data: bytes) -> None:
        # After a drop ask for more room, since each announcement takes a line, too.
        bound = self._bound // 2 if self._why else self._bound
        if len(self._buffer) + len(data) > bound:
            self._lose(data, NOBODY_READS)
            return
        self._announce()
        self._buffer += data
        self._at_line_start = data[-1:] == b"\n"

    def _lose(self, data: bytes | bytearray, why: str) -> None:
        self._lost += data.count(b"\n")
        self._why = why

    def _announcement(self) -> bytes:
        line = self.announce(max(1, self._lost), self._why)
        return line if self._at_line_start else b"\n" + line

    def _announce(self) -> None:
        if self._why:
            self._buffer += self._announcement()
            self._lost, self._why, self._at_line_start = 0, "", True

    def _empty(self) -> None:
        """Write the buffer until it is empty. Runs in the thread."""
        while True:
            with self._lock:
                if not self._buffer:
                    self._announce()
                if not self._buffer:
                    self._stop()
                    return
                piece = bytes(self._buffer[:_PIECE])
            try:  # other threads only add to the buffer meanwhile
                written = self._sink.write_waiting(piece)
            except BlockingIOError:
                continue
            except OSError as error:
                with self._lock:
                    self._lose(self._buffer, error.strerror or str(error))
                    self._buffer.clear()
                    self._at_line_start = False
                    self._stop()
                return
            with self._lock:
                del self._buffer[:written]

    def _stop(self) -> None:
        self._busy = False
        self._idle.set()


_all: weakref.WeakSet[Spool] = weakref.WeakSet()


def drain_all(seconds: float) -> None:
    """**Wait** until all spools of the process are empty, for at most `seconds`."""
    end = time.monotonic() + seconds
    for spool in list(_all):
        spool.drain(max(0.0, end - time.monotonic()))


def _announced(lines: int, why: str) -> bytes:
    return f"{lines} lines of the log were dropped: {why}\n".encode()


def _forget() -> None:
    # A child can't use its parent's locks and threads. The parent writes what waits.
    for spool in list(_all):
        spool._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
