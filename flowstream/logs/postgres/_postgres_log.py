"""A log in a Postgres database: any number of processes on any number of machines.

Each call is one function of the schema ``flowstream``, and so one transaction: the database decides
on order, numbers and epochs. A topic is a row with a counter, whose lock orders the appends; see
``sql/tables.sql``. `flowstream log init` makes the schema.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import trio

from flowstream.abc import (
    Appended,
    Head,
    Hint,
    LatestPage,
    Lease,
    Log,
    LogEntry,
    OutboxStatement,
    ParameterStyle,
    Position,
    Record,
    Stale,
)
from flowstream.limits import Replay, check_positive
from flowstream.logs._append_arguments import (
    PAGE_BYTES,
    PAGE_NAMES,
    batches,
    check_append,
    check_limit,
    check_topic,
    check_topics,
)
from flowstream.logs._epochs import can_be_stored, epochs_from_text
from flowstream.logs._lease_rules import (
    check_beat,
    check_claim,
    check_fence,
    check_seconds,
    check_token,
    fenced,
)
from flowstream.logs._log_run import LogRun, not_open
from flowstream.logs.postgres import _binary_values as binary
from flowstream.logs.postgres import _statements as sql
from flowstream.logs.postgres._open_postgres import OpenPostgres
from flowstream.logs.postgres._outbox_statement import OutboxTable, outbox_statement
from flowstream.logs.postgres._postgres_dsn import PostgresDSN
from flowstream.logs.postgres._postgres_pages import (
    PageOfTopic,
    read_head,
    read_latest,
    read_leases,
)
from flowstream.logs.postgres._postgres_writer import AppendJob


class PostgresLog(Log):
    """A log in a Postgres database, for any number of processes and machines.

    It needs Postgres 13 or newer, and the schema that `flowstream log init` makes. What `append`
    returned survives a crash of the server, and a failover to a standby that has it. If the server
    was set back, topics begin a new epoch, and clients are told of a gap.

    Args:
        dsn: the database, as libpq takes it: ``postgresql://user:password@host/database``.
        listen_dsn: where to listen, if `dsn` leads through a pooler such as PgBouncer; the server
            itself. None for `dsn`.
        outbox: how an app publishes inside a transaction of its own. With ``"trigger"`` its commit
            appends; with ``"relay"`` a worker does, soon after it.
        patience: seconds that a call waits while the server is away.

    Attributes:
        outbox: see above.

    Raises:
        TypeError, ValueError: an argument is none of these; the message has no secret in it.
        MissingExtraError: the package psycopg is not installed.
    """

    def __init__(
        self,
        dsn: str,
        *,
        listen_dsn: str | None = None,
        outbox: OutboxTable = "trigger",
        patience: float = 5.0,
    ) -> None:
        if outbox not in ("trigger", "relay"):
            raise ValueError(f"outbox must be 'trigger' or 'relay', not {outbox!r}")
        check_positive("patience", patience, unit="seconds")
        self._dsn = PostgresDSN(dsn)
        self._listen_dsn = self._dsn if listen_dsn is None else PostgresDSN(listen_dsn)
        self._patience = patience
        self.outbox: OutboxTable = outbox
        self._open: OpenPostgres | None = None
        self._running = LogRun()

    async def run(  # noqa: ASYNC114  # `open_log` starts it
        self, hint: Hint, stale: Stale, *, task_status: Any = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Hold the log open: see `flowstream.abc.Log.run`.

        Raises:
            LogUnavailableError: the database can't be used; the message says why.
        """
        with self._running.hold():
            opened = OpenPostgres(
                self._dsn,
                self._listen_dsn,
                self._patience,
                self.outbox == "relay",
                hint,
                stale,
            )
            async with trio.open_nursery() as nursery:
                await nursery.start(opened.run)
                self._open = opened
                try:
                    task_status.started()
                    await trio.sleep_forever()
                finally:
                    self._open = None

    async def append(
        self,
        topic: str,
        entries: Sequence[LogEntry],
        *,
        keep: Replay,
        token: str,
        fence: int | None = None,
    ) -> list[Appended]:
        """Append all entries or none: see `flowstream.abc.Log.append`."""
        opened = self._opened()
        size = check_append(topic, entries, keep, token)
        if fence is not None:
            check_token("fence", fence)
        if not entries:
            if fence is not None:
                check_fence(topic, (await self.leases([topic]))[topic], fence)
            await trio.lowlevel.checkpoint()
            return []
        return await opened.writer.append(AppendJob(topic, entries, keep, token, fence, size))

    async def read(
        self, topic: str, after: Position, limit: int, *, mine: bool = False
    ) -> tuple[Head, bool, list[Record]]:
        """Return what follows `after`: see `flowstream.abc.Log.read`."""
        opened = self._opened()
        check_topic(topic)
        check_limit(limit)
        epoch, number = after
        if not can_be_stored(epoch):
            epoch, mine = "-", False  # no epoch of ours
        position = binary.text(topic), binary.text(epoch), binary.int8(number)
        ends = binary.int4(min(limit, (1 << 31) - 1)), binary.int8(PAGE_BYTES)
        told = None  # the server that was told what this process has

        async def ask() -> PageOfTopic:
            nonlocal told
            while True:
                page = PageOfTopic(await opened.read(sql.READ, *position, *ends), (epoch, number))
                has_less = page.evidence or page.wal < opened.lineage.wal
                if not (mine and has_less) or told == opened.server:
                    return page
                told = opened.server
                await opened.look_back()
                await opened.write(sql.TOUCH, *position)

        page = await opened.of_this_life(ask, lambda page: [] if page.current else [topic])
        opened.lineage.see(page.wal)
        return page.head, page.known, page.records

    async def heads(self, topics: Iterable[str]) -> dict[str, Head]:
        """Return each topic's head: see `flowstream.abc.Log.heads`."""
        opened = self._opened()
        heads: dict[str, Head] = {}
        for some in batches(check_topics(topics)):
            rows = await opened.of_this_life(
                partial(opened.read, sql.HEADS, binary.text_array(some)),
                lambda rows: [name for name, *_, current in rows if not current],
            )
            found = {name: read_head(*head) for name, *head, _ in rows}
            unknown = found.pop(None)
            heads.update((name, found.get(name, unknown)) for name in some)
        await trio.lowlevel.checkpoint()
        return heads

    async def watch(self, topics: Iterable[str]) -> None:
        """Have hints of these topics: see `flowstream.abc.Log.watch`."""
        await self._opened().news.watch(check_topics(topics))

    async def unwatch(self, topics: Iterable[str]) -> None:
        """Have no more hints of these topics."""
        self._opened().news.unwatch(check_topics(topics))
        await trio.lowlevel.checkpoint()

    async def latest(self, topic: str, cursor: str | None = None) -> LatestPage:
        """Return the newest events by key: see `flowstream.abc.Log.latest`."""
        opened = self._opened()
        check_topic(topic)
        words = binary.text(topic), binary.text(cursor or ""), binary.int8(PAGE_BYTES)
        rows = await opened.of_this_life(
            partial(opened.read, sql.LATEST, *words),
            lambda rows: [] if rows[0][-1] else [topic],
        )
        return read_latest(rows)

    async def topics(
        self, prefix: str = "", cursor: str | None = None
    ) -> tuple[list[str], str | None]:
        """Return names of topics: see `flowstream.abc.Log.topics`."""
        opened = self._opened()
        rows = await opened.read(
            sql.TOPICS,
            binary.text(prefix),
            binary.text(cursor or ""),
            binary.int4(PAGE_NAMES + 1),
        )
        page = [name for (name,) in rows[:PAGE_NAMES]]
        return page, page[-1] if len(rows) > PAGE_NAMES else None

    async def trim(self, topic: str, keep: Replay | None = None) -> int:
        """Forget what is not kept: see `flowstream.abc.Log.trim`."""
        opened = self._opened()
        check_topic(topic)
        bounds = (None, None, None) if keep is None else _bounds(keep)
        [(trimmed,)] = await opened.write(sql.TRIM, binary.text(topic), *bounds)
        return int(trimmed)

    async def delete(self, topic: str) -> None:
        """Forget the topic: see `flowstream.abc.Log.delete`."""
        opened = self._opened()
        check_topic(topic)
        await opened.write(sql.DELETE, binary.text(topic))

    async def claim(
        self, topic: str, owner: str, *, seconds: float, instead: int | None = None
    ) -> Lease:
        """Take the topic's lease, if it has none: see `flowstream.abc.Log.claim`."""
        opened = self._opened()
        check_claim(topic, owner, seconds, instead)
        rows = await opened.write(
            sql.CLAIM,
            binary.text(topic),
            binary.text(owner),
            binary.float8(seconds),
            None if instead is None else binary.int8(instead),
        )
        lease = read_leases(rows, [topic])[topic]
        assert lease is not None
        return lease

    async def beat(
        self, owner: str, tokens: Mapping[str, int], *, seconds: float
    ) -> dict[str, Lease | None]:
        """Renew leases: see `flowstream.abc.Log.beat`."""
        opened = self._opened()
        check_beat(owner, tokens, seconds)
        leases: dict[str, Lease | None] = {}
        for some in batches(list(tokens)):
            rows = await opened.write(
                sql.BEAT,
                binary.text(owner),
                binary.text_array(some),
                binary.int8_array([tokens[name] for name in some]),
                binary.float8(seconds),
            )
            leases |= read_leases(rows, some)
        await trio.lowlevel.checkpoint()
        return leases

    async def end(
        self,
        topic: str,
        fence: int,
        entry: LogEntry,
        *,
        keep: Replay,
        token: str,
        seconds: float,
        lapsed: bool = False,
    ) -> Lease | None:
        """Append the last event and end the lease: see `flowstream.abc.Log.end`."""
        opened = self._opened()
        check_append(topic, [entry], keep, token)
        check_token("fence", fence)
        check_seconds(seconds)
        asked = entry.idempotency_key
        rows = await opened.write(
            sql.FINISH,
            binary.text(topic),
            binary.int8(fence),
            binary.text(token),
            *_bounds(keep),
            entry.data,
            None if entry.key is None else binary.text(entry.key),
            binary.float8(seconds),
            binary.boolean(lapsed),
            None if asked is None else binary.text(asked),
            binary.float8(entry.idempotency_seconds),
        )
        if not rows:
            return None
        *_, number, epochs, first, added, is_fenced = rows[0]
        if is_fenced:
            raise fenced(topic)
        if added:
            opened.tell(number, epochs_from_text(epochs)[-1][0], first + added - 1)
        return read_leases(rows, [topic])[topic]

    async def leases(self, topics: Iterable[str]) -> dict[str, Lease | None]:
        """Return each topic's lease: see `flowstream.abc.Log.leases`."""
        opened = self._opened()
        leases: dict[str, Lease | None] = {}
        for some in batches(check_topics(topics)):
            leases |= read_leases(await opened.read(sql.LEASES, binary.text_array(some)), some)
        await trio.lowlevel.checkpoint()
        return leases

    def outbox_statement(
        self,
        topic: str,
        entry: LogEntry,
        *,
        keep: Replay,
        notify: bool = True,
        style: ParameterStyle = "format",
    ) -> OutboxStatement:
        """Return the statement for a transaction: see `flowstream.abc.Log.outbox_statement`."""
        return outbox_statement(topic, entry, keep, outbox=self.outbox, notify=notify, style=style)

    async def new_epoch(self) -> None:
        """Have every topic begin a new epoch, for a database that was restored from a copy.

        Clients that had events which the copy has not are then told that they missed some.

        Raises:
            LogUnavailableError: the server is away.
        """
        await self._opened().write(sql.NEW_EPOCH)

    async def aclose(self) -> None:
        """End `run`, and wait until it has returned."""
        await self._running.close()

    def _opened(self) -> OpenPostgres:
        if self._open is None:
            raise not_open()
        return self._open


def _bounds(keep: Replay) -> tuple[bytes, bytes, bytes]:
    return binary.int8(keep.items), binary.float8(keep.seconds), binary.int8(keep.bytes)
