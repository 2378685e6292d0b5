"""All connections of one worker: what they share, and what befalls them together."""

from __future__ import annotations

import weakref
from typing import Protocol

from flowstream._closing import CloseReason
from flowstream.server._hangup import HangupWatch

# What ended streams, for their reports (`StreamReport.detail`).
GOING_DOWN = "the server goes down"
LEFT = "the client closed its connection"
CLOSED = "the server closed the connection"


class _Member(Protocol):
    def say_goodbye(self) -> None: ...
    def abort(self, reason: CloseReason, detail: str = "") -> None: ...
    def requests(self) -> list[str]: ...


class Connections:
    """All connections of one worker.

    Args:
        write_timeout: seconds that a write may make no progress.

    Attributes:
        hangups: the watch over their sockets.
        closing: whether the worker is shutting down.
    """

    def __init__(self, write_timeout: float) -> None:
        self.hangups = HangupWatch()
        self.write_timeout = write_timeout
        self.closing = False
        self._open: set[_Member] = set()
        _all.add(self)

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: _Member) -> None:
        """Note a connection that has been accepted."""
        self._open.add(connection)

    def discard(self, connection: _Member) -> None:
        """Forget a connection that has ended."""
        self._open.discard(connection)

    def requests(self) -> list[str]:
        """Return what is being answered, in words for the log."""
        return [one for connection in list(self._open) for one in connection.requests()]

    def say_goodbye(self) -> None:
        """Have every stream send its farewell and end, those that are yet to come as well."""
        self.closing = True
        for connection in list(self._open):
            connection.say_goodbye()

    def abort(self) -> None:
        """Reset every connection."""
        for connection in list(self._open):
            connection.abort(CloseReason.SHUTDOWN, GOING_DOWN)


_all: weakref.WeakSet[Connections] = weakref.WeakSet()


def at_work() -> list[str]:
    """Return what all servers of this process are answering, in words for the log.

    Works in any thread, also while the event loop is stuck.
    """
    return [one for connections in list(_all) for one in connections.requests()]
