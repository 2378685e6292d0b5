"""A worker process, as its supervisor sees it."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from flowstream.server.process._assignment import Assignment
from flowstream.server.process._watchdog import (
    BEAT,
    STACK_LIMIT,
    Silence,
    beat_interval,
    is_traced,
    stacks,
    told,
)
from flowstream.server.process._worker import READY
from flowstream.tasks._failure import first_of

# -P: don't look for flowstream or the standard library in the current directory. The app is looked
# for there later.
_COMMAND = [sys.executable, "-P", "-m", "flowstream.server.process._worker"]


# Seconds that a hung worker has to write its stack.
_FOR_THE_STACK = 1.0


class WorkerProcess:
    """A worker process.

    Args:
        shutdown_bound: seconds that it has to end by itself when it is stopped.
        worker_timeout: seconds that its event loop may be blocked, once it is ready.

    Attributes:
        ready: set when it accepts connections.
        settled: set when it is ready, has said that it won't be, or has ended.
        over: set when the process has ended.
        status: its exit status; for a signal the signal's number, negative.
        failure: why it does not get ready, in its own words.
        killed: whether it was killed because it did not end in time after being stopped.
        hung: the seconds that its event loop had not run, if it was killed for that; else None.
    """

    def __init__(self, shutdown_bound: float, worker_timeout: float) -> None:
        self._shutdown_bound = shutdown_bound
        self._worker_timeout = worker_timeout
        self._silence = Silence(worker_timeout, trio.current_time())
        self._dump = b""
        self._process: trio.Process | None = None
        self._scope = trio.CancelScope()
        self._started = trio.current_time()
        self.ready = trio.Event()
        self.settled = trio.Event()
        self.over = trio.Event()
        self.status: int | None = None
        self.failure = ""
        self.killed = False
        self.hung: float | None = None

    async def run(self, make_assignment: Callable[[int], Assignment]) -> None:
        """Start the process and **wait** until it has ended; when cancelled, tell it to end.

        Args:
            make_assignment: takes the descriptor that the worker reports to; returns its orders.
        """
        try:
            with self._scope:
                await self._run(make_assignment)
        except* OSError as group:  # no process or no descriptor is available
            self.failure = str(first_of(group))
        finally:
            self.status = None if self._process is None else self._process.returncode
            self.over.set()
            self.settled.set()

    def stop(self) -> None:
        """Tell the process to end; kill it if it does not end in time."""
        self._scope.cancel()

    def kill(self) -> None:
        """Kill the process; if it has not started yet, as soon as it has."""
        if self._process is None:
            self.killed = not self.over.is_set()
        elif self._process.returncode is None:
            self.killed = True
            self._process.kill()

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return trio.current_time() - self._started

    @property
    def name(self) -> str:
        """Its name in the log."""
        return f"worker {'' if self._process is None else self._process.pid}"

    @property
    def end(self) -> str:
        """How it ended, in words."""
        if self.status is None:
            return "was never started"
        if self.status < 0:
            return f"was killed by {_signal_name(-self.status)}"
        return f"has ended with status {self.status}"

    @property
    def last_words(self) -> str:
        """The log's text about its end: that it hung, or how it crashed; else empty."""
        dump = self._dump.decode(errors="replace")
        if self.hung is not None:
            return told(self.name, self.hung, dump)
        return f"{self.name} has crashed:\n{stacks(dump) or dump}" if dump else ""

    async def _run(self, make_assignment: Callable[[int], Assignment]) -> None:
        heard, tell = os.pipe()
        async with trio.lowlevel.FdStream(heard) as report, trio.open_nursery() as nursery:
            try:
                assignment = make_assignment(tell)
                process = self._process = await nursery.start(self._process_for(assignment))
            finally:
                os.close(tell)  # so that the report ends with the process
            # Wait for the process. Its report may go on: a program that it started may hold it.
            async with trio.open_nursery() as watch:
                watch.start_soon(self._hear, report)
                watch.start_soon(self._watch, process)
                await process.wait()
                watch.cancel_scope.cancel()
            self._hear_the_rest(heard)

    def _process_for(self, assignment: Assignment) -> Callable[..., Awaitable[object]]:
        return partial(
            trio.run_process,
            _COMMAND,
            stdin=assignment.to_json(),
            pass_fds=assignment.descriptors,
            # A terminal's Ctrl-C is for the supervisor, which passes it on.
            start_new_session=True,
            check=False,
            deliver_cancel=self._end_in_time,
        )

    async def _hear(self, report: trio.lowlevel.FdStream) -> None:
        async for data in report:
            self._take(bytes(data))

    def _hear_the_rest(self, fd: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(fd, 65536):
                self._take(bytes(data))

    def _take(self, data: bytes) -> None:
        """Take its report: that it is ready, or why not; then beats; at its death stacks."""
        if not self.settled.is_set():
            self.settled.set()
            if data.startswith(READY):
                self.ready.set()
                data = data[len(READY) :]
            else:
                self.failure = data.decode(errors="replace")
        if not self.ready.is_set():
            return
        self._silence.end()
        self._dump += data if self._dump else data.lstrip(BEAT)
        self._dump = self._dump[:STACK_LIMIT]

    async def _watch(self, process: trio.Process) -> None:
        """Kill the process when its event loop has not run for too long."""
        if self._worker_timeout == math.inf:
            return
        await self.ready.wait()
        silence = self._silence = Silence(self._worker_timeout, trio.current_time())
        interval = beat_interval(self._worker_timeout)
        while True:
            await trio.sleep(interval)
            if not silence.look(trio.current_time()):
                continue
            if not is_traced(process.pid):
                break
            silence.end()  # somebody debugs it
        self.hung = silence.seconds
        with trio.CancelScope(shield=True):
            process.send_signal(signal.SIGABRT)
            with trio.move_on_after(_FOR_THE_STACK):
                await process.wait()
            process.kill()

    async def _end_in_time(self, process: trio.Process) -> None:
        self._process = process  # `_run` may not have got it yet
        if not self.killed:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            await trio.sleep(self._shutdown_bound)
        self.kill()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
