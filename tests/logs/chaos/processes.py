"""The processes of a run: they are started, stopped and killed here, by their ids."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import trio

from .plan import Role

ROOT = Path(__file__).parents[3]
_URL = re.compile(r"Running on (http://[^ ]+)")


class Process:
    """One process, whose output is read as it comes.

    Args:
        command: what to run, behind the name of Python.
        role: what it is told.
        hear: called with each line of its standard output.

    Attributes:
        url: where it serves streams, once it does.
        role: the same.
        expected: whether its end is no surprise.
        log: the last lines of its standard error.
        faults: tracebacks that it wrote there.
    """

    def __init__(
        self, command: Sequence[str], role: Role, hear: Callable[[str], None] | None = None
    ) -> None:
        self.role = role
        self.url: str | None = None
        self.expected = False
        self.log: deque[str] = deque(maxlen=400)
        self.faults = 0
        self._hear = hear
        self._process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=role.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.pid = self._process.pid
        self.over = trio.Event()
        self.code: int | None = None

    async def read(self) -> None:
        """Read what it writes, until it has ended."""
        assert self._process.stdout
        assert self._process.stderr
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read_lines, self._process.stdout.fileno(), self._take)
                nursery.start_soon(self._read_lines, self._process.stderr.fileno(), self._note)
            self.code = await trio.to_thread.run_sync(self._process.wait, abandon_on_cancel=True)
        finally:
            self.url = None
            self.over.set()

    async def _read_lines(self, descriptor: int, take: Callable[[str], None]) -> None:
        rest = b""
        async with trio.lowlevel.FdStream(os.dup(descriptor)) as stream:
            async for data in stream:
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    take(line.decode())

    def _take(self, line: str) -> None:
        if line.startswith("at "):
            self.url = line[3:]
        elif self._hear is not None:
            self._hear(line)

    def _note(self, line: str) -> None:
        self.log.append(line)
        self.faults += line.startswith("Traceback")
        if found := _URL.search(line):
            self.url = found[1]

    def send(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it."""
        self.expected = True
        self.url = None
        self.send(signal.SIGKILL)

    @property
    def children(self) -> list[int]:
        """The ids of its child processes."""
        with suppress(OSError):
            path = Path(f"/proc/{self.pid}/task/{self.pid}/children")
            return [int(one) for one in path.read_text().split()]
        return []

    def close(self) -> None:
        """End it for good."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()


def worker(role: Role, *, supervised: bool) -> Process:
    """Start a worker; one that is supervised can hand over to a new one."""
    options = ["--workers", "1"] if supervised else []
    program = "from flowstream.cli import main; main()"
    bound = ["--bind", "127.0.0.1:0", "--graceful-timeout", "1"]
    return Process(["-c", program, "serve", "tests.logs.chaos.worker", *bound, *options], role)


def publisher(role: Role, hear: Callable[[str], None]) -> Process:
    """Start a publisher."""
    return Process(["-m", "tests.logs.chaos.publisher"], role, hear)


def hand(role: Role, arguments: Sequence[str], hear: Callable[[str], None]) -> Process:
    """Start a process that does one thing to the log."""
    return Process(["-m", "tests.logs.chaos.hand", *arguments], role, hear)


def kill_pid(pid: int) -> None:
    """Kill the child process of one that was started here."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
