"""One connection to Postgres: libpq, driven by one task of Trio, without threads.

::

    caller ──► queue ──► `work` ──► send, flush, wait, read ──► caller
                           ├──► notifications, as they come
                           └──► `select 1` after a second of silence

One statement is under way at a time. Each is a transaction of its own, so the connection may lead
through a pooler. Only `work` touches the socket. So a caller that is cancelled leaves at once: a
statement that was not sent is withdrawn, and of one that was the reply is read and thrown away.

The server must answer within a deadline, which begins anew with each part of an answer. One that
does not is taken for dead, and the connection is lost.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import outcome
import trio

from flowstream._errors import LogUnavailableError, missing_extra
from flowstream.logs.postgres._binary_values import decoder

try:
    import psycopg
    from psycopg import pq
except ImportError:
    raise missing_extra("a log on Postgres", "postgres") from None

# Seconds without a word from the server after which it is asked for one.
BEAT_SECONDS = 1.0
# Statements that wait for one connection.
QUEUE_CALLS = 512

Row = tuple[Any, ...]

_ANSWERED = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK, pq.ExecStatus.EMPTY_QUERY)


class Statement(NamedTuple):
    """A statement, and the name that it is prepared under; it is sent with binary parameters."""

    name: str
    sql: str


_LIFE_SIGN = Statement("life_sign", "select 1")


class PostgresRefusedError(Exception):
    """The server answered a statement with an error. It did nothing.

    Attributes:
        state: the SQLSTATE.
        text: the server's own words, without the statement's values.
    """

    def __init__(self, state: str, text: str) -> None:
        super().__init__(state, text)
        self.state = state
        self.text = text


class PostgresLostError(Exception):
    """The connection was lost.

    Attributes:
        text: why.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class PostgresCall:
    """A statement that a task waits for.

    Args:
        statement: what to do.
        params: its parameters, in binary; None for null.
        patience: seconds that a part of the answer may take, if that is more than usual.

    Attributes:
        sent: whether it was sent, so that it may have been done.
        failure: why the last try failed; None if none has.
    """

    __slots__ = ("failure", "params", "patience", "sent", "statement", "task")

    def __init__(
        self,
        statement: Statement,
        params: Sequence[bytes | None] = (),
        patience: float | None = None,
    ) -> None:
        self.statement = statement
        self.params = params
        self.patience = patience
        self.sent = False
        self.failure: LogUnavailableError | None = None
        self.task: trio.lowlevel.Task | None = None


class PostgresConnection:
    """A connection that `open_connection` made. Its owner runs `work`.

    Args:
        pg: libpq's connection.
        patience: seconds that the server may take for a part of an answer.
        notified: called with the payload of each notification.

    Attributes:
        prepares: whether statements are prepared. A pooler may not know them again.
        process: the number of the server's process, as the server said when it connected. A pooler
            says another one.
        server: which server it leads to, as whoever made it has found out.
        lost: set when the connection is lost.
        why: why it is lost, or about to be; "" while it is not.
    """

    def __init__(
        self, pg: pq.abc.PGconn, patience: float, notified: Callable[[str], None] | None = None
    ) -> None:
        self._pg = pg
        self._patience = patience
        self._notified = notified
        self._queue: deque[PostgresCall] = deque()
        self._room = trio.CapacityLimiter(QUEUE_CALLS)
        self._idle: trio.CancelScope | None = None
        self._working = trio.CancelScope()
        self._prepared: set[str] = set()
        self.prepares = False
        self.process: int = pg.backend_pid
        self.server = ""
        self.lost = trio.Event()
        self.why = ""

    async def do(self, call: PostgresCall) -> list[Row]:
        """Do a call, and **wait** for its rows.

        Raises:
            PostgresRefusedError: the server did not do it.
            PostgresLostError: the connection is lost; see the call's ``sent``.
        """
        async with self._room:
            if self.why:
                raise PostgresLostError(self.why)
            call.task = trio.lowlevel.current_task()
            self._queue.append(call)
            if self._idle is not None:
                self._idle.cancel()

            def leave(_: object) -> trio.lowlevel.Abort:
                call.task = None
                with suppress(ValueError):  # it is under way
                    self._queue.remove(call)
                return trio.lowlevel.Abort.SUCCEEDED

            rows: list[Row] = await trio.lowlevel.wait_task_rescheduled(leave)
            return rows

    def lose(self, why: str) -> None:
        """Have `work` end, and close the connection."""
        self.why = self.why or why
        self._working.cancel()

    async def work(self) -> None:
        """Do what `do` is asked for, until the connection is lost or this is cancelled."""
        current: PostgresCall | None = None
        try:
            with self._working:
                while True:
                    current = await self._next()
                    await self._perform(current)
                    current = None
        except PostgresLostError as error:
            self.why = self.why or error.text
        except psycopg.Error as error:
            self.why = self.why or _words(str(error))
        finally:
            self.why = self.why or "the log was closed"
            self._pg.finish()
            self.lost.set()
            for call in (*filter(None, [current]), *self._queue):
                _give(call, outcome.Error(PostgresLostError(self.why)))
            self._queue.clear()

    async def _next(self) -> PostgresCall:
        """Wait for a call; hear notifications meanwhile."""
        while not self._queue:
            with trio.move_on_after(BEAT_SECONDS) as self._idle:
                await trio.lowlevel.wait_readable(self._pg.socket)
                self._read()
            silent = self._idle.cancelled_caught and not self._queue
            self._idle = None
            if silent:
                return PostgresCall(_LIFE_SIGN)
        return self._queue.popleft()

    async def _perform(self, call: PostgresCall) -> None:
        pg, (name, sql) = self._pg, call.statement
        patience = self._patience if call.patience is None else call.patience
        try:
            if self.prepares and name not in self._prepared:
                pg.send_prepare(name.encode(), sql.encode())
                await self._answer(patience)
                self._prepared.add(name)
            call.sent = True
            formats = [1] * len(call.params)
            if self.prepares:
                pg.send_query_prepared(name.encode(), call.params, formats, 1)
            else:
                pg.send_query_params(sql.encode(), call.params, None, formats, 1)
            rows = await self._answer(patience)
        except PostgresRefusedError as error:
            _give(call, outcome.Error(error))
        else:
            _give(call, outcome.Value(rows))

    async def _answer(self, patience: float) -> list[Row]:
        """Send what libpq has, and wait for the answer to one statement.

        libpq is asked whether it is busy before each result, also before the one that says that
        there is no other: the server may take its time between a row and the end of a transaction,
        and `get_result` would block the whole process until then.
        """
        rows: list[Row] = []
        refused: PostgresRefusedError | None = None
        await self._flush(patience)
        while (result := await self._result(patience)) is not None:
            if result.status in _ANSWERED:
                try:
                    rows = _rows(result)
                except (ValueError, struct.error) as error:
                    raise PostgresLostError(f"it sent what is no value: {error}") from None
            else:
                state = result.error_field(pq.DiagnosticField.SQLSTATE)
                if state is None or result.status is pq.ExecStatus.COPY_BOTH:
                    raise PostgresLostError(_words(result.get_error_message()))
                words = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b""
                refused = PostgresRefusedError(
                    state.decode("ascii", "replace"), _words(words.decode("utf-8", "replace"))
                )
        self._hear()
        if refused is not None:
            raise refused
        return rows

    async def _flush(self, patience: float) -> None:
        """Send what libpq has. Meanwhile it reads: the server may wait until we do."""
        while self._pg.flush():
            with self._in_time(patience):
                await _readable_or_writable(self._pg.socket)
            self._read()

    async def _result(self, patience: float) -> pq.abc.PGresult | None:
        while self._pg.is_busy():
            with self._in_time(patience):
                await trio.lowlevel.wait_readable(self._pg.socket)
            self._read()
        return self._pg.get_result()

    @contextmanager
    def _in_time(self, patience: float) -> Iterator[None]:
        try:
            with trio.fail_after(patience):
                yield
        except trio.TooSlowError:
            raise PostgresLostError(f"it did not answer within {patience:g} s") from None

    def _read(self) -> None:
        self._pg.consume_input()
        self._hear()

    def _hear(self) -> None:
        while (notification := self._pg.notifies()) is not None:
            if self._notified is not None:
                self._notified(notification.extra.decode("utf-8", "replace"))


