"""A Postgres server of a test's own, which can be broken.

It listens on a Unix socket in a folder of its own: no port can be taken, and two runs of the tests
never meet. Postgres refuses to run as root, as CI often does; then it runs as `postgres` or
`nobody`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from itertools import count
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Self
from urllib.parse import quote

import psycopg

from . import programs
from .certificates import Certificates
from .own_process import PATIENCE, OwnProcess, free_port

USER, PASSWORD = "tester", "open sesame"

_SETTINGS = {
    "listen_addresses": "",
    # What was committed outlives a killed server, and need not outlive the machine.
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "100",
    "shared_buffers": "32MB",
    "dynamic_shared_memory_type": "mmap",  # containers have little of the other kind
    "log_min_messages": "fatal",
}


class OwnPostgres:
    """One server. It is started at once.

    Args:
        kind: "debian", "wheel", or "" for the machine's if it has one, else the wheel's.
        tcp: whether it also listens on 127.0.0.1, at `port`.
        certificates: with them it takes TLS there.
        standby_of: the server that it is a standby of, from a copy made now.
        through: the port of a proxy in front of that server, which it follows it by.
        settings: of its configuration.

    Attributes:
        folder: of its socket.
        port: of its socket, and of 127.0.0.1.

    Raises:
        MissingProgramError: there is no program of this kind.
    """

    def __init__(
        self,
        kind: str = "",
        *,
        tcp: bool = False,
        certificates: Certificates | None = None,
        standby_of: OwnPostgres | None = None,
        through: int = 0,
        **settings: str | int,
    ) -> None:
        self._account = programs.account()
        self.folder = Path(mkdtemp(prefix="pg-"))
        self._data = self.folder / "data"
        self._copies = count(1)
        self.process: OwnProcess | None = None
        self.port = free_port() if tcp else 5432
        self._settings: dict[str, str | int | Path] = {
            **_SETTINGS,
            "listen_addresses": "127.0.0.1" if tcp else "",
            **settings,
        }
        try:
            self._binaries = self._find(kind) if standby_of is None else standby_of._binaries
            if self._account is not None:
                shutil.chown(self.folder, self._account)
            if certificates is not None:
                self._take(certificates)
            if standby_of is None:
                self._make_cluster()
            else:
                self._copy_from(standby_of, through)
            self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill it, and remove its folder."""
        if self.process is not None:
            self.process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _find(self, kind: str) -> Path:
        if kind != "wheel":
            try:
                return programs.debian_postgres()
            except programs.MissingProgramError:
                if kind:
                    raise
        return programs.wheel_postgres(self.folder, self._account)

    def _take(self, certificates: Certificates) -> None:
        for name, file in (
            ("server.pem", certificates.certificate),
            ("server.key", certificates.key),
        ):
            mine = self.folder / name
            shutil.copy(file, mine)
            mine.chmod(0o600)
            if self._account is not None:
                shutil.chown(mine, self._account)
        self._settings |= {
            "ssl": "on",
            "ssl_cert_file": self.folder / "server.pem",
            "ssl_key_file": self.folder / "server.key",
        }

    def _do(self, *command: str | Path, **environment: str) -> None:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            user=self._account,
            cwd=self.folder,
            env={**os.environ, **environment},
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]} has failed:\n{done.stdout}")

    def _make_cluster(self) -> None:
        password = self.folder / "password"
        password.write_text(PASSWORD)
        if self._account is not None:
            shutil.chown(password, self._account)
        self._do(
            self._binaries / "initdb",
            f"--pgdata={self._data}",
            f"--username={USER}",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        )

    # -- where it is -----------------------------------------------------------------------

    @property
    def dsn(self) -> str:
        """Of its superuser, over its socket."""
        port = "" if self.port == 5432 else f" port={self.port}"
        return f"host={self.folder}{port} user={USER} password='{PASSWORD}' dbname=postgres"

    @property
    def url(self) -> str:
        """The same as a URL."""
        return self.url_of()

    def url_of(self, user: str = USER, password: str = PASSWORD, database: str = "postgres") -> str:
        """Return a URL over its socket."""
        port = "" if self.port == 5432 else f"&port={self.port}"
        return f"postgres://{user}:{quote(password)}@/{database}?host={self.folder}{port}"

    @property
    def tcp_url(self) -> str:
        """The URL over TCP."""
        assert self._settings["listen_addresses"], "made without tcp=True"
        return f"postgres://{USER}:{quote(PASSWORD)}@127.0.0.1:{self.port}/postgres"

    @property
    def socket(self) -> Path:
        """Its Unix socket."""
        return self.folder / f".s.PGSQL.{self.port}"

    @property
    def version(self) -> int:
        """Its major version."""
        return int((self._data / "PG_VERSION").read_text())

    def sql(self, query: str, *values: Any) -> list[Any]:
        """Run a statement on a connection of its own, and return its rows."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(query, values or None)
            return cursor.fetchall() if cursor.description else []

    # -- its life --------------------------------------------------------------------------

    def start(self) -> None:
        """Start it with the data that it has, and wait until it takes connections."""
        settings = {**self._settings, "unix_socket_directories": self.folder, "port": self.port}
        (self._data / "postmaster.pid").unlink(missing_ok=True)  # of a life that was killed
        options = [f"--{name}={value}" for name, value in settings.items()]
        command = [self._binaries / "postgres", "-D", self._data, *options]
        self.process = OwnProcess(command, self.folder, self._account)
        self.process.wait_until(self._answers, "Postgres")

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.dsn).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """Have it end ("fast"): connections are cut, and new ones are refused."""
        assert self.process is not None
        self.process.end(signal.SIGINT)

    def crash(self) -> None:
        """Kill the server and all its children at once (SIGKILL)."""
        assert self.process is not None
        self.process.kill()

    def restart(self) -> None:
        """Crash it, and start it."""
        self.crash()
        self.start()

    def freeze(self) -> None:
        """Have it and its children stand still (SIGSTOP)."""
        assert self.process is not None
        self.process.freeze()

    def thaw(self) -> None:
        """Have them go on (SIGCONT)."""
        assert self.process is not None
        self.process.thaw()

    # -- its data --------------------------------------------------------------------------

    def copy(self) -> Path:
        """Return a copy of its data as they are now, as of a snapshot of its disk.

        It stands still meanwhile.
        """
        copy = self.folder / f"copy-{next(self._copies)}"
        runs = self.process is not None and self.process.runs
        if runs:
            self.freeze()
        try:
            subprocess.run(["cp", "-a", self._data, copy], check=True)
        finally:
            if runs:
                self.thaw()
        return copy

    def restore(self, copy: Path) -> None:
        """Crash it, and start it with what `copy` has, which can be restored again."""
        self.crash()
        shutil.rmtree(self._data)
        subprocess.run(["cp", "-a", copy, self._data], check=True)
        self.start()

    # -- its standbys ----------------------------------------------------------------------

    def follow(self, primary: OwnPostgres, *, through: int = 0) -> None:
        """Be a standby of another server from now on, with a new copy of its data."""
        self.crash()
        shutil.rmtree(self._data)
        self._copy_from(primary, through)
        self.start()

    def _copy_from(self, primary: OwnPostgres, through: int) -> None:
        front = psycopg.conninfo.make_conninfo(primary.dsn, host="127.0.0.1", port=through)
        self._do(
            self._binaries / "pg_basebackup",
            f"--pgdata={self._data}",
            f"--dbname={front if through else primary.dsn}",
            "--write-recovery-conf",
            "--checkpoint=fast",
            "--wal-method=stream",
            "--no-sync",
            HOME=str(self.folder),
        )

    def wait_in_step(self, primary: OwnPostgres) -> None:
        """Wait until this standby has replayed all that `primary` has written by now."""
        ((target,),) = primary.sql("SELECT pg_current_wal_lsn()::text")
        end = time.monotonic() + PATIENCE
        query = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
        while self.sql(query, target) != [(True,)]:
            if time.monotonic() > end:
                raise RuntimeError("the standby is not in step")
            time.sleep(0.01)

    def promote(self) -> None:
        """Have this standby be a primary; **wait** until it is."""
        self.sql("SELECT pg_promote()")

    @property
    def is_standby(self) -> bool:
        """Whether it takes no writes."""
        return bool(self.sql("SELECT pg_is_in_recovery()")[0][0])
