"""The schema of an earlier release is upgraded, and a worker that meets another one says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from logs.postgres._sql_log import SQLLog, make_schema

from flowstream import Replay
from flowstream.abc import LogEntry
from flowstream.logs import LogUnavailableError, open_log
from flowstream.logs.postgres._schema import ENTRIES, VERSION, schema_sql

pytestmark = pytest.mark.chaos

KEEP = Replay(items=100)
# What `flowstream log init --print` of the release with version 1 printed.
VERSION_1 = (Path(__file__).parent / "version_1.sql").read_bytes()
# Functions as an earlier version might have had them: with fewer columns, with other parameters.
OTHER_FUNCTIONS = """
drop function flowstream.heads(text[]);
create function flowstream.heads(p_names text[]) returns table(o_name text)
    language sql as 'select null::text';
create function flowstream.begin_epoch(p_epochs text, p_number bigint, p_more text default '')
    returns text language sql as 'select p_epochs';
"""
SAYS_VERSION = "create or replace function flowstream.version() returns int language sql as"
RIGHTS = """
select p.proname from pg_proc p where pronamespace = 'flowstream'::regnamespace
    and has_function_privilege(%s, p.oid, 'execute') order by proname
"""


@pytest.fixture
def roles(postgres_server: str) -> Iterator[tuple[str, str]]:
    """A role of the app's, and one that publishes with SQL alone."""
    names = "fs_worker", "fs Publisher"
    with psycopg.connect(postgres_server, autocommit=True) as owner:
        for name in names:
            owner.execute(f'drop role if exists "{name}"'.encode())
            owner.execute(f'create role "{name}"'.encode())
        yield names
        for name in names:
            owner.execute(f'drop role "{name}"'.encode())


@pytest.fixture
def earlier(postgres_database: str, roles: tuple[str, str]) -> Iterator[SQLLog]:
    """A log that the release with version 1 made, with events, a key, a lease and rights."""
    worker, publisher = roles
    with psycopg.connect(postgres_database, autocommit=True) as owner:
        owner.execute(VERSION_1)
        owner.execute(OTHER_FUNCTIONS.encode())
        owner.execute(f'grant usage on schema flowstream to {worker}, "{publisher}"'.encode())
        for name in ENTRIES:
            if name != "inspect":
                owner.execute(f"grant execute on function flowstream.{name} to {worker}".encode())
        publish = f'execute on function flowstream.publish to "{publisher}"'
        owner.execute(f"grant {publish} with grant option".encode())
    log = SQLLog(postgres_database)
    yield log
    log.close()
    with psycopg.connect(postgres_database, autocommit=True) as owner:
        owner.execute(f'drop owned by {worker}, "{publisher}"'.encode())


def test_an_earlier_schema_is_upgraded_with_all_that_is_in_it(
    earlier: SQLLog, postgres_database: str
) -> None:
    """Events, epochs, keys, leases, settings and what waits to be relayed are as they were."""
    log = earlier
    log.connection.execute("update flowstream.log set failover_loses = false")
    log.append("a", b"1", b"2", keys=["k", "k"], asked=["once", None])
    ((_, _, token, *_),) = log.ask("select * from flowstream.claim('run', 'me', 60)")
    log.ask("select flowstream.relay('a', '3')")
    epoch = log.epoch("a")
    life = log.one("select life from flowstream.log")
    make_schema(postgres_database)
    assert log.one("select flowstream.version()") == VERSION
    assert log.events("a") == [(1, b"1"), (2, b"2")]
    assert log.epoch("a") == epoch
    assert log.one("select life from flowstream.log") == life
    assert log.one("select failover_loses from flowstream.log") is False
    assert log.append("a", b"1", asked=["once"])[3] == 0
    assert log.ask("select o_key, o_number from flowstream.latest('a', '', 99)")[1] == ("k", 2)
    assert log.ask("select o_owner, o_token from flowstream.leases(array['run'])") == [
        ("me", token)
    ]
    assert log.one("select flowstream.empty_relay()") == 1
    assert log.events("a") == [(1, b"1"), (2, b"2"), (3, b"3")]
    assert len(log.ask("select * from flowstream.heads(array['a'])")[1]) == 5
    assert (
        log.one(
            "select count(*) from pg_proc where pronamespace = 'flowstream'::regnamespace"
            " and proname = 'begin_epoch' and 'p_more' = any(proargnames)"
        )
        == 0
    )