async def _readable_or_writable(socket: int) -> None:
    """**Wait** until one can read from a socket, or write to it."""
    async with trio.open_nursery() as nursery:

        async def wait(ready: Callable[[int], Awaitable[None]]) -> None:
            await ready(socket)
            nursery.cancel_scope.cancel()

        nursery.start_soon(wait, trio.lowlevel.wait_readable)
        nursery.start_soon(wait, trio.lowlevel.wait_writable)


def _give(call: PostgresCall, result: outcome.Outcome[list[Row]]) -> None:
    """Wake the task of a call, if it still waits."""
    task, call.task = call.task, None
    if task is not None:
        trio.lowlevel.reschedule(task, result)


def _rows(result: pq.abc.PGresult) -> list[Row]:
    columns = range(result.nfields)
    decoders = [decoder(result.ftype(column)) for column in columns]
    get = result.get_value
    return [
        tuple(
            None if (value := get(row, column)) is None else decode(value)
            for column, decode in enumerate(decoders)
        )
        for row in range(result.ntuples)
    ]


def _words(text: str) -> str:
    """Return an error of libpq or of the server as one line."""
    return " ".join(text.split()) or "no reason was given"


async def open_connection(
    conninfo: bytes,
    *,
    patience: float,
    notified: Callable[[str], None] | None = None,
) -> PostgresConnection:
    """**Connect** to one address.

    Args:
        conninfo: the address; its host has been looked up.
        patience: seconds until there is a session, and that the server may take for an answer.
        notified: called with the payload of each notification.

    Raises:
        PostgresLostError: there is no session; the text says why.
    """
    pg: pq.abc.PGconn | None = None
    try:
        with trio.fail_after(patience):
            pg = pq.PGconn.connect_start(conninfo)
            # It may have another socket at each turn: another try with TLS, or without.
            while (step := pg.connect_poll()) != pq.PollingStatus.OK:
                if step == pq.PollingStatus.FAILED:
                    raise PostgresLostError(_words(pg.get_error_message()))
                if step == pq.PollingStatus.READING:
                    await trio.lowlevel.wait_readable(pg.socket)
                else:
                    await trio.lowlevel.wait_writable(pg.socket)
        pg.nonblocking = 1
        made, pg = PostgresConnection(pg, patience, notified), None
    except trio.TooSlowError:
        raise PostgresLostError(f"it did not let us in within {patience:g} s") from None
    except psycopg.Error as error:
        raise PostgresLostError(_words(str(error))) from None
    finally:
        if pg is not None:
            pg.finish()
    return made
