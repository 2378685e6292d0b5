"""A program that runs for a stream, in a session of its own, and its end.

The number of a process can be used again as soon as its parent has taken note of its end, and
so can that of its group. So the end is heard through a pidfd, and noted last: until then the
dead leader keeps the number of the group, and nobody else can be hit.

Who of a group still lives can't be asked. But what a leader starts inherits its output, so once
all have gone nobody has the pipes open any more, which can be seen from this side. What shut
its own is killed as soon as the leader and the others have gone; what began a session of its
own, as a daemon does, is out of reach.
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
        pidfd: becomes readable when it has ended.
        stdin: what can be written to, or None.
        stdout: what it writes, without blocking.
        stderr: the same, or None.

    Attributes:
        stdin: as above, as a Trio stream.
        errors: the end of what it wrote to stderr.
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
        """Return what it has written; nothing at the end. **Waits** until there is something.

        A program that floods, and whose lines never end, lets others run all the same.
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
        """Keep the end of what it writes to stderr, until it has shut that."""
        assert self._stderr is not None
        while self._take_errors():
            await trio.lowlevel.wait_readable(self._stderr)

    def _take_errors(self) -> bool:
        """Keep what is there; return whether there may be more."""
        assert self._stderr is not None
        # At most twice what a pipe holds: one that floods is read on, but lets others run.
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
        """Wait until `watch` has seen that the program has ended; what it started may live on."""
        await self._exited.wait()

    async def watch(self, grace: float) -> None:
        """See the program end; then have `read` come to an end within `grace` seconds.

        It may have left others behind, who keep its output open.
        """
        await self._ended()
        self._exited.set()
        await trio.sleep(grace)
        self.kill()
        self._given_up = True
        self._waiting.cancel()

    def kill(self) -> None:
        """Kill it, and all of its group."""
        self._signal(signal.SIGKILL)

    async def end(self, grace: float) -> int | None:
        """End it and all of its group: ask, wait for up to `grace` seconds, then kill.

        Shielded: it is cancelled by nothing, and takes a second longer than `grace` at the most.

        Returns:
            Its status, negative for that of a signal; None if not even that has ended it.
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
                await self._gone()  # not at once; and never what began a session of its own
        finally:
            code = self._process.poll()
            self._close()
        if code is None:
            logger.warning("process %d does not end when it is killed", self._process.pid)
        return code

    async def _ended(self) -> None:
        await trio.lowlevel.wait_readable(self._pidfd)

    async def _gone(self) -> None:
        """Wait until nobody has its output open."""
        poll = select.poll()
        pipes = [fd for fd in (self._stdout, self._stderr) if fd is not None]
        for fd in pipes:
            poll.register(fd, 0)  # a hang-up is told without being asked for
        while len(poll.poll(0)) < len(pipes):  # noqa: ASYNC110  # epoll tells of data, too
            await trio.sleep(_POLL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:  # else its number may be another's by now
            with contextlib.suppress(ProcessLookupError, PermissionError):  # it is root's now
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
