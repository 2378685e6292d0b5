"""A Postgres connection that is used in threads: how it is made, interrupted, and what it tells.

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

# Where the app's DSN says nothing else: libpq waits two minutes for a server that is not
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
    """Return `dsn` with what it leaves open.

    Raises:
        ValueError: it can't be read. The message has nothing of it: a password may be in it.
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
        UpstreamError: the server is not there, or refuses us.
    """
    with told_to_the_client():
        connection = Connection.connect(dsn, autocommit=autocommit)
    connection.read_only = read_only or None
    return connection


@contextlib.contextmanager
def told_to_the_client() -> Iterator[None]:
    """Make of what is the server's trouble, and not the query's, an error for the client.

    That is what psycopg calls an OperationalError: no connection, too many of them, shutting
    down, out of space, cancelled by a timeout of the server's, a deadlock.
    """
    try:
        yield
    except psycopg.OperationalError as error:
        raise UpstreamError(
            "database_unavailable", "The database is not available.", status=503
        ) from error


def interrupt(connection: Connection[Any], attempt: int) -> None:
    """Have the call that another thread makes on `connection` fail soon; **blocks** a little.

    The server is asked to cancel what it does. If it can't be asked, or goes on for all
    that, the connection is cut: the thread gets out, and the server will find out.
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
        # A duplicate: the descriptor itself is libpq's, and is closed by it.
        duplicate = socket.socket(fileno=os.dup(connection.fileno()))
        with duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)
