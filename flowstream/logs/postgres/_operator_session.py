"""A connection of somebody who operates a log on Postgres: it blocks, and says what is in the way.

Everything is asked in transactions, so it may lead through a pooler. Reading needs no server that
takes writes: a standby will do. Messages name the server, and never a secret.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg

from flowstream._errors import LogUnavailableError
from flowstream.logs.postgres._postgres_dsn import PostgresDSN
from flowstream.logs.postgres._schema import version_advice
from flowstream.logs.postgres._sqlstates import refusal

# Seconds to connect.
_CONNECT_SECONDS = 10


class OperatorSession:
    """A session with a log. `operate` makes it.

    Args:
        connection: of psycopg, in autocommit mode.
        where: the server, for messages.

    Attributes:
        role: who is logged in.
    """

    def __init__(self, connection: psycopg.Connection[Any], where: str) -> None:
        self._connection = connection
        self._where = where
        self.role: str = connection.info.user

    def ask(self, statement: str, *values: Any) -> list[Any]:
        """Do a statement; return its rows.

        Raises:
            psycopg.Error: `operate` makes a `LogUnavailableError` of it.
        """
        return self._connection.execute(statement.encode(), values or None).fetchall()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let all statements of the block see one state. Nothing is written.

        Statements are planned by indexes: the statistics may be of before a table grew.
        """
        with self._connection.transaction():
            self._connection.execute("set transaction isolation level repeatable read, read only")
            self._connection.execute("set local search_path = pg_catalog, pg_temp")
            self._connection.execute("set local enable_seqscan = off")
            self._connection.execute("set local jit = off")
            yield

    def check_version(self) -> None:
        """Raise unless the schema is of this release.

        Raises:
            LogUnavailableError: it is of another one.
        """
        [(version,)] = self.ask("select flowstream.version()")
        if advice := version_advice(version):
            raise LogUnavailableError(f"{self._where} {advice}")


@contextmanager
def operate(dsn: PostgresDSN) -> Iterator[OperatorSession]:
    """Connect to a log of this release, for a block.

    Raises:
        LogUnavailableError: there is none, or what the block asked failed; the message says what
            to do.
    """
    where = f"Postgres at {dsn.where}"
    try:
        with psycopg.connect(
            dsn.conninfo(),
            autocommit=True,
            prepare_threshold=None,
            connect_timeout=_CONNECT_SECONDS,
        ) as connection:
            session = OperatorSession(connection, where)
            session.check_version()
            yield session
    except psycopg.Error as error:
        raise _failure(where, error) from None


def _failure(where: str, error: psycopg.Error) -> LogUnavailableError:
    if error.sqlstate is None:
        return LogUnavailableError(f"{where} can't be reached: {' '.join(str(error).split())}")
    said = error.diag.message_primary
    advice = refusal(error.sqlstate).advice
    return LogUnavailableError(f"{where} {advice} ({said}, SQLSTATE {error.sqlstate})")


def names_of_topics(session: OperatorSession, page: int) -> Iterator[Sequence[str]]:
    """Yield the names of all topics that were not deleted, sorted, in pages."""
    last = ""
    while names := [name for (name,) in session.ask(_TOPICS, last, page)]:
        yield names
        last = names[-1]


_TOPICS = "select o_name from flowstream.topics('', %s::text, %s::int4)"
