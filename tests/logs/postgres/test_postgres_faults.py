"""What callers of `PostgresLog` see when a real server fails: row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import trio
import trio.testing
from logs.postgres._sql_log import EMPTY, make_schema
from psycopg.conninfo import make_conninfo
from real_servers.own_postgres import OwnPostgres
from real_servers.pgbouncer import PgBouncer

from flowstream import Topic, log_statistics
from flowstream.abc import LogEntry, Position
from flowstream.limits import Replay
from flowstream.logs import LogUnavailableError, open_log
from flowstream.logs.postgres._postgres_log import PostgresLog
from flowstream.quart import Flowstream
from flowstream.testing._log_contract import LogBench, LogUnderTest, cancelled_after, numbers

pytestmark = pytest.mark.chaos

Own = Callable[..., OwnPostgres]

_TERMINATE = (
    "select pg_terminate_backend(pid) from pg_stat_activity"
    " where application_name = 'flowstream' and pid <> pg_backend_pid()"
)


@pytest.fixture(scope="module")
def running() -> Iterator[OwnPostgres]:
    """Give a server that the tests of this module break in turn, with the schema of a log."""
    with OwnPostgres() as server:
        make_schema(server.dsn)
        yield server


@pytest.fixture
def server(running: OwnPostgres) -> OwnPostgres:
    """Give that server, with no topic in it."""
    running.sql(EMPTY)
    return running


def bench(dsn: str, **options: object) -> LogBench:
    return LogBench(partial(open_log, PostgresLog(dsn, **options)))  # type: ignore[arg-type]


async def in_thread(function: Callable[..., object], *arguments: object) -> None:
    await trio.to_thread.run_sync(function, *arguments)


async def data_behind(one: LogUnderTest, after: Position) -> list[tuple[str, int, bytes]]:
    _, known, records = await one.log.read("news", after, 100, mine=True)
    assert known, after
    return [record[:3] for record in records]


async def appended(one: LogUnderTest, data: bytes) -> None:
    """Append with one token, again and again, until it is known to be there."""
    token = one.token()
    while True:
        try:
            await one.append("news", data, token=token)
        except LogUnavailableError:
            continue
        return


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_a_server_that_is_restarted_loses_nothing(server: OwnPostgres, how: str) -> None:
    """The same call succeeds, in the same epoch; hints come again, and readers miss nothing."""

    def restart() -> None:
        server.crash() if how == "killed" else server.stop()
        server.start()

    async with bench(server.dsn, patience=30).open() as one:
        await one.log.watch(["news"])
        await one.append("news", b"a", b"b")
        old = await one.position("news")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_thread, restart)
            for number in range(20):
                await one.append("news", b"%d" % number)
        await one.append("news", b"last")
        await one.until(lambda: None in one.stale)
        assert [row[2] for row in await data_behind(one, old)] == [
            *(b"%d" % number for number in range(20)),
            b"last",
        ]
        assert (await one.position("news"))[0] == old[0]
        async with bench(server.dsn).open() as other:
            (done,) = await other.append("news", b"heard", token="of the other")
        await one.until(lambda: done.number in one.heard["news"])


async def test_connections_that_are_killed(server: OwnPostgres) -> None:
    """By an administrator, idle and under way: no call notices, and nothing is lost."""
    async with bench(server.dsn).open() as one:
        await one.log.watch(["news"])
        for number in range(30):
            if number % 3 == 0:
                await in_thread(server.sql, _TERMINATE)
            await one.append("news", b"%d" % number)
            assert (await one.head("news")).number == number + 1
        await one.until(lambda: None in one.stale)
        assert [record.data for record in await one.everything("news")] == [
            b"%d" % number for number in range(30)
        ]


async def test_a_frozen_server_is_a_maybe_and_the_event_appears_once(server: OwnPostgres) -> None:
    """A publisher that calls again with its token gets the first result."""
    async with bench(server.dsn, patience=0.4).open() as one:
        await one.append("news", b"a")
        server.freeze()
        try:
            with pytest.raises(LogUnavailableError) as raised:
                await one.append("news", b"b", token="t")
        finally:
            server.thaw()
        assert raised.value.maybe
        while True:
            try:
                assert numbers(await one.append("news", b"b", token="t")) == [2]
            except LogUnavailableError:
                continue
            break
        assert [record.data for record in await one.everything("news")] == [b"a", b"b"]


async def test_a_restored_older_copy_is_a_gap(server: OwnPostgres) -> None:
    """What the copy lacks is lost; its number comes again in an epoch that sorts behind, and what
    follows is shown to who had it."""
    async with bench(server.dsn, patience=30).open() as one:
        await one.append("news", b"kept")
        copy = await trio.to_thread.run_sync(server.copy)
        await appended(one, b"lost")
        old = await one.position("news")
        await in_thread(server.restore, copy)
        (done,) = await one.append("news", b"new")
        assert (done.number, done.epoch > old[0]) == (2, True)
        assert await data_behind(one, old) == [(done.epoch, 2, b"new")]


async def test_a_standby_that_is_promoted(server: OwnPostgres, own_postgres: Own) -> None:
    """The DSN names both: the same call succeeds on the other one, in a new epoch. Until then the
    standby is not written to."""
    second = own_postgres(standby_of=server)
    both = make_conninfo(
        server.dsn, host=f"{server.folder},{second.folder}", port=f"{server.port},{second.port}"
    )
    async with bench(both, patience=0.5).open() as one:
        await one.append("news", b"a")
        await in_thread(second.wait_in_step, server)
        old = await one.position("news")
        try:
            await in_thread(server.crash)
            with pytest.raises(LogUnavailableError):
                await one.append("news", b"b", token="t")
            await in_thread(second.promote)
            while True:
                try:
                    (done,) = await one.append("news", b"b", token="t")
                except LogUnavailableError:
                    continue
                break
            assert (done.number, done.epoch > old[0]) == (2, True)
            assert await data_behind(one, old) == [(done.epoch, 2, b"b")]
        finally:
            await in_thread(server.start)


async def test_a_read_only_database(server: OwnPostgres) -> None:
    """The sentence says what to do; nothing is appended; it goes on when it takes writes again."""
    database = "alter database postgres {} default_transaction_read_only"
    async with bench(server.dsn, patience=0.5).open() as one:
        await one.append("news", b"a")
        await in_thread(server.sql, database.format("set") + " = on")
        await in_thread(server.sql, _TERMINATE)
        try:
            with pytest.raises(LogUnavailableError, match=r"read-only|can't be reached"):
                await one.append("news", b"b", token="t")
            with pytest.raises(LogUnavailableError, match="read-only"):
                await one.append("news", b"b", token="t")
        finally:
            server.sql("set transaction_read_only = off; " + database.format("reset"))
        while True:
            try:
                assert numbers(await one.append("news", b"b", token="t")) == [2]
            except LogUnavailableError:
                continue
            break


async def fails_to_open(dsn: str, **options: object) -> str:
    """Return the sentence with which a log can't be opened."""
    error: BaseException | None = None
    try:
        async with bench(dsn, **options).open():
            pass
    except* LogUnavailableError as group:
        error = group
    while isinstance(error, BaseExceptionGroup):
        [error] = error.exceptions
    assert isinstance(error, LogUnavailableError), "it was opened"
    return str(error)


