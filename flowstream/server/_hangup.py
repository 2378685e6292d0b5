"""Notice that a peer has hung up, even while nobody reads what it sent.

A connection is read only while its protocol wants more: behind a streaming response the
next pipelined request waits, and so does everything behind it, the peer's FIN included.
Linux reports a FIN apart from the data in front of it (``EPOLLRDHUP``), but Trio's own
epoll asks for readability only. An epoll descriptor is itself a descriptor that can be
waited for, so one more of them, with one task for all connections, does it.

Elsewhere the watch does nothing: such a disconnect is seen at the next write.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable

import trio

_AVAILABLE = hasattr(select, "epoll") and hasattr(select, "EPOLLRDHUP")


class HangupWatch:
    """Calls back when the peer of a watched socket closes it, and when it resets it.

    A callback gets whether the peer is gone altogether. If it is not, it has said that it
    sends nothing more; whether it still reads can't be told.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll() if _AVAILABLE else None
        self._callbacks: dict[int, Callable[[bool], None]] = {}

    async def run(self) -> None:
        """Watch until cancelled; then release the descriptor."""
        if self._epoll is None:
            return
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                for fd, events in self._epoll.poll(0):
                    self._report(fd, gone=bool(events & (select.EPOLLHUP | select.EPOLLERR)))
        finally:
            trio.lowlevel.notify_closing(self._epoll.fileno())
            self._epoll.close()
            self._callbacks.clear()

    def add(self, fd: int, callback: Callable[[bool], None]) -> None:
        """Have `callback` called for socket `fd`, at most once for each of the two."""
        if self._epoll is None or self._epoll.closed:
            return
        with contextlib.suppress(OSError):  # no more watches are to be had: do without
            self._epoll.register(fd, select.EPOLLRDHUP | select.EPOLLONESHOT)
            self._callbacks[fd] = callback

    def again(self, fd: int) -> None:
        """Report once more that the peer of `fd` has closed it, if it has."""
        if self._epoll is not None and fd in self._callbacks:
            self._epoll.modify(fd, select.EPOLLRDHUP | select.EPOLLONESHOT)

    def remove(self, fd: int) -> None:
        """Forget about `fd`; to be called before it is closed, and its number used again."""
        if self._callbacks.pop(fd, None) is not None and self._epoll is not None:
            self._epoll.unregister(fd)

    def _report(self, fd: int, *, gone: bool) -> None:
        callback = self._callbacks.get(fd)
        if callback is None:  # removed by a callback just now
            return
        if gone:
            self.remove(fd)
        elif self._epoll is not None:
            self._epoll.modify(fd, select.EPOLLONESHOT)  # a reset is reported in any case
        callback(gone)
