"""``flowstream log``: what it shows, checks and changes, and what it says when it can't."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result

from flowstream import Replay
from flowstream.abc import LogEntry
from flowstream.cli import main
from flowstream.logs import SQLiteLog, open_log

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run ``flowstream log`` in an empty folder, without a URL in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLOWSTREAM_LOG_URL", raising=False)
    return lambda *arguments: CliRunner().invoke(main, ["log", *arguments])


async def publish(path: Path, **topics: int) -> None:
    """Append so many events of 3 bytes to each topic, each with a key."""
    async with open_log(SQLiteLog(path)) as log:
        for topic, count in topics.items():
            entries = [LogEntry(b"abc", key=f"{number}") for number in range(count)]
            await log.append(topic, entries, keep=Replay(items=1000), token=topic)


@pytest.fixture
def path(run: Run, tmp_path: Path) -> Path:
    """A log with two topics."""
    path = tmp_path / "events.db"
    trio.run(lambda: publish(path, news=5, prices=2))
    return path


def change(path: Path, statement: str) -> None:
    """Write to the file as no log would."""
    db = sqlite3.connect(path)
    db.execute(statement)
    db.commit()
    db.close()


def test_init_makes_a_log_and_leaves_one_that_is_there(run: Run, tmp_path: Path) -> None:
    """What is in it stays."""
    assert run("init", "sqlite:///events.db").exit_code == 0
    trio.run(lambda: publish(tmp_path / "events.db", news=1))
    result = run("init", "sqlite:///events.db")
    assert (result.exit_code, "can be used" in result.stdout) == (0, True)
    assert json.loads(run("inspect", "sqlite:///events.db", "--json").stdout)["number"] == 1


def test_inspect_shows_each_topic(run: Run, path: Path) -> None:
    """Columns stand below their headings; numbers are those of the log."""
    lines = run("inspect", "sqlite:///events.db").stdout.splitlines()
    assert lines[0].split() == ["topic", "epochs", "head", "first", "kept", "bytes", "newest"]
    assert lines[1].split()[:6] == ["news", "1", "5", "1", "5", "15"]
    assert lines[2].split()[:6] == ["prices", "1", "2", "1", "2", "6"]
    assert lines[1].endswith(" s ago")
    assert len({line.index("ago") for line in lines[1:]}) == 1
    assert len(lines) == 3


def test_inspect_shows_one_topic(run: Run, path: Path) -> None:
    """With its epochs and what it keeps."""
    text = run("inspect", "sqlite:///events.db", "--topic", "news").stdout
    assert "head        5" in text
    assert "kept        5 events, 15 bytes" in text
    assert " from 1\n" in text
    assert "keeps       1000 events" in text
    result = run("inspect", "sqlite:///events.db", "--topic", "none")
    assert (result.exit_code, "has no topic 'none'" in result.stderr) == (1, True)


def test_inspect_writes_json(run: Run, path: Path) -> None:
    """One object a topic and line."""
    first, second = map(
        json.loads, run("inspect", "--json", f"sqlite:///{path}").stdout.split("\n")[:2]
    )
    assert (first["name"], first["number"], first["kept"], first["size"]) == ("news", 5, 5, 15)
    assert second["epochs"][0][1] == 1
    assert 0 <= first["age"] < 60
    assert first["keep"]["seconds"] is None


def test_a_name_that_can_not_be_shown_is_escaped(run: Run, tmp_path: Path) -> None:
    """A topic's name may come from a client, and must not rule the terminal."""
    trio.run(lambda: publish(tmp_path / "events.db", **{"\x1b[2Jnews": 1}))
    assert "'\\x1b[2Jnews'" in run("inspect", "sqlite:///events.db").stdout