async def test_roles_and_databases_that_do_not_fit(server: OwnPostgres) -> None:
    """No schema, no grant, a wrong password, no connection left: each says what to do, and none
    has the password. With the grant it is opened."""
    server.sql("create database bare")
    server.sql("create role app login password 'pass word' connection limit 3")
    try:
        bare = make_conninfo(server.dsn, dbname="bare")
        assert "flowstream log init" in await fails_to_open(bare)
        app = make_conninfo(server.dsn, user="app", password="pass word")
        refused = await fails_to_open(app)
        assert "flowstream log init --grant" in refused
        make_schema(server.dsn, "app")
        texts = {"refused": refused}

        async def open_with(password: str, key: str) -> None:
            texts[key] = await fails_to_open(make_conninfo(app, password=password))

        async with bench(app).open() as one:
            assert len(await one.append("news", b"a")) == 1
            async with trio.open_nursery() as nursery:  # each tries for 5 s
                nursery.start_soon(open_with, "wrong word", "wrong")
                nursery.start_soon(open_with, "pass word", "crowded")
        assert "password authentication failed" in texts["wrong"]
        assert "too many connections" in texts["crowded"]
        for text in texts.values():
            assert "word'" not in text
            assert "pass word" not in text
            assert "wrong word" not in text
    finally:
        server.sql("drop database bare with (force)")
        server.sql("drop owned by app")
        server.sql("drop role app")


