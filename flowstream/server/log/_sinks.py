"""Ways to write to a descriptor without waiting for whoever reads there.

The flag ``O_NONBLOCK`` belongs to all who share an open file: the shell, the other workers. So it
is not set on a descriptor that we were given.

====================  ========================================================================
what it is            how
====================  ========================================================================
a file, /dev/null     it is written as it is: a disk answers
a socket              each call says that it must not wait
a pipe, a terminal    it is opened once more, by ``/proc/self/fd``, with a flag of its own
what can't be opened  only a thread writes there. So it is on macOS, and in a container whose
                      user does not own the pipe
====================  ========================================================================

Turned down: to poll before each write. Between the two another process may fill the pipe.
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
        fd: the descriptor, which stays open.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @abc.abstractmethod
    def write_nowait(self, data: bytes) -> int:
        """Write what there is room for; return how many bytes that was.

        Raises:
            BlockingIOError: there is no room.
            OSError: nothing can be written there.
        """

    def close(self) -> None:  # noqa: B027  # most have opened nothing
        """Close what was opened beside the descriptor."""

    def write_waiting(self, data: bytes) -> int:
        """**Wait** for room, and write. For a thread.

        Raises:
            BlockingIOError: another process has taken the room.
            OSError: nothing can be written there.
        """
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        poll.poll()
        return self.write_nowait(data)


class Direct(Sink):
    """Writes to the descriptor as it is: one that never waits, by its kind or by its flag."""

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
    """Leaves everything to the thread."""

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
        # A worker has no terminal of its own, and must not get one by this.
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return _Reopened(os.open(f"/proc/self/fd/{fd}", flags))
    except OSError:
        return _ByThread(fd)
