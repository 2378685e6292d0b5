"""The password in a log's URL is in no error, no log line, no text and no command line."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from psycopg.conninfo import conninfo_to_dict

from flowstream.abc import Log
from flowstream.logs import open_log
from flowstream.logs.postgres import _open_postgres
from flowstream.quart import Flowstream
from flowstream.starlette import lifespan

SECRET = "s3cr3t-of-a-test"

# {what is wrong: the URL}; PORT is a server's that takes no such password, CLOSED nobody's.
WRONG = {
    "password": f"valkey://app:{SECRET}@127.0.0.1:PORT/0",
    "nobody there": f"valkey://app:{SECRET}@127.0.0.1:CLOSED/0",
    "no such host": f"valkey://app:{SECRET}@nowhere.invalid:1/0",
    "no TLS there": f"rediss://app:{SECRET}@127.0.0.1:PORT/0",
    "database": f"valkey://app:{SECRET}@127.0.0.1:PORT/many",
    "option": f"valkey://app:{SECRET}@127.0.0.1:PORT/0?nonsense={SECRET}",
    "port": f"valkey://app:{SECRET}@127.0.0.1:{SECRET}/0",
    "scheme": f"valky://app:{SECRET}@127.0.0.1:PORT/0",
    "no scheme": f"app:{SECRET}@127.0.0.1:PORT/0",
    "no scheme but slashes": f"//app:{SECRET}@127.0.0.1:PORT/0",
    "no host": f"app:{SECRET}",
    "memory": f"memory://app:{SECRET}@127.0.0.1",
    "postgres: password": f"postgres://tester:{SECRET}@/postgres?host=FOLDER",
    "postgres: password in the query": f"postgres:///postgres?host=FOLDER&user=tester&password={SECRET}",
    "postgres: escapes": "postgresql://tester:ESCAPED@/postgres?host=FOLDER",
    "postgres: two hosts": f"postgresql://tester:{SECRET}@127.0.0.1:CLOSED,127.0.0.1:CLOSED/postgres",
    "postgres: a service": "postgres:///postgres?service=ours&host=FOLDER",
    "postgres: a password file": "postgres://tester@/postgres?host=FOLDER&passfile=PASSFILE",
    "postgres: nobody there": f"postgres://app:{SECRET}@127.0.0.1:CLOSED/shop",
    "postgres: no such host": f"postgresql://app:{SECRET}@nowhere.invalid/shop",
    "postgres: a key's password": f"postgres://app@127.0.0.1:CLOSED/shop?sslpassword={SECRET}",
    "postgres: option": f"postgres://app:{SECRET}@127.0.0.1/shop?nonsense={SECRET}",
    "postgres: port": f"postgres://app:{SECRET}@127.0.0.1:{SECRET}/shop",
    "postgres: bad escape": f"postgresql://app:%zz{SECRET}@127.0.0.1/shop",
    "postgres: an @ in the password": f"postgres://app:pass@{SECRET}@127.0.0.1:CLOSED/shop",
    "postgres: a / in the password": f"postgres://app:a/{SECRET}@127.0.0.1:CLOSED/shop",
    "postgres: a ? in the password": f"postgres://app:a?{SECRET}@127.0.0.1:CLOSED/shop",
    "postgres: a # in the password": f"postgres://app:a#{SECRET}@127.0.0.1:CLOSED/shop",
    "postgres: an @ and a / in the password": f"postgres://app:a@/{SECRET}@127.0.0.1:CLOSED/shop",
    "postgres: a URL as the database": f"postgres:///?dbname=postgres://app:{SECRET}@127.0.0.1/shop",
    "postgres: a URL as the host": f"postgres:///shop?host=app:{SECRET}@127.0.0.1",
    "postgres: words": f"host=127.0.0.1 port=CLOSED user=app password={SECRET}",
    "postgres: words with spaces": f"host = 127.0.0.1 password = {SECRET}",
    "postgres: words behind the scheme": f"postgres://host=127.0.0.1 password='{SECRET}",
    "postgres: no such service": f"postgres://app:{SECRET}@/shop?service=nobody",
    "a file's option": f"sqlite:///events.db?password={SECRET}",
    "a file with a host": f"sqlite://app:{SECRET}@127.0.0.1/events.db",
}


# What is found out by asking: for some seconds. Of the others the URL alone is wrong.
ASKED = {"password", "nobody there", "no such host", "no TLS there"}
ASKED_OF_POSTGRES = {
    "postgres: password",
    "postgres: password in the query",
    "postgres: escapes",
    "postgres: two hosts",
    "postgres: a service",
    "postgres: a password file",
    "postgres: nobody there",
    "postgres: no such host",
    "postgres: a key's password",
    "postgres: a ? in the password",
    "postgres: a # in the password",
    "postgres: no such service",
}


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A URL that no log can be opened with."""
    wrong = WRONG[request.param]
    if "PORT" in wrong:
        server = request.getfixturevalue("valkey_server")
        wrong = wrong.replace("PORT", server.rpartition(":")[2].partition("/")[0])
    if request.param in ASKED_OF_POSTGRES:
        monkeypatch.setattr(_open_postgres, "_START_SECONDS", 0.5)
        passwords, services = tmp_path / "passwords", tmp_path / "services"
        passwords.write_text(f"*:*:*:*:{SECRET}\n")
        passwords.chmod(0o600)
        services.write_text(f"[ours]\nuser=tester\npassword={SECRET}\n")
        monkeypatch.setenv("PGSERVICEFILE", str(services))
        wrong = wrong.replace("PASSFILE", str(passwords))
        wrong = wrong.replace("ESCAPED", "".join(f"%{ord(one):02x}" for one in SECRET))
        if "FOLDER" in wrong:
            server = conninfo_to_dict(request.getfixturevalue("postgres_server"))
            place = f"{server['host']}&port={server.get('port', 5432)}"
            wrong = wrong.replace("FOLDER", place)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        return wrong.replace("CLOSED", str(nobody.getsockname()[1]))


