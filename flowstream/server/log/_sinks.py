"""Write to a descriptor without waiting for its reader.

``O_NONBLOCK`` would hold for everybody who shares the open file: the shell, the other workers. So
it is never set on a descriptor that was passed in.

====================  ========================================================================
descriptor            how it is written
====================  ========================================================================
a file, /dev/null     as it is: a disk does not keep a writer waiting
a socket              each call says that it must not wait
a pipe, a terminal    it is opened again, by ``/proc/self/fd``, with a flag of its own
what can't be opened  only a thread writes there: on macOS, and in a container whose user does
again                 not own the pipe
====================  ========================================================================

Turned down: poll before each write. Another process may fill the pipe between the two.
"""

from __future__ import annotations

import abc
import os
import select
import socket
import stat


class Sink(abc.ABC):
    """Where bytes go.

    Args:
        fd: the descriptor. It stays open.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @abc.abstractmethod
    def write_nowait(self, data: bytes) -> int:
        """Write as much as there is room for; return how many bytes that was.

        Raises:
            BlockingIOError: there is no room.
            OSError: writing failed.
        """

    def close(self) -> None:  # noqa: B027  # most have opened nothing
        """Close what was opened in addition to the descriptor."""

    def write_waiting(self, data: bytes) -> int:
        """**Wait** for room, then write. Call it in a thread.

        Raises:
            BlockingIOError: another process has taken the room.
            OSError: writing failed.
        """
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        poll.poll()
        return self.write_nowait(data)


class Direct(Sink):
    """Writes to a descriptor that never waits, because of its kind or its flag."""

    def write_nowait(self, data: bytes) -> int:
        return os.write(self._fd, data)


class _Reopened(Direct):
    """Writes to a descriptor of its own."""

    def close(self) -> None:
        os.close(self._fd)


class _Socket(Sink):
    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._socket = socket.socket(fileno=os.dup(fd))

    def write_nowait(self, data: bytes) -> int:
        return self._socket.send(data, socket.MSG_DONTWAIT)

    def close(self) -> None:
        self._socket.close()


class _ByThread(Sink):
    """Leaves every write to the thread."""

    def write_nowait(self, data: bytes) -> int:
        raise BlockingIOError

    def write_waiting(self, data: bytes) -> int:
        return os.write(self._fd, data)


def sink(fd: int) -> Sink:
    """Return the way to write to `fd`."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode):
        return _Socket(fd)
    if not (stat.S_ISFIFO(mode) or os.isatty(fd)):
        return Direct(fd)
    try:
        # O_NOCTTY: the terminal must not become the worker's controlling terminal.
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return _Reopened(os.open(f"/proc/self/fd/{fd}", flags))
    except OSError:
        return _ByThread(fd)
