"""Notice that a peer has hung up, even while nobody reads what it sent.

The server reads a connection only while its protocol wants more. During a streaming response the
next pipelined request waits unread, and so does everything that follows it, the peer's FIN too.
Linux reports a FIN even if unread data comes before it (``EPOLLRDHUP``), but Trio's own epoll asks
for readability only. So there is a second epoll descriptor, on which one task waits for all
connections.

On other systems the watch does nothing, and the next write notices the disconnect.
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
                    if callback is not None:  # else another callback has just removed it
                        callback()
        finally:
            trio.lowlevel.notify_closing(self._epoll.fileno())
            self._epoll.close()
            self._callbacks.clear()

    def add(self, fd: int, callback: Callable[[], None]) -> bool:
        """Call `callback` once, when the peer of socket `fd` hangs up.

        Returns:
            Whether it will be called. It won't if this is not Linux, or if the kernel allows no
            more watches.
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
        """Call back once more if the peer of `fd` has hung up."""
        if self._epoll is not None and fd in self._callbacks:
            self._epoll.modify(fd, select.EPOLLRDHUP | select.EPOLLONESHOT)

    def remove(self, fd: int) -> None:
        """Forget `fd`. Call it before you close `fd`, whose number may be used again."""
        if self._callbacks.pop(fd, None) is not None and self._epoll is not None:
            self._epoll.unregister(fd)
