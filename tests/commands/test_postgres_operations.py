"""``flowstream log`` for a log on Postgres: what it shows, checks and changes, and as whom."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from real_servers.fixtures import url_of

from flowstream.cli import main
from flowstream.logs.postgres._schema import VERSION, schema_sql

Run = Callable[..., Result]
ROLE = "fs_operated"
EMPTY = """
truncate flowstream.topic, flowstream.event, flowstream.token, flowstream.key, flowstream.latest,
    flowstream.lease, flowstream.relay, flowstream.outbox, flowstream.committing restart identity;
delete from flowstream.log;
insert into flowstream.log(epoch) values ('');
select flowstream.current_log();
"""


@pytest.fixture(scope="module")
def database(postgres_server: str) -> Iterator[str]:
    """The URL of a database with the schema, and a role of the app's."""
    with psycopg.connect(postgres_server, autocommit=True) as owner:
        owner.execute("drop database if exists flowstream_operated")
        owner.execute("create database flowstream_operated")
        owner.execute(f"drop role if exists {ROLE}")
        owner.execute(f"create role {ROLE} login password 'secret'")
    url = url_of(make_conninfo(postgres_server, dbname="flowstream_operated"))
    with psycopg.connect(url) as owner:
        owner.execute(schema_sql([ROLE]).encode())
    yield url
    with psycopg.connect(postgres_server, autocommit=True) as owner:
        owner.execute("drop database flowstream_operated with (force)")
        owner.execute(f"drop role {ROLE}")


@pytest.fixture
def url(database: str) -> str:
    """A log with two topics and a run."""
    change(database, EMPTY)
    for topic, number in (("news", 5), ("prices", 2)):
        put = f"flowstream.put('{topic}', 'abc', key => (x % 2)::text, seconds => 3600)"
        change(database, f"select {put} from generate_series(1, {number}) x")
    change(database, "select * from flowstream.claim('run', 'me', 60)")
    return database


