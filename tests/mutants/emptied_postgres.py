"""A Postgres that outlives the runs of tests, and is empty before each.

To start one for each run would take longer than most runs. A run that was ended because it hung may
have left sessions in a loop, databases and roles behind.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Self

import psycopg
from psycopg import sql

sys.path.append(str(Path(__file__).parents[1]))

from real_servers.fixtures import POSTGRES_VARIABLE
from real_servers.own_postgres import USER, OwnPostgres

_SESSIONS = """select pg_terminate_backend(pid, 5000) from pg_stat_activity
    where pid <> pg_backend_pid() and backend_type = 'client backend'"""
_DATABASES = "select datname from pg_database where not datistemplate and datname <> 'postgres'"
_ROLES = "select rolname from pg_roles where rolname <> %s and rolname not like 'pg\\_%%'"


class EmptiedPostgres:
    """One server."""

    def __init__(self) -> None:
        self._server = OwnPostgres()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.close()

    def emptied(self) -> dict[str, str]:
        """Remove what is there; return the environment in which tests use it."""
        try:
            self._empty()
        except psycopg.Error:  # it has crashed, or a session does not end
            with suppress(psycopg.Error):
                self._server.restart()
            self._empty()
        return {POSTGRES_VARIABLE: self._server.dsn}

    def _empty(self) -> None:
        with psycopg.connect(self._server.dsn, autocommit=True, connect_timeout=10) as connection:
            connection.execute(_SESSIONS)
            for (name,) in connection.execute(_DATABASES).fetchall():
                drop = sql.SQL("drop database {} with (force)").format(sql.Identifier(name))
                connection.execute(drop)
            for (name,) in connection.execute(_ROLES, [USER]).fetchall():
                connection.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))