def test_roles_keep_their_rights(
    earlier: SQLLog, postgres_database: str, roles: tuple[str, str]
) -> None:
    """Who used the log may call what is new, too; any other role may what it might before."""
    make_schema(postgres_database)
    worker, publisher = roles
    assert {name for (name,) in earlier.ask(RIGHTS, worker)} == set(ENTRIES)
    assert {name for (name,) in earlier.ask(RIGHTS, publisher)} == {"publish"}
    assert earlier.one(
        "select has_function_privilege(%s, p.oid, 'execute with grant option') from pg_proc p"
        " where pronamespace = 'flowstream'::regnamespace and proname = 'publish'",
        publisher,
    )


def test_an_upgrade_does_not_wait_for_transactions_that_publish(
    earlier: SQLLog, postgres_database: str
) -> None:
    """One that began before it commits behind it, and its event is there."""
    with psycopg.connect(postgres_database) as app:
        app.execute("select flowstream.put('a', '1')")
        with psycopg.connect(postgres_database) as owner:
            owner.execute("set local lock_timeout = '5s'")
            owner.execute(schema_sql().encode())
    assert earlier.events("a") == [(1, b"1")]


def test_what_fails_leaves_the_log_as_it_was(earlier: SQLLog, postgres_database: str) -> None:
    """An object of somebody's that needs a function stops the upgrade, and is named."""
    earlier.ask("select flowstream.put('a', '1')")
    earlier.connection.execute(
        "create view numbers as select o_name from flowstream.heads(array['a'])"
    )
    with pytest.raises(psycopg.errors.DependentObjectsStillExist, match="heads"):
        make_schema(postgres_database)
    assert earlier.one("select flowstream.version()") == 1
    assert earlier.events("a") == [(1, b"1")]


def test_a_later_schema_is_left_alone(postgres_database: str) -> None:
    """Whoever runs the SQL, by hand, too."""
    make_schema(postgres_database)
    with psycopg.connect(postgres_database, autocommit=True) as owner:
        owner.execute(f"{SAYS_VERSION} 'select {VERSION + 1}'".encode())
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="install that release"):
        make_schema(postgres_database)


@pytest.mark.parametrize(
    ("version", "advice"),
    [(VERSION - 1, "run `flowstream log init`"), (VERSION + 1, "install that release")],
)
async def test_a_worker_says_what_to_do_about_another_version(
    postgres_database: str, version: int, advice: str
) -> None:
    """It does not start; the error names both versions."""
    make_schema(postgres_database)
    with psycopg.connect(postgres_database, autocommit=True) as owner:
        owner.execute(f"{SAYS_VERSION} 'select {version}'".encode())
    with pytest.raises(LogUnavailableError) as error:
        async with open_log(postgres_database):
            pass
    assert advice in str(error.value)
    assert f"version {version} of the schema" in str(error.value)
    assert f"works with {VERSION}" in str(error.value)


async def test_a_log_that_is_open_goes_on_behind_an_upgrade(postgres_database: str) -> None:
    """Its prepared statements call the new functions."""
    make_schema(postgres_database)
    async with open_log(postgres_database) as log:
        await log.append("a", [LogEntry(b"1")], keep=KEEP, token="t1")
        assert (await log.heads(["a"]))["a"].number == 1
        with psycopg.connect(postgres_database) as owner:
            owner.execute(f"{SAYS_VERSION} 'select {VERSION - 1}'".encode())
            owner.execute(schema_sql().encode())
        await log.append("a", [LogEntry(b"2")], keep=KEEP, token="t2")
        head, _, records = await log.read("a", ((await log.heads(["a"]))["a"].epochs[0][0], 0), 9)
        assert [record.data for record in records] == [b"1", b"2"]
        assert head.number == 2
