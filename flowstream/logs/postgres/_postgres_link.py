"""A link to Postgres: one connection at a time, made again when it is lost.

Callers wait while there is none, and bring their own deadline. What is asked here may always be
asked twice: reads, and writes that the log knows again by their token. So a call whose connection
was lost, or that was in another transaction's way, is done again until its time is up.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio

from flowstream._clock import chance, clock
from flowstream._errors import LogFullError, LogUnavailableError
from flowstream.logs.postgres._postgres_dsn import PostgresDSN
from flowstream.logs.postgres._pq_connection import (
    PostgresCall,
    PostgresConnection,
    PostgresLostError,
    PostgresRefusedError,
    Row,
    Statement,
    open_connection,
)
from flowstream.logs.postgres._sqlstates import Remedy, refusal

logger = logging.getLogger("flowstream")

# Seconds between two tries to connect: the first pause, and the longest one.
FIRST_PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 1.0
# Seconds before a statement that was in another transaction's way is tried again, at the most.
RETRY_SECONDS = 0.05


class PostgresLink:
    """A link. Its owner runs `run`; others call.

    Args:
        dsn: where to connect.
        purpose: what the connection is for, for the log.
        patience: seconds that the server may take to let us in, or for a part of an answer.
        ready: makes a new connection fit for use.
        notified: called with the payload of each notification.

    Attributes:
        failure: why there is no connection; None if nothing has failed since the last one.
        where: the server, the port and the database, for messages.
    """

    def __init__(
        self,
        dsn: PostgresDSN,
        purpose: str,
        patience: float,
        ready: Callable[[PostgresConnection], Awaitable[None]],
        notified: Callable[[str], None] | None = None,
    ) -> None:
        self._dsn = dsn
        self._purpose = purpose
        self._patience = patience
        self._ready = ready
        self._notified = notified
        self._connection: PostgresConnection | None = None
        self._connected = trio.Event()
        self.failure: LogUnavailableError | None = None
        self.where = f"Postgres at {dsn.where}"

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:  # noqa: ASYNC114  # the log starts it
        """Keep a connection until it is cancelled. It has started when the first one is ready.

        Raises:
            LogUnavailableError: before it has started, the server refuses what a later try can't
                mend.
        """
        pause = FIRST_PAUSE_SECONDS
        started = False
        since = math.inf  # when the last connection was ready

        def begin() -> None:
            nonlocal since, started
            since = clock.current_time()
            if not started:
                started = True
                task_status.started()
            elif self.failure is not None:
                logger.info("%s is back, for %s", self.where, self._purpose)
            self.failure = None

        while True:
            error, final = await self._hold(begin)
            if final and not started:
                raise error
            if started and self.failure is None:
                logger.warning("the connection for %s is lost: %s", self._purpose, error)
            self.failure = error
            if clock.current_time() - since >= LONGEST_PAUSE_SECONDS:  # it was of use
                pause = FIRST_PAUSE_SECONDS
            since = math.inf
            await trio.sleep(chance.uniform(pause / 2, pause))
            pause = min(LONGEST_PAUSE_SECONDS, 2 * pause)

    def leave_others(self, server: str) -> None:
        """Connect again, unless the connection is to this server."""
        connection = self._connection
        if connection is not None and connection.server != server:
            self._leave(connection, "another server is used by now")

    async def connection(self) -> PostgresConnection:
        """Return the connection; **wait** for one as long as it takes."""
        while self._connection is None:
            await self._connected.wait()
        return self._connection

    async def call(
        self,
        statement: Statement,
        params: Sequence[bytes | None] = (),
        *,
        patience: float,
        writes: bool = False,
        anew: Callable[[], Sequence[bytes | None]] | None = None,
    ) -> list[Row]:
        """Do a statement, and **wait** for its rows: `patience` seconds at the most.

        Args:
            statement: what to do.
            params: its parameters, in binary; None for null.
            patience: seconds.
            writes: whether it may have been done if no answer comes.
            anew: makes the parameters for another try, if they say what is known of the server.

        Raises:
            LogUnavailableError: it was not done in time; or the server refuses.
            LogFullError: the server has no room.
        """
        call = PostgresCall(statement, params)
        return await self.do(call, patience=patience, writes=writes, anew=anew)

    async def do(
        self,
        call: PostgresCall,
        *,
        patience: float,
        writes: bool,
        anew: Callable[[], Sequence[bytes | None]] | None = None,
    ) -> list[Row]:
        """Do a call: see `call`. Meanwhile its ``failure`` is why the last try failed."""
        with trio.move_on_after(patience):
            while True:
                connection = await self.connection()
                sent_before = call.sent
                try:
                    rows = await connection.do(call)
                    if writes or not connection.why:
                        return rows
                    call.failure = self.unavailable(connection.why)  # another server is used by now
                except PostgresLostError as error:
                    call.failure = self.unavailable(error.text)
                except PostgresRefusedError as error:
                    call.failure = self.refused(error, connection)
                    call.sent = sent_before  # this time it did nothing
                    if refusal(error.state).remedy not in (Remedy.RETRY, Remedy.RECONNECT):
                        break
                    await trio.sleep(chance.uniform(RETRY_SECONDS / 2, RETRY_SECONDS))
                if anew is not None:
                    await self.connection()
                    call.params = anew()
        slow = f"no answer within {patience:g} s"
        failure = call.failure or self.failure or self.unavailable(slow)
        raise type(failure)(*failure.args, maybe=writes and call.sent) from None

    def refused(
        self, error: PostgresRefusedError, connection: PostgresConnection
    ) -> LogUnavailableError:
        """Return the error for a refusal; lose the connection if another one may do better."""
        found = refusal(error.state)
        kind = LogFullError if found.remedy is Remedy.FULL else LogUnavailableError
        failure = kind(f"{self.where} {found.advice} ({error.text}, SQLSTATE {error.state})")
        if found.remedy is Remedy.RECONNECT:
            self._leave(connection, error.text)
            self.failure = self.failure or failure
        return failure

    def unavailable(self, text: str) -> LogUnavailableError:
        """Return the error for a server that can't be reached, or does not answer."""
        return LogUnavailableError(f"{self.where} can't be reached: {text}")

    def _leave(self, connection: PostgresConnection, why: str) -> None:
        connection.lose(why)
        self._take_back(connection)

    def _take_back(self, connection: PostgresConnection) -> None:
        """Lend a connection out no more."""
        if self._connection is connection:
            self._connection = None
            self._connected = trio.Event()

    async def _hold(self, begin: Callable[[], None]) -> tuple[LogUnavailableError, bool]:
        """Connect to the first server that is fit, and stay; return why it ended.

        The second value says whether a later try can't mend it.
        """
        try:
            attempts = await self._dsn.attempts()
        except OSError as failure:
            return self.unavailable(f"its name is not found ({failure})"), False
        error, final = self.unavailable("it has no address"), False
        for conninfo in attempts:
            try:
                connection = await open_connection(
                    conninfo, patience=self._patience, notified=self._notified
                )
            except PostgresLostError as failure:
                error, final = self.unavailable(failure.text), False
                continue
            unfit = await self._use(connection, begin)
            if unfit is None:
                return self.unavailable(connection.why), False
            error, final = unfit
        return error, final

    async def _use(
        self, connection: PostgresConnection, begin: Callable[[], None]
    ) -> tuple[LogUnavailableError, bool] | None:
        """Lend a connection out until it is lost; return why not, if it is not fit for use."""
        unfit: tuple[LogUnavailableError, bool] | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.work)
            try:
                await self._ready(connection)
            except PostgresRefusedError as failure:
                final = refusal(failure.state).remedy is Remedy.REFUSED
                unfit = self.refused(failure, connection), final
            except LogUnavailableError as failure:
                unfit = failure, True
            except PostgresLostError as failure:
                unfit = self.unavailable(failure.text), False
            else:
                self._connection = connection
                self._connected.set()
                begin()
                try:
                    await connection.lost.wait()
                finally:
                    self._take_back(connection)
            nursery.cancel_scope.cancel()
        return unfit
