"""A Postgres connection for use in threads: open it, interrupt it, translate its errors.

Everything here needs psycopg, which is an extra, and is imported with it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from flowstream._errors import UpstreamError

logger = logging.getLogger("flowstream")

# Used unless the app's DSN says otherwise: libpq would wait two minutes for a server that is not
# there, and two hours for one that has vanished.
_DEFAULTS: dict[str, Any] = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
}

# Seconds for the server to take a request to cancel.
_CANCEL_TIMEOUT = 1.0
# A second of them: a server that does not listen is left instead.
_CANCEL_ATTEMPTS = 20


def check_dsn(dsn: str) -> str:
    """Return `dsn` with our defaults for what it leaves open.

    Raises:
        ValueError: it can't be parsed. The message does not quote it, since it may hold a password.
    """
    try:
        return make_conninfo(dsn, **{**_DEFAULTS, **conninfo_to_dict(dsn)})
    except psycopg.ProgrammingError:
        raise ValueError(
            'the DSN of the database can\'t be read: it is "dbname=shop host=..." or '
            '"postgresql://..."'
        ) from None


def connect(dsn: str, *, read_only: bool = False, autocommit: bool = False) -> Connection[Any]:
    """Return a connection; **blocks**.

    Raises:
        UpstreamError: the server can't be reached, or refuses us.
    """
    with told_to_the_client():
        connection = Connection.connect(dsn, autocommit=autocommit)
    connection.read_only = read_only or None
    return connection


@contextlib.contextmanager
def told_to_the_client() -> Iterator[None]:
    """Turn an error of the server, which is not the query's, into an error for the client.

    psycopg calls it an OperationalError: no connection, too many connections, a shutdown, no space
    left, a timeout of the server, a deadlock.
    """
    try:
        yield
    except psycopg.OperationalError as error:
        raise UpstreamError(
            "database_unavailable", "The database is not available.", status=503
        ) from error


def interrupt(connection: Connection[Any], attempt: int) -> None:
    """Make another thread's call on `connection` fail soon; **blocks** a little.

    It asks the server to cancel. If the server can't be asked, or goes on, the connection is cut:
    the thread returns at once, and the server will notice.
    """
    try:
        connection.cancel_safe(timeout=_CANCEL_TIMEOUT)
    except psycopg.Error:
        logger.info("a query could not be cancelled: its connection is cut", exc_info=True)
    else:
        if attempt < _CANCEL_ATTEMPTS:
            return
    _cut(connection)


def _cut(connection: Connection[Any]) -> None:
    with contextlib.suppress(OSError, psycopg.Error):
        # Use a duplicate: the descriptor belongs to libpq, which closes it.
        duplicate = socket.socket(fileno=os.dup(connection.fileno()))
        with duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)