def test_the_variable_names_the_log(run: Run, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its value is not shown, since it may have a password."""
    monkeypatch.setenv("FLOWSTREAM_LOG_URL", "sqlite:///events.db")
    assert "news" in run("inspect").stdout
    monkeypatch.setenv("FLOWSTREAM_LOG_URL", "postgres://me:secret@host/db")
    result = run("inspect")
    assert (result.exit_code, "secret" in result.output) == (1, False)
    assert "can't be reached" in result.stderr
    monkeypatch.setenv("FLOWSTREAM_LOG_URL", "memory:")
    assert "nothing that this command could look after" in run("inspect").stderr
    for url in ("kafka://me:secret@host/db", "sqlite://me:secret@host", "memory:secret"):
        monkeypatch.setenv("FLOWSTREAM_LOG_URL", url)
        result = run("inspect")
        assert result.exit_code == 2
        assert "FLOWSTREAM_LOG_URL: it is not the URL of a log" in result.stderr
        assert "secret" not in result.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["inspect"], "no log is named: write sqlite:///events.db, or set FLOWSTREAM_LOG_URL"),
        (["inspect", "events.db"], "the URL of a file is expected"),
        (["inspect", "redis://:secret@host"], "written into FLOWSTREAM_LOG_URL"),
        (["verify", "sqlite:events.db?x=1"], "URL: "),
        (["trim", "sqlite:///events.db"], "--topic"),
        (["trim", "sqlite:///events.db", "--topic", "a", "--items", "-1"], "--items"),
    ],
)
def test_a_wrong_command_line(run: Run, arguments: list[str], says: str) -> None:
    """The exit status is 2, and the message says what to write."""
    result = run(*arguments)
    assert (result.exit_code, says in result.stderr) == (2, True), result.stderr


def test_a_log_in_memory_has_nothing_to_look_after(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is gone with its process."""
    monkeypatch.setenv("FLOWSTREAM_LOG_URL", "memory:")
    assert "name a file" in run("inspect").stderr


@pytest.mark.parametrize("command", ["inspect", "verify", "trim", "new-epoch"])
def test_a_file_that_is_not_there_is_not_made(run: Run, command: str, tmp_path: Path) -> None:
    """Only init makes one; another program's file is left as it is."""
    more = ["--topic", "news"] if command == "trim" else []
    result = run(command, "sqlite:///events.db", *more)
    assert (result.exit_code, "flowstream log init" in result.stderr) == (1, True)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty.db").touch()
    assert "is empty" in run(command, "sqlite:///empty.db", *more).stderr
    change(tmp_path / "other.db", "create table mine(x)")
    assert "another program's" in run(command, "sqlite:///other.db", *more).stderr
    (tmp_path / "text.db").write_text("no database, and longer than a header of SQLite" * 99)
    assert "is not a log, or is damaged" in run(command, "sqlite:///text.db", *more).stderr


def test_verify_finds_nothing_in_a_log_that_was_used(run: Run, path: Path) -> None:
    """Trimmed, deleted, with new epochs, keys and idempotency keys."""

    async def use() -> None:
        async with open_log(SQLiteLog(path)) as log:
            for number in range(300):
                entry = LogEntry(b"x" * number, f"{number % 7}", f"k{number}")
                await log.append("a", [entry] * 2, keep=Replay(items=20), token=f"t{number}")
            await log.trim("news", Replay(items=2))
            await log.delete("prices")
            await log.append("b", [LogEntry(b"x")] * 9, keep=Replay(items=0), token="t")
            head = (await log.heads(["a"]))["a"]
            await log.read("a", (head.epochs[0][0], 1000), 1, mine=True)
            await log.append("a", [LogEntry(b"x")], keep=Replay(bytes=100), token="last")

    trio.run(use)
    result = run("verify", "sqlite:///events.db")
    assert (result.exit_code, result.stdout) == (0, f"{path} is in order: 4 topics\n")


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("delete from event where number = 3", "numbers are left out (1 times)"),
        ("delete from event where number = 3", "keeps 4 events from 1 to 5, not 5"),
        ("delete from event where number = 5", "keeps 4 events from 1 to 5, not 5"),
        ("update event set pos = 99 where number = 2", "in the order of their numbers (1 times)"),
        ("update event set pos = 99 where number = 5", "the counter of events is at 7"),
        ("update event set at = at - 9 where number = 3", "is older than the one before it"),
        ("update event set data = x'61' where number = 3", "its events have 13 bytes, not 15"),
        ("update event set data = 'abc' where number = 3", "an event is no bytes (1 times)"),
        ("update event set number = 0 where number = 1", "an event with the number 0"),
        ("update event set number = 9 where number = 5", "an event 9, behind its newest one"),
        ("update topic set size = 16", "its events have 15 bytes, not 16"),
        ("update topic set head = 6", "keeps 5 events from 1 to 6, not 6"),
        ("update topic set epochs = 'b:1,a:2'", "its epochs are not in order: b, a"),
        ("update topic set epochs = 'a:3,b:2'", "its epochs begin at [3, 2]"),
        ("update topic set epochs = 'a:0'", "its epochs begin at [0]"),
        ("update topic set epochs = 'a:1,b:9'", "its epochs begin at [1, 9]"),
        ("update topic set life = 5", "of the life 5 of the log, which is in its life 1"),
        ("update token set number = 9", "a token is of an event behind its newest one (1 times)"),
        ("update latest set number = 9 where key = 4", "the newest event of a key is of an event"),
        (
            "update latest set data = x'00' where key = 4",
            "is not the event of its number (1",
        ),
        ("insert into key values(1, 'k', 0, 'e', 9)", "an idempotency key is of an event behind"),
        ("insert into key values(9, 'k', 0, 'e', 1)", "an idempotency key is of a topic that is"),
        ("update token set topic = 9", "a token is of a topic that is not there (1 times)"),
        ("update event set topic = 9 where number = 5", "an event is of a topic that is not there"),
        ("drop index event_number", None),
    ],
)
def test_verify_finds_what_no_log_writes(
    run: Run, tmp_path: Path, statement: str, says: str | None
) -> None:
    """Each finding is a sentence; the exit status says that there are some."""
    path = tmp_path / "events.db"
    trio.run(lambda: publish(path, news=5, more=2))
    change(path, "delete from event where topic = 2")
    change(path, "delete from latest where topic = 2")
    change(path, "delete from token where topic = 2")
    change(path, "delete from topic where id = 2")
    assert run("verify", "sqlite:///events.db").exit_code == 0
    change(path, statement)
    result = run("verify", "sqlite:///events.db")
    if says is None:  # slower, and no less right
        assert result.exit_code == 0
        return
    assert result.exit_code == 1
    assert says in result.stdout
    assert "restore it from a copy" in result.stderr


