"""Make the schema of the log on Postgres in a database: what `flowstream log init` does.

It connects with psycopg, and blocks. A message about a failure never has a password in it: of a URL
that can't be read nothing is repeated, since any part of it may be one.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from flowstream._errors import LogUnavailableError
from flowstream.logs.postgres._schema import schema_sql

SCHEMES = ("postgres", "postgresql")
# Seconds to connect, and for which a lock on a table is waited for: readers hold them shortly.
_CONNECT_SECONDS = 10
_LOCK_SECONDS = 30


def install(url: str, roles: Sequence[str] = (), *, failover_loses: bool | None = None) -> str:
    """Make the schema, or upgrade it, in one transaction; return the database's name. **Blocks**.

    Args:
        url: of the database, as the role that is to own the schema.
        roles: who may use the log besides.
        failover_loses: whether all topics begin a new epoch after a failover. None for what the
            log has been set to; true at first.

    Raises:
        LogUnavailableError: it can't be made; the message says why, and has no password in it.
        ValueError: a role's name can't be one.
    """
    psycopg = _psycopg()
    sql = schema_sql(roles)
    try:
        psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.Error:
        raise LogUnavailableError(
            "this is not the URL of a Postgres database: write "
            "postgres://user:password@host:5432/database"
        ) from None
    try:
        with psycopg.connect(url, connect_timeout=_CONNECT_SECONDS) as connection:
            connection.execute(f"set local lock_timeout = '{_LOCK_SECONDS}s'")
            connection.execute(sql)
            if failover_loses is not None:
                connection.execute(
                    "update flowstream.log set failover_loses = %s", [failover_loses]
                )
            return str(connection.info.dbname)
    except psycopg.Error as error:
        said = error.diag.message_primary or str(error).strip()
        hint = f" ({error.diag.message_hint})" if error.diag.message_hint else ""
        raise LogUnavailableError(f"the log can't be made: {said}{hint}") from error


def _psycopg() -> Any:
    try:
        import_module("psycopg.conninfo")
        return import_module("psycopg")
    except ImportError as error:
        raise LogUnavailableError(
            "a log on Postgres needs psycopg: pip install 'flowstream-trio[postgres]'"
        ) from error
