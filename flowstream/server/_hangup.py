"""Notice that a peer has hung up, even while nobody reads what it sent.

A connection is read only while its protocol wants more: behind a streaming response the
next pipelined request waits, and so does everything behind it, the peer's FIN included.
Linux reports a FIN apart from the data in front of it (``EPOLLRDHUP``), but Trio's own
epoll asks for readability only. An epoll descriptor is itself a descriptor that can be
waited for, so one more of them, with one task for all connections, does it.

Elsewhere the watch does nothing: such a disconnect is seen at the next write.
"""

from __future__ import annotations

import select
from collections.abc import Callable

import trio

_AVAILABLE = hasattr(select, "epoll") and hasattr(select, "EPOLLRDHUP")


class HangupWatch:
    """Calls back when the peer of a watched socket has closed it, or half of it, or reset it."""

    def __init__(self) -> None:
        self._epoll = select.epoll() if _AVAILABLE else None
        self._callbacks: dict[int, Callable[[], None]] = {}

    async def run(self) -> None:
        """Watch until cancelled; then release the descriptor."""
        if self._epoll is None:
            return
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                for fd, _ in self._epoll.poll(0):
                    callback = self._callbacks.get(fd)
                    if callback is not None:  # else removed by another one just now
                        callback()
        finally:
            trio.lowlevel.notify_closing(self._epoll.fileno())
            self._epoll.close()
            self._callbacks.clear()

    def add(self, fd: int, callback: Callable[[], None]) -> bool:
        """Have `callback` called, once, when the peer of socket `fd` hangs up.

        Returns:
            Whether it will be: there is no watch to be had elsewhere than on Linux, and
            no more of them than the kernel allows.
        """
        if self._epoll is None or self._epoll.closed:
            return False
        try:
            self._epoll.register(fd, select.EPOLLRDHUP | select.EPOLLONESHOT)
        except OSError:
            return False
        self._callbacks[fd] = callback
        return True

    def again(self, fd: int) -> None:
        """Call back once more, if the peer of `fd` has hung up."""
        if self._epoll is not None and fd in self._callbacks:
            self._epoll.modify(fd, select.EPOLLRDHUP | select.EPOLLONESHOT)

    def remove(self, fd: int) -> None:
        """Forget about `fd`; to be called before it is closed, and its number used again."""
        if self._callbacks.pop(fd, None) is not None and self._epoll is not None:
            self._epoll.unregister(fd)