def test_verify_finds_a_damaged_page(run: Run, tmp_path: Path) -> None:
    """SQLite's own check is a part of it."""
    path = tmp_path / "events.db"
    trio.run(lambda: publish(path, news=900))
    data = bytearray(path.read_bytes())
    assert len(data) > 10 * 4096
    data[-4096:] = bytes(4096)
    path.write_bytes(data)
    result = run("verify", "sqlite:///events.db")
    assert result.exit_code == 1
    assert "damaged" in result.output


def test_trim_forgets_what_the_options_do_not_keep(run: Run, path: Path) -> None:
    """Other bounds of the topic stay as they are, and what it keeps from now on, too."""
    url = "sqlite:///events.db"
    assert "forgotten of 'news': 0\n" in run("trim", url, "--topic", "news").stdout
    assert "forgotten of 'news': 2\n" in run("trim", url, "--topic", "news", "--items", "3").stdout
    assert "forgotten of 'news': 1\n" in run("trim", url, "--topic", "news", "--bytes", "8").stdout
    assert "keeps       1000 events" in run("inspect", url, "--topic", "news").stdout
    assert (
        "forgotten of 'news': 2\n"
        in run("trim", url, "--topic", "news", "--seconds", "1e-9").stdout
    )
    assert "has no topic 'none'" in run("trim", url, "--topic", "none").stderr
    assert run("verify", url).exit_code == 0


def test_new_epoch_makes_a_restored_copy_safe(run: Run, path: Path, tmp_path: Path) -> None:
    """A client that had what the copy lacks goes on in the new epoch, and is known."""

    async def read(after: tuple[str, int]) -> tuple[bool, list[tuple[str, int]]]:
        async with open_log(SQLiteLog(path)) as log:
            await log.append("news", [LogEntry(b"new")], keep=Replay(), token="new")
            _, known, records = await log.read("news", after, 10)
            return known, [(record.epoch, record.number) for record in records]

    url = "sqlite:///events.db"
    (epoch, _), *_ = json.loads(run("inspect", url, "--json", "--topic", "news").stdout)["epochs"]
    assert run("new-epoch", url).exit_code == 0
    known, records = trio.run(read, (epoch, 99))  # 6 to 99 were lost
    assert known
    ((began, number),) = records
    assert number == 6
    assert began > epoch
    assert run("verify", url).exit_code == 0


def test_the_commands_are_listed(run: Run) -> None:
    """In the order of the alphabet, with a line about each."""
    lines = CliRunner().invoke(main, ["-h"]).stdout.split("Commands:")[1].splitlines()
    assert [line.split()[0] for line in lines if line] == ["demo", "log", "serve"]
    assert "new-epoch" in run("-h").stdout


def test_a_server_does_not_load_them() -> None:
    """A worker that keeps no log has neither SQLite nor the commands in memory."""
    program = "import sys, flowstream.cli; print([n for n in sys.modules if n in sys.argv[1:]])"
    names = ["sqlite3", "flowstream.commands", "flowstream.logs._sqlite_log"]
    command = [sys.executable, "-c", program, *names]
    # What counts lines in CI has SQLite loaded by itself.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COV")}
    assert subprocess.check_output(command, text=True, env=environment) == "[]\n"


# A Python in which neither package of a server's log is installed.
_WITHOUT_EXTRAS = """
import sys
sys.modules["psycopg"] = sys.modules["hiredis"] = None
from flowstream.cli import main
main()
"""


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:///events.db", "events.db is a log, and can be used"),
        ("postgresql://localhost/app", "flowstream-trio[postgres]"),
        ("valkey://localhost:1/0", "flowstream-trio[valkey]"),
    ],
)
def test_a_log_needs_no_package_but_its_own(tmp_path: Path, url: str, said: str) -> None:
    """A file is used without the packages of servers; for a server, the missing one is named."""
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_EXTRAS, "log", "init"],
        cwd=tmp_path,
        env={**os.environ, "FLOWSTREAM_LOG_URL": url},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == (0 if url.startswith("sqlite") else 1)
