"""Run a program for a stream, in a session of its own, and end it with its whole group.

The kernel may use a process's number again as soon as the parent has waited for it, and also the
number of its group. So this learns of the end through a pidfd, and waits for the process last:
until then the dead leader keeps the group's number, and a signal can hit no other process.

One can't ask which processes of a group still live. But they inherit the leader's output. So when
all have ended, nobody has the pipes open any more, which this side can see. A process that has
closed its own output is killed as soon as the leader and the others have ended. A process that
began its own session, as a daemon does, is out of reach.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess

import trio

from flowstream._clock import clock

logger = logging.getLogger("flowstream")

_READ_SIZE = 64 * 1024
_TAIL_SIZE = 8 * 1024
_POLL = 0.002
_REAP_SECONDS = 1.0
_KILLED_SECONDS = 0.1


class Program:
    """A program that was started; made by `start_child` (see `_spawn.py`).

    Args:
        process: the process.
        pidfd: becomes readable when the process has ended.
        stdin: the pipe to its input, or None.
        stdout: the pipe from its output, which does not block.
        stderr: the pipe from its errors, which does not block; or None.

    Attributes:
        stdin: the pipe to its input, as a Trio stream.
        errors: the last part of its errors.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        pidfd: int,
        stdin: int | None,
        stdout: int,
        stderr: int | None,
    ) -> None:
        self._process = process
        self._pidfd = pidfd
        self._stdout = stdout
        self._stderr = stderr
        self._exited = trio.Event()
        self._waiting = trio.CancelScope()
        self._given_up = False
        self.stdin = None if stdin is None else trio.lowlevel.FdStream(stdin)
        self.errors = b""

    async def read(self) -> bytes:
        """**Wait** for output and return it; b"" at the end.

        Other tasks run even if the program floods, with lines that never end.
        """
        await trio.lowlevel.checkpoint()
        while True:
            try:
                return os.read(self._stdout, _READ_SIZE)
            except BlockingIOError:
                if self._given_up:
                    return b""
            with trio.CancelScope() as self._waiting:
                await trio.lowlevel.wait_readable(self._stdout)

    async def read_errors(self) -> None:
        """Keep the last part of its errors, until it closes stderr."""
        assert self._stderr is not None
        while self._take_errors():
            await trio.lowlevel.wait_readable(self._stderr)

    def _take_errors(self) -> bool:
        """Keep the errors that are there; return whether there may be more."""
        assert self._stderr is not None
        # At most twice what a pipe holds, so that other tasks run if it floods.
        for _ in range(2):
            try:
                data = os.read(self._stderr, _READ_SIZE)
            except BlockingIOError:
                return True
            if not data:
                return False
            self.errors = (self.errors + data)[-_TAIL_SIZE:]
        return True

    async def exited(self) -> None:
        """Wait until `watch` has seen the program's end. Its children may live on."""
        await self._exited.wait()

    async def watch(self, grace: float) -> None:
        """Wait for the program's end; then make `read` end within `grace` seconds.

        Its children may still have its output open.
        """
        await self._ended()
        self._exited.set()
        await trio.sleep(grace)
        self.kill()
        self._given_up = True
        self._waiting.cancel()

    def kill(self) -> None:
        """Kill the program and its whole group."""
        self._signal(signal.SIGKILL)

    async def end(self, grace: float) -> int | None:
        """End the program and its whole group: ask, wait for up to `grace` seconds, then kill.

        It is shielded, and takes at most a second longer than `grace`.

        Returns:
            Its status; a signal's number, negative, if that ended it; None if it still runs.
        """
        try:
            with trio.CancelScope(shield=True, deadline=clock.current_time() + grace):
                self._signal(signal.SIGTERM)
                await self._ended()
                if not self._given_up:
                    await self._gone()
            self.kill()
            with trio.CancelScope(shield=True, deadline=clock.current_time() + _REAP_SECONDS):
                await self._ended()
            with trio.CancelScope(shield=True, deadline=clock.current_time() + _KILLED_SECONDS):
                await self._gone()  # not at once; and never if it began its own session
        finally:
            code = self._process.poll()
            self._close()
        if code is None:
            logger.warning("process %d does not end when it is killed", self._process.pid)
        return code

    async def _ended(self) -> None:
        await trio.lowlevel.wait_readable(self._pidfd)

    async def _gone(self) -> None:
        """Wait until no process has its output open."""
        poll = select.poll()
        pipes = [fd for fd in (self._stdout, self._stderr) if fd is not None]
        for fd in pipes:
            poll.register(fd, 0)  # a hang-up is always reported
        while len(poll.poll(0)) < len(pipes):  # noqa: ASYNC110  # epoll tells of data, too
            await trio.sleep(_POLL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:  # else another process may have its number
            with contextlib.suppress(ProcessLookupError, PermissionError):  # it belongs to root now
                os.killpg(self._process.pid, number)

    def _close(self) -> None:
        if self._stderr is not None:
            with contextlib.suppress(OSError):
                self._take_errors()
            os.close(self._stderr)
        os.close(self._stdout)
        os.close(self._pidfd)
        if self.stdin is not None:
            self.stdin.close()
