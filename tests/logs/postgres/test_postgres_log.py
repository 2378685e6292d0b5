"""A log on Postgres by its methods, and over a server that a test writes."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from _scripted_postgres import Session, scripted_postgres
from real_servers.fixtures import url_of

from flowstream import Replay
from flowstream.abc import LogEntry
from flowstream.logs import LogUnavailableError, PostgresLog, open_log
from flowstream.logs.postgres._postgres_dsn import PostgresDSN
from flowstream.logs.postgres._schema import VERSION

ENTRY = LogEntry(b"x", key="k")


async def test_each_method_does_what_it_says(log: Any, schema_dsn: str) -> None:
    """Append, read, heads, latest, topics, trim, delete, leases: over one database."""
    async with open_log(PostgresLog(url_of(schema_dsn))) as one:
        with trio.testing.assert_checkpoints():
            assert await one.append("a", [], keep=Replay(), token="none") == []
        first, second = await one.append("a", [ENTRY, LogEntry(b"y")], keep=Replay(), token="t")
        assert (first.number, second.number, first.duplicate) == (1, 2, False)
        head, known, records = await one.read("a", (first.epoch, 1), 9)
        assert (head.number, known, [record.data for record in records]) == (2, True, [b"y"])
        assert (await one.heads(["a"])) == {"a": head}
        assert [*(await one.latest("a")).records] == ["k"]
        assert await one.topics() == (["a"], None)
        assert await one.trim("a", Replay(items=1)) == 1
        await one.delete("a")
        assert await one.topics() == ([], None)
        lease = await one.claim("r", "me", seconds=60)
        assert (await one.beat("me", {"r": lease.token, "s": 1}, seconds=60)).keys() == {"r", "s"}
        ended = await one.end("r", lease.token, ENTRY, keep=Replay(), token="e", seconds=60)
        assert ended is not None
        assert ended.ended
        found = await one.leases(["r", "s"])
        assert (found["r"] or ended).token == lease.token
        assert found["s"] is None


@pytest.mark.parametrize("method", ["append", "read", "latest", "trim", "delete", "claim", "end"])
async def test_a_name_that_can_t_be_one_is_refused(log: Any, schema_dsn: str, method: str) -> None:
    """Each method says so before it asks the server."""
    arguments: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
        "append": (([ENTRY],), {"keep": Replay(), "token": "t"}),
        "read": ((("e", 0), 1), {}),
        "claim": (("me",), {"seconds": 1}),
        "end": ((1, ENTRY), {"keep": Replay(), "token": "t", "seconds": 1}),
    }
    async with open_log(PostgresLog(url_of(schema_dsn))) as one:
        given, named = arguments.get(method, ((), {}))
        for topic in ("", "a\0b", "x" * 100_000):
            with pytest.raises(ValueError, match=r"topic"):
                await getattr(one, method)(topic, *given, **named)


async def test_names_come_in_pages(log: Any, schema_dsn: str) -> None:
    """A page says where the next one begins; the last one does not."""
    log.append_many([(f"t{number:04}", [b"x"], {}) for number in range(1100)])
    async with open_log(PostgresLog(url_of(schema_dsn))) as one:
        names: list[str] = []
        cursor: str | None = None
        while True:
            page, cursor = await one.topics("t", cursor)
            names += page
            if cursor is None:
                break
            assert cursor == page[-1]
    assert names == [f"t{number:04}" for number in range(1100)]


async def test_a_log_that_is_closed_is_closed(log: Any, schema_dsn: str) -> None:
    """`aclose` ends `run`, waits for it, and what is called behind it says so."""
    one = PostgresLog(url_of(schema_dsn))
    ended = trio.Event()

    def ignore(*arguments: Any) -> None:
        pass

    async with trio.open_nursery() as nursery:

        async def run(task_status: Any) -> None:
            await one.run(ignore, ignore, task_status=task_status)
            ended.set()

        with trio.fail_after(30):
            await nursery.start(run)
            await one.topics()
            await one.aclose()
            await trio.testing.wait_all_tasks_blocked()
            assert ended.is_set()
        with pytest.raises(RuntimeError, match="open"):
            await one.topics()
        nursery.cancel_scope.cancel()


class Script:
    """Answers what an open log says on its own; `relayed` are the answers to `empty_relay`."""

    def __init__(self, relayed: list[int] | None = None) -> None:
        self.relayed = relayed or []
        self.told: list[bytes | None] = []
        self.session: Session | None = None

    async def __call__(
        self, session: Session, sql: str, params: list[bytes | None]
    ) -> list[tuple[Any, ...]]:
        if "pg_backend_pid" in sql:
            return [(session.peer.process,)]
        if ".hello(" in sql:
            return [(VERSION, "lineage", 0, "e", False)]
        if ".maintain(" in sql:
            return [(0,)]
        if sql == "select 1":
            return [(1,)]
        if "listen" in sql:
            self.session = session
            return []
        if ".empty_relay(" in sql:
            return [(self.relayed.pop(0) if self.relayed else 0,)]
        if "pg_notify" in sql:
            self.told.append(params[0])
            return []
        if ".append(" in sql:
            await trio.sleep_forever()
        if ".trim(" in sql:
            return [(0,)]
        raise AssertionError(sql)


async def test_the_relay_is_emptied_until_it_is_empty(mock_clock: trio.testing.MockClock) -> None:
    """A full answer is followed by the next question at once; else a notification is waited for."""
    script = Script([500, 501, 3])

    def asked() -> int:
        return sum(".empty_relay(" in one for one in peer.asked)

    async with (
        scripted_postgres(script) as peer,
        open_log(PostgresLog(peer.dsn, outbox="relay")) as one,
    ):
        for _ in range(20):
            await one.trim("a")  # over the same connection
        assert asked() == 3
        assert script.session is not None
        for answers in ([7], [500, 0]):
            script.relayed += answers
            before = asked()
            await script.session.notify("relay")
            while script.relayed:
                await one.trim("a")
            for _ in range(20):
                await one.trim("a")
            assert asked() == before + len(answers)


async def test_an_append_that_waits_in_vain_may_have_been_made(
    mock_clock: trio.testing.MockClock,
) -> None:
    """The server says nothing: each append has its own patience, and knows if it was sent."""
    script = Script()
    ended: list[int] = []

    async def append(number: int) -> None:
        with pytest.raises(LogUnavailableError, match=r"can't be reached|no answer") as caught:
            await one.append("a", [ENTRY], keep=Replay(), token=f"{number}")
        assert caught.value.maybe or number > 1
        assert "hunter2" not in str(caught.value)
        ended.append(number)

    async with (
        scripted_postgres(script) as peer,
        open_log(PostgresLog(peer.dsn, patience=1)) as one,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(append, 1)
        while not any(".append(" in sql for sql in peer.asked):
            await trio.testing.wait_all_tasks_blocked(0.001)
        for number, heard in ((2, []), (3, [1]), (4, [1, 2])):
            mock_clock.jump(0.5)
            await trio.testing.wait_all_tasks_blocked()
            assert ended == heard
            nursery.start_soon(append, number)
            await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(1.0)
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(ended) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("dsn", "where"),
    [
        ("postgresql://me:secret@db.example/shop", "db.example:5432/shop"),
        ("host=db.example hostaddr=192.0.2.1 port=7 dbname=shop", "db.example:7/shop"),
        ("hostaddr=192.0.2.1 dbname=shop", "192.0.2.1:5432/shop"),
        ("dbname=shop", "a local socket:5432/shop"),
        ("user=me", "a local socket:5432/me"),
        ("host=/run/pg user=me", "/run/pg:5432/me"),
        ("host=a,b port=1,2 dbname=shop", "a:1, b:2/shop"),
        ("host=a,b port=7 dbname=shop", "a:7, b:7/shop"),
    ],
)
def test_where_a_server_is_can_be_said(
    dsn: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name, its address or its socket; the environment fills in what the DSN leaves out."""
    for name in ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER"):
        monkeypatch.delenv(name, raising=False)
    assert PostgresDSN(dsn).where == where
    monkeypatch.setenv("PGHOST", "of.environment")
    monkeypatch.setenv("PGPORT", "99")
    assert PostgresDSN("dbname=shop").where == "of.environment:99/shop"
