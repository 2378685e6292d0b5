"""What an open log on Postgres has: three connections, and what works over them.

============ ======================================================================
`writer`     appends, in batches; leases, deletions
`reader`     pages, heads, news of watched topics
`listener`   LISTEN, and NOTIFY of what was appended; not through a pooler
============ ======================================================================

NOTIFY is a transaction of its own behind the append. Inside it, all commits of the database that
notify would wait for each other.

All three are to one server: what was appended to one can't be read from another. While a failover
is under way, two servers may take writes. Then the newest connection says which one is used, and
the other two are made anew.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import trio

from flowstream._clock import clock
from flowstream._errors import LogUnavailableError
from flowstream.abc import Hint, Stale
from flowstream.logs._epochs import epochs_from_text
from flowstream.logs.postgres import _binary_values as binary
from flowstream.logs.postgres import _statements as sql
from flowstream.logs.postgres._lineage import Lineage
from flowstream.logs.postgres._postgres_dsn import PostgresDSN
from flowstream.logs.postgres._postgres_link import PostgresLink
from flowstream.logs.postgres._postgres_news import PostgresNews
from flowstream.logs.postgres._postgres_writer import AppendJob, PostgresWriter
from flowstream.logs.postgres._pq_connection import (
    PostgresCall,
    PostgresConnection,
    PostgresRefusedError,
    Row,
    Statement,
)
from flowstream.logs.postgres._schema import version_advice

T = TypeVar("T")

# Seconds that the log waits for its first connections, when it is opened.
_START_SECONDS = 5.0
# Seconds that the server may take for a part of an answer, and to let us in.
_ANSWER_SECONDS = 3.0
# Seconds between two looks for what is over its time, and for what apps have left to be relayed.
_MAINTAIN_SECONDS = 5.0
_RELAY_SECONDS = 1.0
_RELAY_EVENTS = 500
# Lives of the log that may begin while a reader asks for one thing.
_LIVES = 8
# Seconds to say what was appended, when the log is closed.
_LAST_SECONDS = 1.0


class OpenPostgres:
    """An open log.

    Args:
        dsn: where to write and to read.
        listen_dsn: where to listen.
        patience: seconds that a call waits.
        relays: whether it appends what apps leave in the relay.
        hint: see `flowstream.abc.Log.run`.
        stale: see `flowstream.abc.Log.run`.

    Attributes:
        lineage: what is known of the server.
        server: which one is used; "" before there is one.
        writer: appends.
        news: the topics that are watched.
    """

    def __init__(
        self,
        dsn: PostgresDSN,
        listen_dsn: PostgresDSN,
        patience: float,
        relays: bool,
        hint: Hint,
        stale: Stale,
    ) -> None:
        self.lineage = Lineage()
        self.server = ""
        self._patience = patience
        self._relays = relays
        self._stale = stale
        self._was_heard = False
        self._connecting = trio.CancelScope()
        self._relay_news = trio.Event()
        self._untold: dict[int, str] = {}  # {number of a topic: what to notify}
        self._unsaid = trio.Event()
        self._new_life = trio.Event()
        self._write = PostgresLink(dsn, "appends", _ANSWER_SECONDS, self._greet)
        self._read = PostgresLink(dsn, "reads", _ANSWER_SECONDS, self._greet_to_read)
        self._listen = PostgresLink(
            listen_dsn, "news", _ANSWER_SECONDS, self._begin_listening, self._hear
        )
        self.writer = PostgresWriter(self._write, self.lineage, patience, self._committed)
        self.news = PostgresNews(self._read, patience, hint, stale)

    async def run(  # noqa: ASYNC114  # `PostgresLog.run` starts it
        self, *, task_status: Any = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Hold the connections until this is cancelled.

        Raises:
            LogUnavailableError: there is no connection for 5 s, or the server refuses.
        """
        async with trio.open_nursery() as nursery:
            try:
                await nursery.start(self._connect)
                async with trio.open_nursery() as work:
                    work.start_soon(self.writer.work)
                    work.start_soon(self.news.work)
                    work.start_soon(self._notify)
                    work.start_soon(self._maintain)
                    work.start_soon(self._learn_lives)
                    if self._relays:
                        work.start_soon(self._empty_relay)
                    task_status.started()
            finally:
                with trio.CancelScope(shield=True, deadline=clock.current_time() + _LAST_SECONDS):
                    await self._say()
                self._connecting.cancel()

    async def _connect(  # noqa: ASYNC114, ASYNC128  # `run` starts it
        self, *, task_status: Any
    ) -> None:
        """Hold the connections; once they are there, until `_connecting` is cancelled."""
        with self._connecting:
            async with trio.open_nursery() as nursery:
                with trio.move_on_after(_START_SECONDS) as start:
                    for link in (self._write, self._read, self._listen):
                        await nursery.start(link.run)
                if start.cancelled_caught:
                    failures = (self._write.failure, self._read.failure, self._listen.failure)
                    raise next(filter(None, failures), self._write.unavailable("it is slow"))
                # Behind the shield nobody would end this if it is cancelled already.
                await trio.lowlevel.checkpoint()
                self._connecting.shield = True
                task_status.started()

    async def write(self, statement: Statement, *params: bytes | None) -> list[Row]:
        """Do a statement that writes, and **wait** for its rows.

        Raises:
            LogUnavailableError: it was not done in time, or nobody knows.
            LogFullError: the server has no room.
        """
        return await self._write.call(statement, params, patience=self._patience, writes=True)

    async def read(self, statement: Statement, *params: bytes | None) -> list[Row]:
        """Do a statement that reads, and **wait** for its rows.

        Raises:
            LogUnavailableError: it was not done in time.
        """
        return await self._read.call(statement, params, patience=self._patience)

    async def touch(self, topics: Sequence[str]) -> None:
        """Have topics of an earlier lineage begin a new epoch, and learn the lineage."""
        for topic in topics:
            await self.write(sql.TOUCH, binary.text(topic), binary.text(""), binary.int8(0))
        await self.look_back()

    async def of_this_life(
        self, ask: Callable[[], Awaitable[T]], passed: Callable[[T], list[str]]
    ) -> T:
        """Ask again while topics in the answer are of an earlier life: have them be touched.

        Args:
            ask: reads.
            passed: names those topics.

        Raises:
            LogUnavailableError: one life follows on the other, or two servers answer in turn.
        """
        for _ in range(_LIVES):
            answer = await ask()
            if not (topics := passed(answer)):
                return answer
            await self.touch(topics)
        raise LogUnavailableError(f"{self._write.where} begins one life of the log after the other")

    async def look_back(self) -> None:
        """Have the server begin a new life if it has less than was seen of it."""
        rows = await self._write.call(
            sql.HELLO,
            self._known(),
            patience=self._patience,
            writes=True,
            anew=self._known,
        )
        self._hear_hello(rows[0])

    def tell(self, topic: int, epoch: str, newest: int) -> None:
        """Have other processes hear that a topic has news."""
        self._untold[topic] = f"{topic} {epoch} {newest}"
        self._unsaid.set()

    async def _greet(self, connection: PostgresConnection) -> None:
        """Make a connection to write or read over fit for use."""
        process = await self._ask_process(connection)
        # A pooler says a number of its own, and gives each statement another session.
        connection.prepares = process == connection.process
        [hello] = await connection.do(PostgresCall(sql.HELLO, self._known()))
        if advice := version_advice(hello[0]):
            raise LogUnavailableError(f"{self._write.where} {advice}")
        if hello[-1]:
            raise PostgresRefusedError("25006", "the server is read-only")
        self._hear_hello(hello)
        self._use_only(connection.server)

    async def _greet_to_read(self, connection: PostgresConnection) -> None:
        await self._greet(connection)
        self.news.learn_anew()

    async def _ask_process(self, connection: PostgresConnection) -> int:
        """Find out which server a connection is to; return the number of its process."""
        [(process, *server)] = await connection.do(PostgresCall(sql.PROCESS))
        connection.server = "".join(map(str, server))
        return int(process)

    def _use_only(self, server: str) -> None:
        """Have all connections be to this server."""
        self.server = server
        for link in (self._write, self._read, self._listen):
            link.leave_others(server)

    def _known(self) -> tuple[bytes, bytes]:
        """Return what is known of the server, as parameters."""
        return binary.text(self.lineage.name), binary.int8(self.lineage.wal)

    def _hear_hello(self, hello: Row) -> None:
        _, name, wal, _, _ = hello
        self.lineage.hear(name, wal)

    async def _begin_listening(self, connection: PostgresConnection) -> None:
        process = await self._ask_process(connection)
        if process != connection.process:
            raise LogUnavailableError(
                f"{self._listen.where} is a pooler, which can't be listened through: give the "
                "server's own address as listen_dsn"
            )
        await connection.do(PostgresCall(sql.LISTEN))
        self._use_only(connection.server)
        if self._was_heard:
            self._stale(None)
        self._was_heard = True

    def _hear(self, payload: str) -> None:
        if payload == "relay":
            self._relay_news.set()
        else:
            if payload == "0":
                self._new_life.set()
            self.news.hear(payload)

    def _committed(self, job: AppendJob, row: Row) -> None:
        topic, epochs, first, added, *_ = row
        if not added:
            return
        epoch = epochs_from_text(epochs)[-1][0]
        self.tell(topic, epoch, first + added - 1)
        if added == len(job.entries):
            self.news.add(job.topic, topic, first, epoch, job.entries)

    async def _notify(self) -> None:
        while True:
            while not self._untold:
                self._unsaid = trio.Event()
                await self._unsaid.wait()
            await self._say()

    async def _say(self) -> None:
        """Notify of what was not said yet."""
        said = dict(self._untold)
        if said:
            with suppress(LogUnavailableError):  # others find it when they compare heads
                await self._listen.call(
                    sql.NOTIFY, [binary.text_array(list(said.values()))], patience=self._patience
                )
            # Only now: there may be more news by now, and who is cancelled has said nothing.
            for topic, payload in said.items():
                if self._untold.get(topic) == payload:
                    del self._untold[topic]

    async def _maintain(self) -> None:
        while True:
            with suppress(LogUnavailableError):  # the next one will do it
                while (await self.write(sql.MAINTAIN))[0][0]:
                    pass
            await trio.sleep(_MAINTAIN_SECONDS)

    async def _learn_lives(self) -> None:
        """Learn the lineage when the log has begun a new life."""
        while True:
            await self._new_life.wait()
            self._new_life = trio.Event()
            with suppress(LogUnavailableError):  # the next connection will
                await self.look_back()

    async def _empty_relay(self) -> None:
        while True:
            self._relay_news = trio.Event()
            with suppress(LogUnavailableError):  # what waits there is not lost
                while (await self.write(sql.EMPTY_RELAY))[0][0] >= _RELAY_EVENTS:
                    pass
            with trio.move_on_after(_RELAY_SECONDS):
                await self._relay_news.wait()