def chain(error: BaseException) -> list[BaseException]:
    """Return an error, and all that are behind or in it."""
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and one not in found:
            found.append(one)
            waiting += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
    return found


async def by_open_log(url: str) -> None:
    async with open_log(url):
        pass


async def by_flowstream(url: str) -> None:
    async with Flowstream(log=url):
        pass


async def by_environment(url: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWSTREAM_LOG_URL", url)
        async with Flowstream():
            pass


async def by_lifespan(url: str) -> None:
    async with lifespan(None, log=url):
        pass


def cases() -> Iterator[Any]:
    """Yield each way with each URL; what Postgres is asked with only one."""
    for one in WRONG:
        for way in (by_open_log, by_flowstream, by_environment, by_lifespan):
            if way is by_open_log or one not in ASKED_OF_POSTGRES:
                is_slow = one in ASKED | ASKED_OF_POSTGRES
                marks = [pytest.mark.chaos] if is_slow else []
                yield pytest.param(way, one, marks=marks, id=f"{one}-{way.__name__}")


@pytest.mark.parametrize(("way", "url"), list(cases()), indirect=["url"])
async def test_an_error_has_no_secret(
    way: object, url: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """However a log is opened: not in the error, in what caused it, nor in what was logged."""
    caplog.set_level(logging.DEBUG)
    with trio.fail_after(60):
        try:
            await way(url)  # type: ignore[operator]
        except Exception as error:  # noqa: BLE001  # whichever: all are looked at
            told = [*traceback.format_exception(error), *map(repr, chain(error))]
        else:
            raise AssertionError("it was opened")
    output = capsys.readouterr()
    told += [output.out, output.err, caplog.text, *(repr(one.__dict__) for one in caplog.records)]
    assert SECRET not in "\n".join(told)


def command_lines(parent: int) -> list[str]:
    """Return the command lines of a process and of all below it."""
    lines = []
    try:
        lines.append(Path(f"/proc/{parent}/cmdline").read_text())
        for task in Path(f"/proc/{parent}/task").iterdir():
            for child in (task / "children").read_text().split():
                lines += command_lines(int(child))
    except OSError:
        pass  # it has just ended
    return lines


APP = """
from quart_trio import QuartTrio
from flowstream.quart import Flowstream

app = QuartTrio(__name__)
Flowstream(app)
"""


# Of Postgres one is enough: it is the same URL that is read.
COMMANDS = [one for one in WRONG if not one.startswith("postgres") or one == "postgres: password"]


@pytest.mark.chaos
@pytest.mark.parametrize("url", COMMANDS, indirect=True)
@pytest.mark.parametrize(
    "arguments", [["serve", "app:app", "--bind", "127.0.0.1:0", "--workers", "1"], ["log", "init"]]
)
def test_a_command_has_no_secret(arguments: list[str], url: str, tmp_path: Path) -> None:
    """The command line takes the URL from the environment: no process shows it, nor any output."""
    (tmp_path / "app.py").write_text(APP)
    program = subprocess.Popen(
        [sys.executable, "-c", "from flowstream.cli import main; main()", *arguments],
        cwd=tmp_path,
        env={**os.environ, "FLOWSTREAM_LOG_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seen = command_lines(program.pid)
    try:
        output, _ = program.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        seen += command_lines(program.pid)
        program.send_signal(signal.SIGTERM)
        output, _ = program.communicate(timeout=30)
    assert seen
    assert output
    assert SECRET not in "\n".join([*seen, output])


@pytest.mark.parametrize(
    "url",
    [
        f"valkey://app:{SECRET}@127.0.0.1:1/0",
        f"postgres://app:{SECRET}@127.0.0.1:1/shop?sslpassword={SECRET}",
    ],
)
def test_a_log_does_not_show_its_password(url: str) -> None:
    """Neither as a text nor in what it is made of."""
    from flowstream.logs._open_log import from_url

    log: Log = from_url(url)
    texts = [repr(log), str(log), *(repr(value) for value in vars(log).values())]
    assert SECRET not in "\n".join(texts)
