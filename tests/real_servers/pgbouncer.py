"""PgBouncer in front of a Postgres server."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import mkdtemp
from typing import Self
from urllib.parse import quote

import psycopg

from .own_postgres import PASSWORD, USER, OwnPostgres
from .own_process import OwnProcess
from .programs import account, pgbouncer_program


class PgBouncer:
    """One PgBouncer. It is started at once.

    Args:
        server: what is behind it.
        pool_mode: "transaction", "session" or "statement".
        users: names and passwords of its users besides the superuser.
        settings: more lines of its configuration.

    Attributes:
        folder: of its socket.
        process: its process.

    Raises:
        MissingProgramError: there is no program of it.
    """

    def __init__(
        self,
        server: OwnPostgres,
        *,
        pool_mode: str = "transaction",
        users: dict[str, str] | None = None,
        **settings: str | int,
    ) -> None:
        program, user = pgbouncer_program(), account()
        self.folder = Path(mkdtemp(prefix="pgbouncer-"))
        lines = {
            "pool_mode": pool_mode,
            "unix_socket_dir": self.folder,
            "auth_type": "scram-sha-256",
            "auth_file": self.folder / "users",
            "ignore_startup_parameters": "extra_float_digits",
            "max_client_conn": 1000,
            "default_pool_size": 10,
            "listen_port": 6432,
            **settings,
        }
        known = {USER: PASSWORD, **(users or {})}
        texts = {
            "users": "".join(f'"{name}" "{password}"\n' for name, password in known.items()),
            "pgbouncer.ini": "\n".join(
                [
                    "[databases]",
                    f"* = host={server.folder} port={server.port}",
                    "[pgbouncer]",
                    *(f"{name} = {value}" for name, value in lines.items()),
                    "",
                ]
            ),
        }
        for name, text in texts.items():
            (self.folder / name).write_text(text)
        for path in (self.folder, *self.folder.iterdir()) if user is not None else ():
            shutil.chown(path, user)
        self.process = OwnProcess([program, self.folder / "pgbouncer.ini"], self.folder, user)
        try:
            self.process.wait_until(self._answers, "PgBouncer")
        except BaseException:
            self.close()
            raise

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.dsn).close()
        except psycopg.OperationalError:
            return False
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill it, and remove its folder."""
        self.process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def dsn(self) -> str:
        """Of the superuser."""
        return f"host={self.folder} port=6432 user={USER} password='{PASSWORD}' dbname=postgres"

    def url_of(self, user: str = USER, password: str = PASSWORD, database: str = "postgres") -> str:
        """Return a URL through it."""
        return f"postgres://{user}:{quote(password)}@/{database}?host={self.folder}&port=6432"

    @property
    def url(self) -> str:
        """Of the superuser."""
        return self.url_of()
