"""``flowstream log`` for a log in Valkey: what it shows, checks and changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result
from real_servers.wire import call

from flowstream import Replay
from flowstream.abc import LogEntry
from flowstream.cli import main
from flowstream.logs import open_log

Run = Callable[..., Result]
_databases = count(9000)


@pytest.fixture
def url(valkey_server: str) -> str:
    """A log with two topics, in a database of its own."""
    url = f"{valkey_server.rsplit('/', 1)[0]}/{next(_databases)}"

    async def publish() -> None:
        async with open_log(url) as log:
            for topic, number in (("news", 5), ("prices", 2)):
                entries = [LogEntry(b"abc")] * number
                await log.append(topic, entries, keep=Replay(seconds=3600), token=topic)

    trio.run(publish)
    return url


@pytest.fixture
def run(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run ``flowstream log`` with the log's URL in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWSTREAM_LOG_URL", url)
    return lambda *arguments: CliRunner().invoke(main, ["log", *arguments])


def change(url: str, *command: str) -> None:
    """Write to the log's database as no log would."""
    port, _, database = url.rpartition(":")[2].partition("/")
    call(
        int(port),
        "EVAL",
        "redis.call('SELECT', ARGV[1]) return redis.call(unpack(ARGV, 2))",
        0,
        database,
        *command,
    )


def test_it_shows_what_topics_have(run: Run) -> None:
    """As a table, one topic with more, and as JSON."""
    assert run("init").exit_code == 0
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


def test_it_trims_and_begins_epochs(run: Run) -> None:
    """Other bounds stay; a new epoch begins for every topic."""
    assert "'news': 3" in run("trim", "--topic", "news", "--items", "2").output
    assert run("trim", "--topic", "other").exit_code == 1
    assert run("new-epoch").exit_code == 0
    assert [
        json.loads(line)["epochs"][1][1] for line in run("inspect", "--json").output.splitlines()
    ] == [6, 3]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("XDEL", "{flowstream}:events:news", "3-0"), "left out"),
        (("XTRIM", "{flowstream}:events:news", "MAXLEN", "=", "2"), "bytes"),
        (("HSET", "{flowstream}:topic:news", "number", "9"), "should be 9"),
        (("ZREM", "{flowstream}:due", "news"), "over its time"),
    ],
)
def test_it_finds_what_somebody_else_has_done(
    run: Run, url: str, command: tuple[str, ...], says: str
) -> None:
    """What the log itself wrote is in order; each change is a sentence, and status 1."""
    assert "in order: 2 topics" in run("verify").output
    change(url, *command)
    found = run("verify")
    assert (found.exit_code, says in found.output, "'news'" in found.output) == (1, True, True)


def test_the_url_is_in_the_environment_or_a_file(
    run: Run, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One in a command is refused, without the password; one in a file will do."""
    refused = run("inspect", "valkey://app:hidden@localhost:1/0")
    assert (refused.exit_code, "hidden" in refused.output) == (2, False)
    monkeypatch.delenv("FLOWSTREAM_LOG_URL")
    (tmp_path / "url").write_text(f"{url}\n")
    assert "news" in run("inspect", "--url-file", "url").output


def test_a_server_that_is_away_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence, status 1, and no password."""
    monkeypatch.setenv("FLOWSTREAM_LOG_URL", "valkey://app:hidden@127.0.0.1:1/0")
    away = run("inspect")
    assert (away.exit_code, "hidden" in away.output, "127.0.0.1:1" in away.output) == (
        1,
        False,
        True,
    )
