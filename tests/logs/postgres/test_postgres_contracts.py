"""A log on Postgres keeps every contract."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from typing import Any

import psycopg
import pytest
import trio
from psycopg.conninfo import make_conninfo
from real_servers.fixtures import url_of

from flowstream import Replay
from flowstream.abc import LogEntry
from flowstream.logs import open_log
from flowstream.logs.postgres._postgres_link import PostgresLink
from flowstream.logs.postgres._postgres_log import PostgresLog
from flowstream.logs.postgres._pq_connection import PostgresCall, PostgresConnection
from flowstream.logs.postgres._schema import schema_sql
from flowstream.testing import check_log, log_contracts

_numbers = count(1)
# The rest takes a minute and more, since each has a database of its own.
_FEW = log_contracts()[::10]


@pytest.fixture(scope="module")
def template(postgres_server: str) -> Iterator[str]:
    """Give the name of a database with the schema in it, to be copied."""
    name = f"contracts_{os.getpid()}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        try:
            with psycopg.connect(make_conninfo(postgres_server, dbname=name)) as inside:
                inside.execute(schema_sql())
            yield name
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def url(postgres_server: str, template: str) -> Iterator[str]:
    """Give the URL of a database of the test's own, with the schema in it."""
    name = f"{template}_{next(_numbers)}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        try:
            yield url_of(make_conninfo(postgres_server, dbname=name))
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.mark.parametrize("contract", _FEW)
async def test_a_log_on_postgres_keeps_contracts(contract: str, url: str) -> None:
    """A second log in the database is as one of another process."""
    await _check(url, contract)


@pytest.mark.chaos
@pytest.mark.parametrize("contract", [one for one in log_contracts() if one not in _FEW])
async def test_a_log_on_postgres_keeps_the_contract(contract: str, url: str) -> None:
    """A second log in the database is as one of another process."""
    await _check(url, contract)


async def _check(url: str, contract: str) -> None:
    def opened(**callbacks: object) -> object:
        return open_log(PostgresLog(url), **callbacks)  # type: ignore[arg-type]

    await check_log(lambda: opened, contract)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("call", ["heads", "latest", "read"])
async def test_a_topic_of_an_earlier_life_is_never_shown(call: str, url: str) -> None:
    """Whatever asks for a topic first in a new life of the log sees the topic's new epoch."""
    log = PostgresLog(url)
    async with open_log(log):
        [old] = await log.append("news", [LogEntry(b"x", key="k")], keep=Replay(), token="t")
        await log.new_epoch()
        if call == "heads":
            head = (await log.heads(["news"]))["news"]
        elif call == "latest":
            head = (await log.latest("news")).head
        else:
            head, _, _ = await log.read("news", ("elsewhere", 7), 1)
        assert [epoch for epoch, _ in head.epochs[:-1]] == [old.epoch]
        assert head.epochs[-1][1] == 2


async def test_a_log_that_is_cancelled_as_it_opens_ends(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancellation in the moment in which the connections are there closes them."""
    run = PostgresLink.run
    scope = trio.CancelScope()

    class Status:
        def __init__(self, real: Any) -> None:
            self._real = real

        def started(self, *value: Any) -> None:
            self._real.started(*value)
            scope.cancel()

    async def run_then_cancel(self: PostgresLink, *, task_status: Any) -> None:
        last = self._purpose == "news"
        await run(self, task_status=Status(task_status) if last else task_status)

    monkeypatch.setattr(PostgresLink, "run", run_then_cancel)
    with trio.fail_after(20), scope:
        async with open_log(PostgresLog(url)):
            raise AssertionError("it is open")
    assert scope.cancelled_caught


async def test_appends_that_wait_are_one_transaction(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 tasks that publish to one topic at the same time make one statement."""
    asked: list[str] = []
    do = PostgresConnection.do

    async def counted(connection: PostgresConnection, call: PostgresCall) -> Any:
        asked.append(call.statement.name)
        return await do(connection, call)

    keep = Replay(items=1000, seconds=60)
    async with open_log(PostgresLog(url)) as log:
        monkeypatch.setattr(PostgresConnection, "do", counted)
        found: list[int] = []

        async def append(place: int) -> None:
            [done] = await log.append("a", [LogEntry(b"%d" % place)], keep=keep, token=f"t{place}")
            found.append(done.number)

        async with trio.open_nursery() as nursery:
            for place in range(64):
                nursery.start_soon(append, place)
    assert sorted(found) == [*range(1, 65)]
    assert asked.count("append") == 1
