"""``flowstream log init`` for a log on Postgres: it makes the schema, and tells no password."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result

from flowstream.cli import main
from flowstream.logs.postgres._schema import VERSION, schema_sql

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
    assert ask(postgres_database, "select flowstream.version()") == [(VERSION,)]


def test_the_sql_can_be_run_by_hand(run: Run, postgres_database: str, role: str) -> None:
    """What is printed makes the same schema, as one transaction."""
    printed = run("init", "--print", "--grant", role)
    assert printed.exit_code == 0
    with psycopg.connect(postgres_database, autocommit=True) as owner:
        owner.execute(printed.output.encode())
    assert ask(postgres_database, "select flowstream.version()") == [(VERSION,)]


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
                " 'select 99'"
            )
            result = run("init")
            assert result.exit_code == 1
            assert "install that release" in result.output
        finally:
            owner.execute("drop role fs_other")


def test_the_sql_of_the_how_to_runs(run: Run, postgres_database: str) -> None:
    """Each block of the page: as a superuser first, then over the log; nothing is written."""
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "postgres.md").read_text()
    roles, *blocks = re.findall(r"^```sql\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    with psycopg.connect(postgres_database) as owner:
        for statement in roles.split(";\n")[:-2]:  # a database can't be made in a transaction
            owner.execute(statement.encode())
        owner.execute("create role reporting")
        owner.execute(schema_sql(["app"]).encode())
        for block in blocks:
            owner.execute(block.encode())
        owner.rollback()
