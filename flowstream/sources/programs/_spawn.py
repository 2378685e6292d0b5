"""Start a program for a stream, and end it if the client leaves meanwhile.

Starting takes a millisecond or two, in a thread. It takes without bound if the program is on a file
server that does not answer. A cancelled stream waits for that a little, and then goes on without
the thread, which ends the program when it comes back.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import trio

from flowstream.sources.programs._program import Program
from flowstream.sources.threads._pools import pools

Argument = str | bytes | os.PathLike[str] | os.PathLike[bytes]

# The arguments of `Program`: the process, its pidfd, and our ends of its pipes.
_Started = tuple[subprocess.Popen[bytes], int, int | None, int, int | None]

# Seconds that a cancelled stream waits for a program to be started.
_PATIENCE = 1.0


async def start_child(
    args: Sequence[Argument],
    *,
    stdin: bool,
    stderr: str,
    cwd: Argument | None,
    env: Mapping[str, str] | None,
) -> Program:
    """Start a program; stderr is ``"capture"``, ``"merge"`` or ``"discard"``.

    Whenever this is cancelled, no process is left without an owner. The cancellation takes effect
    when the program was started and ended; or after a second, if the system takes longer.

    Raises:
        OSError: the program can't be started.
    """
    start = partial(_start, list(args), stdin=stdin, stderr=stderr, cwd=cwd, env=env)
    starting = _Starting(start)
    try:
        started = await pools().processes.run(starting.run)
    except trio.Cancelled:
        await starting.leave()  # noqa: ASYNC102  # shields itself
        raise
    assert started is not None
    return Program(*started)


class _Starting:
    """The start of a program, which the stream need not wait for."""

    def __init__(self, start: Callable[[], _Started]) -> None:
        self._start = start
        self._token = trio.lowlevel.current_trio_token()
        self._over = trio.Event()
        self._lock = threading.Lock()
        self._begun = False
        self._left = False
        self._started: _Started | None = None

    def run(self) -> _Started | None:
        """Start the program; end it if nobody wants it any more. Runs in a thread."""
        if not self._may_begin():
            return None
        try:
            started = self._start()
            if self._is_left_with(started):
                _end(started)
            return started
        finally:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._over.set)

    def _may_begin(self) -> bool:
        with self._lock:
            self._begun = not self._left
            return self._begun

    def _is_left_with(self, started: _Started) -> bool:
        with self._lock:
            self._started = started
            return self._left

    async def leave(self) -> None:
        """End the program, or let the starting thread do so if it takes too long. **Shielded.**"""
        with self._lock:
            self._left = not self._begun
        if self._left:
            return
        with trio.move_on_after(_PATIENCE, shield=True):
            await self._over.wait()
        with self._lock:
            started, self._left = self._started, True
        if started is not None:
            await Program(*started).end(0)


def _start(
    args: list[Argument],
    *,
    stdin: bool,
    stderr: str,
    cwd: Argument | None,
    env: Mapping[str, str] | None,
) -> _Started:
    """Start the program, which takes a millisecond or two. Runs in a thread."""
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        theirs_in, our_in = _pipe(theirs, ours) if stdin else (subprocess.DEVNULL, None)
        our_out, theirs_out = _pipe(ours, theirs)
        our_err, theirs_err = None, subprocess.STDOUT if stderr == "merge" else subprocess.DEVNULL
        if stderr == "capture":
            our_err, theirs_err = _pipe(ours, theirs)
        for fd in (our_out, our_err):
            if fd is not None:
                os.set_blocking(fd, False)
        process = subprocess.Popen(
            args,
            stdin=theirs_in,
            stdout=theirs_out,
            stderr=theirs_err,
            cwd=cwd,
            env=env,
            start_new_session=True,
        )
        try:
            pidfd = os.pidfd_open(process.pid)
        except OSError:  # no descriptor is left
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        ours.pop_all()
        return process, pidfd, our_in, our_out, our_err


def _pipe(reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> tuple[int, int]:
    """Return a new pipe, whose ends are closed with these two."""
    read, write = os.pipe()
    reader.callback(os.close, read)
    writer.callback(os.close, write)
    return read, write


def _end(started: _Started) -> None:
    """Kill a program that nobody wants. Runs in a thread."""
    process, *fds = started
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for fd in fds:
        if fd is not None:
            os.close(fd)