async def test_through_pgbouncer(server: OwnPostgres) -> None:
    """In transaction mode, where each statement may meet another session: appends, reads and
    leases; hints by a DSN of its own. To listen through it is refused with a sentence."""
    with PgBouncer(server, default_pool_size=3) as pooler:
        assert "give the server's own address as listen_dsn" in await fails_to_open(pooler.dsn)
        through = [bench(pooler.dsn, listen_dsn=server.dsn) for _ in range(2)]
        async with through[0].open() as one, through[1].open() as two:
            await one.log.watch(["news"])
            for number in range(20):
                await (one, two)[number % 2].append("news", b"%d" % number, token=f"{number}")
            await one.until(lambda: len(one.heard["news"]) == 20)
            lease = await one.log.claim("run", "me", seconds=60)
            assert (await two.log.leases(["run"]))["run"] is not None
            assert (await two.log.beat("me", {"run": lease.token}, seconds=60))["run"] is not None
            for number in range(100):
                await cancelled_after(number % 7, partial(one.append, "other", b"x"))
            assert (await one.everything("news"))[-1].data == b"19"
            await in_thread(server.restart)
            await appended(two, b"after")
            assert [record.data for record in await two.everything("news")][-1] == b"after"


async def test_a_thousand_cancelled_calls_leave_nothing_owed(server: OwnPostgres) -> None:
    """Of each kind: no call waits, no connection was lost, and each answer is to its own call."""
    keep = Replay(items=10)
    async with bench(server.dsn).open() as one:
        log = one.log
        token = (await log.claim("held", "me", seconds=600)).token
        links = (log._open._write, log._open._read, log._open._listen)  # type: ignore[attr-defined]
        before = [link._connection for link in links]
        for number in range(1000):
            run = f"run {number}"
            entry = LogEntry(b"end")
            calls = (
                partial(one.append, "news", b"%d" % number, keep=keep),
                partial(log.read, "news", ("e", 0), 10),
                partial(log.heads, ["news", "other"]),
                partial(log.watch, [f"topic {number % 50}"]),
                partial(log.claim, run, "me", seconds=1),
                partial(log.beat, "me", {"held": token}, seconds=600),
                partial(log.end, run, number, entry, keep=keep, token=run, seconds=1),
                partial(log.leases, ["held"]),
                partial(log.latest, "news"),
            )
            await cancelled_after(number % 13, calls[number % len(calls)])
        await one.append("news", b"last")
        assert (await one.everything("news"))[-1].data == b"last"
        assert (await log.beat("me", {"held": token}, seconds=60))["held"] is not None
        assert [link._connection for link in links] == before, [c.why for c in before]
        for link in links:
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not link._connection._queue
        assert not log._open.writer._waiting  # type: ignore[attr-defined]


async def test_what_clients_and_statistics_say(server: OwnPostgres) -> None:
    """A restart is no gap; what a restored copy lacks is one, and a lost seam."""
    async with Flowstream(log=PostgresLog(server.dsn)):
        news = Topic("news", replay=Replay(items=1000))
        async with news.subscribe() as events:
            await news.publish("a")
            assert (await anext(events)).data == "a"
            await in_thread(server.restart)
            await news.publish("b")
            assert (await anext(events)).data == "b"
            copy = await trio.to_thread.run_sync(server.copy)
            await news.publish("lost")
            assert (await anext(events)).data == "lost"
            await in_thread(server.restore, copy)
            await news.publish("c")
            gap = await anext(events)
            assert (gap.type, gap.data["missed"]) == ("gap", None)
            assert (await anext(events)).data == "c"
            whole, topic = log_statistics(), news.statistics().log
            assert whole is not None
            assert topic is not None
            assert (whole.lost, whole.unsure, whole.refused) == (0, 0, 0)
            assert (topic.lost_seams, topic.trimmed_seams, topic.appended) == (1, 0, 4)
