"""All connections of one worker: their shared parts, and calls that reach all of them."""

from __future__ import annotations

import contextvars
import math
import weakref
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from flowstream._closing import CloseReason
from flowstream.server._hangup import HangupWatch
from flowstream.server._hypercorn import HTTPStream
from flowstream.server._pass_budget import PassBudget
from flowstream.server._protocol_carrier import GOING_DOWN
from flowstream.server._settings import ServerConfig, trusted_proxies
from flowstream.server.http1._plain_response import ServerFields
from flowstream.server.log._access_entry import LoggedExchange, keeps_access


class _Open(Protocol):
    def say_goodbye(self) -> None: ...
    def abort(self, reason: CloseReason, detail: str = "") -> None: ...
    def requests(self) -> list[str]: ...
    def end_idle(self) -> None: ...


class Idle:
    """The connections that wait for a request, the longest idle first.

    One task watches all of them, since all have the same timeout.

    Args:
        timeout: seconds that a connection may be idle. Then its `end_idle` is called.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._since: dict[_Open, float] = {}
        self._sleep = trio.CancelScope()

    def __contains__(self, connection: _Open) -> bool:
        return connection in self._since

    def add(self, connection: _Open) -> None:
        """Note that the connection is idle from now on."""
        since = self._since
        since.pop(connection, None)  # so that it comes last
        since[connection] = now = trio.current_time()
        due = now + self._timeout
        if len(since) == 1 and due < self._sleep.deadline:
            self._sleep.deadline = due

    def discard(self, connection: _Open) -> None:
        """Note that a request has come, or that the connection has ended."""
        self._since.pop(connection, None)

    async def run(self) -> None:
        """Watch the connections until cancelled."""
        while True:
            with trio.CancelScope(deadline=self._end_what_is_due()) as self._sleep:
                await trio.sleep_forever()

    def _end_what_is_due(self) -> float:
        """End the connections whose time is up; return when to check again."""
        now = trio.current_time()
        while self._since:
            connection, since = next(iter(self._since.items()))
            if now < since + self._timeout:
                return since + self._timeout
            del self._since[connection]
            connection.end_idle()
        return math.inf


class Connections:
    """All connections of one worker.

    Args:
        config: the server's configuration.

    Attributes:
        hangups: the watch over their sockets.
        idle: the connections that wait for a request.
        budget: gives the clients their turns.
        fields: the header fields that the server adds to each response.
        proxies: the trusted proxies.
        exchange_class: the class of the stream that serves a plain request.
        write_timeout: seconds that a write may make no progress.
        closing: whether the worker is shutting down.
        plain: how many requests were read without h11.
        others: how many connections have got a protocol.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.hangups = HangupWatch()
        self.idle = Idle(config.keep_alive_timeout)
        self.budget = PassBudget()
        self.fields = ServerFields(config)
        self.proxies = trusted_proxies(config)
        self.write_timeout = config.write_timeout
        self.closing = False
        self.plain = self.others = 0
        self._open: set[_Open] = set()
        self._nursery: trio.Nursery | None = None
        self.exchange_class = LoggedExchange if keeps_access(config) else HTTPStream
        self._context = contextvars.copy_context()
        _all.add(self)

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: _Open) -> None:
        """Note a connection that has been accepted."""
        self._open.add(connection)

    def discard(self, connection: _Open) -> None:
        """Forget a connection that has ended."""
        self._open.discard(connection)

    def run_in(self, nursery: trio.Nursery) -> None:
        """From now on run the tasks of connections in `nursery`."""
        self._nursery = nursery

    @property
    def nursery(self) -> trio.Nursery:
        """The nursery of their tasks."""
        assert self._nursery is not None
        return self._nursery

    def start(self, function: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """Start a task for a connection, with the server's contextvars, not an application's."""
        self._context.run(self.nursery.start_soon, function, *arguments)

    def requests(self) -> list[str]:
        """Describe the requests at work, for the log."""
        return [one for connection in list(self._open) for one in connection.requests()]

    def say_goodbye(self) -> None:
        """Make every stream say goodbye and end, also those that begin later."""
        self.closing = True
        for connection in list(self._open):
            connection.say_goodbye()

    def abort(self, reason: CloseReason = CloseReason.SHUTDOWN, detail: str = GOING_DOWN) -> None:
        """Reset every connection."""
        for connection in list(self._open):
            connection.abort(reason, detail)


_all: weakref.WeakSet[Connections] = weakref.WeakSet()


def at_work() -> list[str]:
    """Describe the requests at work in all servers of this process, for the log.

    Works in any thread, even while the event loop is blocked.
    """
    return [one for connections in list(_all) for one in connections.requests()]
