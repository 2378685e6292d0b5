"""``flowstream log`` for a log on Postgres: it makes the schema, shows and checks, and tells no
password."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import psycopg
import pytest
import trio
from click.testing import CliRunner, Result

from flowstream import Replay
from flowstream.abc import LogEntry
from flowstream.cli import main
from flowstream.logs import open_log

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run ``flowstream log`` in an empty folder, without a URL in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLOWSTREAM_LOG_URL", raising=False)
    return lambda *arguments: CliRunner().invoke(main, ["log", *arguments])


@pytest.fixture
def role(postgres_database: str) -> Iterator[str]:
    """A role of the app's, without any right."""
    with psycopg.connect(postgres_database, autocommit=True) as owner:
        owner.execute("drop role if exists fs_app")
        owner.execute("create role fs_app")
        yield "fs_app"
        owner.execute("drop owned by fs_app")
        owner.execute("drop role fs_app")


def ask(url: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query.encode()).fetchall()


def test_the_schema_is_made_and_made_again(
    run: Run, postgres_database: str, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    """The URL comes from the variable; the role may use the log; a second time changes nothing."""
    monkeypatch.setenv("FLOWSTREAM_LOG_URL", postgres_database)
    for _ in range(2):
        result = run("init", "--grant", role)
        assert (result.exit_code, "fs_app may use it" in result.output) == (0, True), result.output
    allowed = "select has_function_privilege('fs_app', 'flowstream.maintain()', 'execute')"
    assert ask(postgres_database, allowed) == [(True,)]
    assert ask(postgres_database, "select failover_loses from flowstream.log") == [(True,)]
    assert run("init", "--failover", "keeps").exit_code == 0
    assert run("init").exit_code == 0
    assert ask(postgres_database, "select failover_loses from flowstream.log") == [(False,)]


def test_the_url_may_be_in_a_file(run: Run, postgres_database: str, tmp_path: Path) -> None:
    """Such as a secret that is mounted; the file's end may have a line break."""
    (tmp_path / "url").write_text(postgres_database + "\n")
    result = run("init", "--url-file", "url")
    assert result.exit_code == 0, result.output
    assert ask(postgres_database, "select flowstream.version()") == [(1,)]


def test_the_sql_can_be_run_by_hand(run: Run, postgres_database: str, role: str) -> None:
    """What is printed makes the same schema, as one transaction."""
    printed = run("init", "--print", "--grant", role)
    assert printed.exit_code == 0
    with psycopg.connect(postgres_database, autocommit=True) as owner:
        owner.execute(printed.output.encode())
    assert ask(postgres_database, "select flowstream.version()") == [(1,)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["postgres://me:sesame@host/db"], "where other users of the machine can't see it"),
        (["--url-file", "missing"], "No such file or directory"),
        (["--url-file", "empty"], "write the URL into it"),
        (["--print", "sqlite:///a.db"], "it connects to nothing"),
        (["--print", "--grant", ""], "the name of a role is expected"),
        (["sqlite:///a.db", "--grant", "me"], "for a log on Postgres"),
        (["sqlite:///a.db", "--url-file", "empty"], "not both"),
    ],
)
def test_what_is_wrong_is_said(run: Run, tmp_path: Path, arguments: list[str], said: str) -> None:
    """One sentence that says what to write, and no password."""
    (tmp_path / "empty").touch()
    result = run("init", *arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
    assert "sesame" not in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "url",
    [
        "postgres://me:sesame/sesame@host:5432/db?x",
        "postgres://me:sesame@host:port-sesame/db",
        "postgres://me:sesame@/db?host=/nowhere/at/all",
        "postgresql://me:sesame@/db?sesame=1",
    ],
)
def test_no_message_has_the_password(run: Run, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Whatever is wrong with the URL, or with the server that it names."""
    monkeypatch.setenv("FLOWSTREAM_LOG_URL", url)
    result = run("init")
    assert result.exit_code == 1
    assert "sesame" not in result.output
    assert result.output.startswith("Error: ")


def test_who_may_not_make_it_is_told(
    run: Run, postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A schema of another owner's, and one of a later release, are left as they are."""
    monkeypatch.setenv("FLOWSTREAM_LOG_URL", postgres_database)
    with psycopg.connect(postgres_database, autocommit=True) as owner:
        owner.execute("create role fs_other")
        try:
            owner.execute("create schema flowstream authorization fs_other")
            result = run("init")
            assert result.exit_code == 1
            assert "belongs to fs_other" in result.output
            owner.execute("drop schema flowstream")
            assert run("init").exit_code == 0
            owner.execute(
                "create or replace function flowstream.version() returns int language sql as"
                " 'select 2'"
            )
            result = run("init")
            assert result.exit_code == 1
            assert "install that release" in result.output
        finally:
            owner.execute("drop role fs_other")


@pytest.fixture
def filled(
    run: Run, postgres_database: str, monkeypatch: pytest.MonkeyPatch, role: str
) -> Callable[[str], object]:
    """A log with two topics, which is in the environment; gives what runs SQL as its owner."""
    monkeypatch.setenv("FLOWSTREAM_LOG_URL", postgres_database)
    assert run("init", "--grant", role).exit_code == 0

    async def publish() -> None:
        async with open_log(postgres_database) as log:
            for topic, number in (("news", 5), ("prices", 2)):
                entries = [LogEntry(b"abc", key=f"k{place}") for place in range(number)]
                await log.append(topic, entries, keep=Replay(seconds=3600), token=topic)

    trio.run(publish)
    return lambda query: execute(postgres_database, query)


def execute(url: str, query: str) -> None:
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute(query.encode())


def test_it_shows_what_topics_have(run: Run, filled: Callable[[str], object]) -> None:
    """As a table, one topic with more, and as JSON."""
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


def test_it_trims_and_begins_epochs(run: Run, filled: Callable[[str], object]) -> None:
    """Other bounds stay; a new epoch begins for every topic; all is in order still."""
    assert "'news': 3" in run("trim", "--topic", "news", "--items", "2").output
    assert run("trim", "--topic", "other").exit_code == 1
    result = run("new-epoch")
    assert result.exit_code == 0, result.output
    assert "in order: 2 topics" in run("verify").output


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("delete from flowstream.event where number = 3", "left out (1 times)"),
        ("delete from flowstream.event where number = 3", "keeps 4 events from 1 to 5, not 5"),
        ("delete from flowstream.event where number > 1", "have 3 bytes, not 15"),
        ("update flowstream.topic set head = 1 where name = 'news'", "an event 5, behind its"),
        ("update flowstream.topic set head = 1 where name = 'news'", "a token or a key is of"),
        ("update flowstream.topic set epochs = 'b:1,a:2' where name = 'news'", "not in order"),
        ("update flowstream.event set at = at - interval '1 hour' where number = 2", "is older"),
        ("update flowstream.event set data = 'x' where number = 2", "is not the event of its"),
        ("delete from flowstream.latest where number = 2", "has 4 keys with 12 bytes, not 5"),
        ("insert into flowstream.lease values ('news', 'ada', 9, 'infinity')", "never given"),
        ("delete from flowstream.topic where name = 'news'", "is not there (5 times)"),
    ],
)
def test_it_finds_what_somebody_else_has_done(
    run: Run, filled: Callable[[str], object], query: str, says: str
) -> None:
    """What the log itself wrote is in order; each change is a sentence, and status 1."""
    assert "in order: 2 topics" in run("verify").output
    filled(query)
    found = run("verify")
    assert (found.exit_code, says in found.output) == (1, True), found.output


def test_a_role_of_the_app_may_look_after_the_log(
    run: Run,
    filled: Callable[[str], object],
    postgres_database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What init granted is enough; a role without it is told what is missing."""
    filled("alter role fs_app login password 'secret'")
    monkeypatch.setenv("FLOWSTREAM_LOG_URL", make_conninfo_url(postgres_database, "fs_app"))
    for command in (["inspect"], ["verify"], ["trim", "--topic", "news"], ["new-epoch"]):
        result = run(*command)
        assert result.exit_code == 0, result.output
    filled("revoke all on schema flowstream from fs_app")
    result = run("inspect")
    assert (result.exit_code, "--grant" in result.output) == (1, True), result.output


def make_conninfo_url(url: str, user: str) -> str:
    """Return the URL of the same database for another user."""
    given = psycopg.conninfo.conninfo_to_dict(url)
    place = {key: str(value) for key, value in given.items() if key in ("host", "port")}
    return (
        f"postgresql:///{given['dbname']}?{urlencode(place | {'user': user, 'password': 'secret'})}"
    )
