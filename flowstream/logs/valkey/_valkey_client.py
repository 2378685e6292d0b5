"""A connection to the primary that is made again whenever it is lost.

`ValkeyClient.run` looks for the primary (among several servers, or with the help of sentinels),
logs in, checks that a log can be kept there, has its owner prepare the connection, and lends it
out. When the connection is lost it begins anew, after a wait that grows, with jitter.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import trio

from flowstream._clock import clock
from flowstream._errors import LogUnavailableError
from flowstream.logs._log_run import alone
from flowstream.logs.valkey import _server_facts as facts
from flowstream.logs.valkey._greeting import RefusedError, sort_error
from flowstream.logs.valkey._primary import Primary
from flowstream.logs.valkey._server_error import ServerError
from flowstream.logs.valkey._valkey_connection import ValkeyConnection, ValkeyTimeouts
from flowstream.logs.valkey._valkey_settings import ValkeySettings
from flowstream.tasks._retry import Backoff, Retry

logger = logging.getLogger("flowstream")

# A server that was killed is back soon, and one that failed over is found soon.
_RETRY = Retry(first=0.05, longest=1.0)
_LOOK_SECONDS = 5
_SENTENCES = 100  # different ones that are logged

_PASSING = (LogUnavailableError, RefusedError)


class ValkeyClient:
    """One connection to the primary, as long as `run` runs.

    Args:
        settings: where the servers are, and how to log in.
        ready: awaited with each new connection, before anybody else has it: to load scripts and to
            subscribe. If it raises `LogUnavailableError` or `ServerError`, this connection is given
            up.
        pushed: called in the event loop with each push; it must not raise.
        lost: called when a connection that was ready is lost.
        look: awaited with the connection again and again. It must find out whether the server has
            become a replica: nothing else tells a worker that only reads, and a replica may have
            lost its primary. If it raises one of the errors above, nothing comes of it. Without it
            the server is asked for its role.
        look_seconds: between two looks.
        timeouts: how long to wait for servers.

    Attributes:
        away: why there is no connection, a sentence without secrets; None while there is one.
        connections: the number of connections that were ready so far.
    """

    def __init__(
        self,
        settings: ValkeySettings,
        *,
        ready: Callable[[ValkeyConnection], Awaitable[None]],
        pushed: Callable[[list[Any]], None],
        lost: Callable[[], None],
        look: Callable[[ValkeyConnection], Awaitable[None]] | None = None,
        look_seconds: float = _LOOK_SECONDS,
        timeouts: ValkeyTimeouts | None = None,
    ) -> None:
        self.away: str | None = "the log is not open"
        self.connections = 0
        self._timeouts = timeouts or ValkeyTimeouts()
        self._primary = Primary(settings, self._timeouts.connect)
        self._pushed = pushed
        self._ready = ready
        self._lost = lost
        self._look = look or _ask_role
        self._look_seconds = look_seconds
        self._connection: ValkeyConnection | None = None
        self._available = trio.Event()
        self._since = math.inf  # when the connection was ready
        self._told: set[str] = set()

    @property
    def at_hand(self) -> ValkeyConnection | None:
        """The connection; None while there is none."""
        connection = self._connection
        return None if connection is None or connection.lost is not None else connection

    async def connection(self) -> ValkeyConnection:
        """Return the connection; **wait** until there is one. Bring your own deadline.

        It may be lost at once: its calls then raise.
        """
        while True:
            if (connection := self.at_hand) is not None:
                return connection
            await self._available.wait()
            await trio.lowlevel.checkpoint()

    async def run(  # noqa: ASYNC114, ASYNC128  # the log starts it, and `_live` says so
        self, *, task_status: Any = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Connect, and connect again whenever the connection is lost, until this is cancelled.

        ``nursery.start`` **returns** when the first connection is ready.

        Raises:
            LogUnavailableError: no connection came about for `ValkeyTimeouts.start` seconds, or a
                server refused: its sentence says why. Once there was a connection, nothing is
                raised any more.
        """
        self.away = "no server has answered yet"
        backoff = Backoff(_RETRY)
        deadline = clock.current_time() + self._timeouts.start
        while True:
            self._since = math.inf
            try:
                await self._live(deadline, task_status)
            except BaseExceptionGroup as group:
                error = alone(group)
                if not isinstance(error, _PASSING):
                    raise
                self._fail(error)
            except _PASSING as error:
                self._fail(error)
            if self.connections:
                deadline, task_status = math.inf, trio.TASK_STATUS_IGNORED
            elif clock.current_time() >= deadline:
                raise LogUnavailableError(self.away)
            await trio.sleep(backoff.fail(clock.current_time() - self._since))

    async def _live(  # noqa: ASYNC114  # `run` calls it
        self, deadline: float, task_status: Any
    ) -> None:
        """Find the primary, and lend the connection to it out until it is lost.

        Args:
            deadline: until when it must be ready.
            task_status: told when it is ready.
        """
        with trio.move_on_at(deadline) as scope:
            greeting, info = await self._primary.connect()
            connection = ValkeyConnection(
                greeting.stream, greeting.where, self._timeouts, self._pushed
            )
            connection.info = info
            async with trio.open_nursery() as nursery:
                await nursery.start(connection.run)
                self._check(connection)
                try:
                    await self._ready(connection)
                except ServerError as error:
                    raise sort_error(connection.where, error) from error
                scope.deadline = math.inf
                self._since = clock.current_time()
                self._connection, self.away = connection, None
                self.connections += 1
                self._available.set()
                task_status.started()
                try:
                    while connection.lost is None:
                        with trio.move_on_after(self._look_seconds):
                            await connection.wait_lost()
                        with suppress(LogUnavailableError, ServerError):
                            await self._look(connection)
                finally:
                    self._connection = None
                    self.away = connection.lost or "the log is closed"
                    self._available = trio.Event()
                    self._lost()

    def _check(self, connection: ValkeyConnection) -> None:
        """Refuse a server whose settings lose events, at the start; later, warn.

        Raises:
            RefusedError: see above.
        """
        unsafe = facts.why_unsafe(connection.info)
        if unsafe is not None and not self.connections:
            raise RefusedError(f"{connection.where}: {unsafe}")
        for sentence in facts.warnings(connection.info):
            self._tell_once(logging.WARNING, f"{connection.where}: {sentence}")

    def _fail(self, error: Exception) -> None:
        """Remember why there is no connection.

        Raises:
            LogUnavailableError: there never was one, and waiting will not help.
        """
        self.away = str(error)
        if isinstance(error, RefusedError):
            if not self.connections:
                raise LogUnavailableError(self.away) from None
            self._tell_once(logging.ERROR, self.away)

    def _tell_once(self, level: int, sentence: str) -> None:
        if sentence not in self._told and len(self._told) < _SENTENCES:
            self._told.add(sentence)
            logger.log(level, "%s", sentence)


async def _ask_role(connection: ValkeyConnection) -> None:
    """Give the connection up if its server is a replica now."""
    reply = await connection.call(b"INFO", b"replication")
    if facts.read_info(reply).get("role") == "slave":
        connection.give_up("the server has become a replica")