@pytest.fixture
def run(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run ``flowstream log`` with the log's URL in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWSTREAM_LOG_URL", url)
    return lambda *arguments: CliRunner().invoke(main, ["log", *arguments])


@contextmanager
def changed(url: str, statement: str, back: str) -> Iterator[None]:
    """Change the log for a block, and then back."""
    change(url, statement)
    try:
        yield
    finally:
        change(url, back)


def as_role(url: str, role: str) -> str:
    """Return the URL for another role."""
    return url_of(make_conninfo(url, user=role, password="secret"))


def change(url: str, statement: str) -> None:
    """Write to the log's tables as no log would."""
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute(statement.encode())


def test_it_shows_what_topics_have(run: Run) -> None:
    """As a table, one topic with more, and as JSON; a run that has no event yet is none."""
    table = run("inspect")
    assert table.exit_code == 0, table.output
    assert [line.split()[:6] for line in table.output.splitlines()[1:]] == [
        ["news", "1", "5", "1", "5", "15"],
        ["prices", "1", "2", "1", "2", "6"],
    ]
    assert "3600 s" in run("inspect", "--topic", "news").output
    (line,) = run("inspect", "--topic", "news", "--json").output.splitlines()
    assert json.loads(line)["keep"] == {"items": 1000, "seconds": 3600.0, "bytes": 8 << 20}
    missing = run("inspect", "--topic", "other")
    assert (missing.exit_code, "no topic 'other'" in missing.output) == (1, True)


def test_it_shows_many_topics_in_pages(run: Run, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, sorted by name; one that was deleted is shown if it is named."""
    monkeypatch.setattr("flowstream.logs.postgres._postgres_inspection._BATCH_TOPICS", 2)
    change(url, "select flowstream.put('topic ' || x, '1') from generate_series(1, 5) x")
    change(url, "select flowstream.delete('topic 3')")
    names = [line.split("  ")[0] for line in run("inspect").output.splitlines()[1:]]
    assert names == ["news", "prices", "topic 1", "topic 2", "topic 4", "topic 5"]
    assert "(deleted)" in run("inspect", "--topic", "topic 3").output


def test_it_trims_and_begins_epochs(run: Run, url: str) -> None:
    """Other bounds stay; a new epoch begins for every topic with its next event."""
    assert "'news': 3" in run("trim", "--topic", "news", "--items", "2").output
    assert "'news': 0" in run("trim", "--topic", "news").output
    assert run("trim", "--topic", "other").exit_code == 1
    assert run("new-epoch").exit_code == 0
    for topic in ("news", "prices"):
        change(url, f"select flowstream.put('{topic}', '1')")
    assert [
        json.loads(line)["epochs"][1][1] for line in run("inspect", "--json").output.splitlines()
    ] == [6, 3]
    assert "in order" in run("verify").output


# Changes of a topic with five events, {0} its number and {1} its name, and what is said of it.
TOPIC_CHANGES = [
    (
        "delete from flowstream.event where topic = {0} and number = 3",
        ["it keeps 4 events from 1 to 5, not 5", "left out (1 times)", "12 bytes, not 15"],
    ),
    (
        "delete from flowstream.event where topic = {0} and number = 1",
        ["it keeps 4 events from 1 to 5, not 5", "12 bytes, not 15"],
    ),
    (
        "update flowstream.topic set head = 9 where id = {0}",
        ["it keeps 5 events from 1 to 9, not 9"],
    ),
    (
        "update flowstream.topic set head = 4 where id = {0}",
        ["not 4", "an event 5, behind its newest", "of a key is of an event behind its newest one"],
    ),
    ("update flowstream.topic set size = 9 where id = {0}", ["15 bytes, not 9"]),
    (
        "insert into flowstream.event select topic, number, '-infinity', at, data"
        " from flowstream.event where topic = {0} and number = 4",
        ["it keeps 6 events", "a number stands for two events (1 times)", "18 bytes, not 15"],
    ),
    (
        "update flowstream.event set number = number - 4 where topic = {0}",
        ["it keeps 1 events", "with the number -3", "3 bytes, not 15"],
    ),
    (
        "update flowstream.event set at = at + interval '9 us' where topic = {0} and number = 4",
        ["an event is older than the one before it"],
    ),
    (
        "update flowstream.event set day = day + 1 where topic = {0} and number = 5",
        ["of another day (1 times)"],
    ),
    ("update flowstream.topic set epochs = 'b:1,a:3' where id = {0}", ["not in order: b, a"]),
    ("update flowstream.topic set epochs = 'zzz' where id = {0}", ["can't be read: 'zzz'"]),
    ("update flowstream.topic set epochs = 'a:8' where id = {0}", ["begin at [8]"]),
    (
        "update flowstream.topic set lineage = regexp_replace(lineage, '[^:]*$', '7')"
        " where id = {0}",
        ["it is of the life 7 of the log, which is in its life 1"],
    ),
    (
        "insert into flowstream.token values ({0}, 't', 9, 'e:9:0:1')",
        ["a token is of an event behind its newest one (1 times)"],
    ),
    (
        "insert into flowstream.key values ({0}, 'k', 'e', 9, 'infinity')",
        ["an idempotency key is of an event behind its newest one (1 times)"],
    ),
    (
        "update flowstream.latest set number = 9 where topic = {0} and number = 5",
        ["the newest event of a key is of an event behind"],
    ),
    (
        "update flowstream.latest set data = 'xyz' where topic = {0} and number = 5",
        ["the newest event of a key is not the event of its number (1 times)"],
    ),
    (
        "delete from flowstream.latest where topic = {0} and number = 5",
        ["the newest events of its keys are 1 with 3 bytes, not 2 with 6"],
    ),
    (
        "update flowstream.lease set token = 1::int8 << 60 where topic = '{1}'",
        ["which was never given"],
    ),
]
# Changes of the log, how they are undone, and what is said.
LOG_CHANGES = [
    (
        "insert into flowstream.token values (99, 't', 1, 'e:1:0:1')",
        "delete from flowstream.token where topic = 99",
        "a token is of a topic that is not there (1 times)",
    ),
    (
        "delete from flowstream.topic where name = 'run'",
        "delete from flowstream.lease",
        "the topic 'run': it has a lease, and is not there",
    ),
    (
        "update flowstream.log set life = 9",
        "update flowstream.log set life = 1",
        "the log is in its life 9",
    ),
    (
        "delete from flowstream.log",
        "insert into flowstream.log(epoch) values (''); select flowstream.current_log()",
        "must have one row, and has 0",
    ),
    (
        "alter table flowstream.event detach partition flowstream.event_rest",
        "alter table flowstream.event attach partition flowstream.event_rest default",
        "has no partition event_rest",
    ),
    (
        "alter table flowstream.committing disable trigger flush;"
        " select flowstream.put('news', '1')",
        "truncate flowstream.outbox, flowstream.committing;"
        " alter table flowstream.committing enable trigger flush",
        "no commit has appended (1 times)",
    ),
    (
        "alter table flowstream.committing disable trigger flush",
        "alter table flowstream.committing enable trigger flush",
        "the trigger of flowstream.committing is off",
    ),
    (
        "grant usage on schema flowstream to public",
        "revoke usage on schema flowstream from public",
        "every role of the database may use the schema",
    ),
    (
        "grant select on flowstream.event to public",
        "revoke select on flowstream.event from public",
        "every role of the database may use the table event",
    ),
    (
        "grant execute on function flowstream.append_rows to public",
        "revoke execute on function flowstream.append_rows from public",
        "every role of the database may use the function append_rows",
    ),
]


def test_it_finds_what_somebody_else_has_done_to_topics(run: Run, url: str) -> None:
    """What the log itself wrote is in order; each change is told as what it is, and no more."""
    count = len(TOPIC_CHANGES)
    put = "flowstream.put('topic ' || x, 'abc', key => (y % 2)::text)"
    change(url, f"select {put} from generate_series(1, {count}) x, generate_series(1, 5) y")
    with psycopg.connect(url) as owner:
        ids: dict[str, int] = dict(owner.execute("select name, id from flowstream.topic"))
    leased = f"topic {count}"
    change(url, f"insert into flowstream.lease values ('{leased}', 'me', 0, 'infinity')")
    clean = run("verify")
    assert f"in order: {count + 3} topics" in clean.output, clean.output
    for at, (statement, _) in enumerate(TOPIC_CHANGES, start=1):
        change(url, statement.format(ids[f"topic {at}"], f"topic {at}"))
    found = run("verify")
    assert found.exit_code == 1
    for at, (statement, sentences) in enumerate(TOPIC_CHANGES, start=1):
        lines = [line for line in found.output.splitlines() if f"'topic {at}'" in line]
        assert len(lines) == len(sentences), (statement, lines)
        for sentence in sentences:
            assert any(sentence in line for line in lines), (statement, sentence, lines)
    assert "'news'" not in found.output


def test_it_finds_what_somebody_else_has_done_to_the_log(run: Run, url: str) -> None:
    """Each change is a sentence, and status 1."""
    for statement, back, says in LOG_CHANGES:
        with changed(url, statement, back):
            found = run("verify")
        assert (found.exit_code, says in found.output) == (1, True), (statement, found.output)
    assert "in order" in run("verify").output


def test_roles_of_the_app_do_all_but_verify(
    run: Run, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal names the role, and the one that may."""
    monkeypatch.setenv("FLOWSTREAM_LOG_URL", as_role(url, ROLE))
    assert "prices" in run("inspect").output
    assert run("trim", "--topic", "news", "--items", "1").exit_code == 0
    assert run("new-epoch").exit_code == 0
    refused = run("verify")
    assert refused.exit_code == 1
    assert f"the role {ROLE} may not read the tables" in refused.output
    owner = conninfo_to_dict(url)["user"]
    assert f"of the role {owner}, which owns the schema" in refused.output
    assert "belongs to" in run("init").output


@pytest.mark.parametrize(
    "command", [["inspect"], ["verify"], ["trim", "--topic", "news"], ["new-epoch"]]
)
def test_a_role_without_rights_is_told_how_to_get_them(
    run: Run, url: str, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    """One sentence, status 1, and no password."""
    monkeypatch.setenv("FLOWSTREAM_LOG_URL", as_role(url, ROLE))
    usage = "usage on schema flowstream"
    with changed(url, f"revoke {usage} from {ROLE}", f"grant {usage} to {ROLE}"):
        refused = run(*command)
    assert (refused.exit_code, "secret" in refused.output) == (1, False)
    assert "flowstream log init --grant" in refused.output


@pytest.mark.parametrize(
    ("version", "advice"),
    [(VERSION - 1, "run `flowstream log init`"), (VERSION + 1, "install that release"), (0, "")],
)
def test_a_log_of_another_release_is_left_alone(
    run: Run, url: str, version: int, advice: str
) -> None:
    """Also where there is none (0): each command says what to do."""
    said = "create or replace function flowstream.version() returns int language sql as 'select {}'"
    change_it, back = said.format(version), said.format(VERSION)
    if not version:
        change_it, back = (
            "alter schema flowstream rename to elsewhere",
            "alter schema elsewhere rename to flowstream",
        )
        advice = "has no log in this database: run `flowstream log init`"
    with changed(url, change_it, back):
        for command in (["inspect"], ["verify"], ["trim", "--topic", "news"], ["new-epoch"]):
            refused = run(*command)
            assert (refused.exit_code, advice in refused.output) == (1, True), refused.output


@pytest.mark.parametrize(
    "url",
    ["postgres://me:sesame@127.0.0.1:1/shop", "postgres://me:sesame@/shop?host=/nowhere/at/all"],
)
def test_a_server_that_is_away_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """One sentence, status 1, and no password."""
    monkeypatch.setenv("FLOWSTREAM_LOG_URL", url)
    for command in (["inspect"], ["verify"], ["trim", "--topic", "news"], ["new-epoch"]):
        away = CliRunner().invoke(main, ["log", *command])
        assert (away.exit_code, "sesame" in away.output) == (1, False)
        assert "can't be reached" in away.output
        assert "shop" in away.output
