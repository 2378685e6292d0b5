"""Real servers as fixtures.

=========================  ===============================================================
fixture                    what it gives
=========================  ===============================================================
`valkey_server`            the URL of a Valkey, one for all tests
`redis_server`             the URL of a Redis, likewise
`broker`                   both, one after the other: the test runs twice
`postgres_server`          the DSN of a superuser of a Postgres (the machine's, else the wheel's)
`postgres_database`        the URL of an empty database there, of this test's own
`postgres_log`             the URL of a database there with the schema of a log, one for all tests
`postgres_18_log`          the same on the wheel's Postgres, the newest one
`own_server`               starts a Valkey or Redis of the test's own (`KeyValueServer`)
`own_postgres`             starts a Postgres of the test's own (`OwnPostgres`)
`certificates`             of servers and clients (`Certificates`)
=========================  ===============================================================

`FLOWSTREAM_TEST_VALKEY`, `FLOWSTREAM_TEST_REDIS` and `FLOWSTREAM_TEST_POSTGRES` name servers that
are there. A test whose program this machine lacks is skipped; where CI is set, it fails.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from typing import Any
from urllib.parse import quote, urlencode

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from .certificates import Certificates
from .key_value import KeyValueServer
from .own_postgres import OwnPostgres
from .programs import MissingProgramError, missing

POSTGRES_VARIABLE = "FLOWSTREAM_TEST_POSTGRES"
_numbers = count(1)


def _shared(kind: str) -> Iterator[str]:
    if given := os.environ.get(f"FLOWSTREAM_TEST_{kind.upper()}"):
        yield given
        return
    try:
        server = KeyValueServer(kind, appendonly="no")
    except MissingProgramError as error:
        missing(str(error))
    with server:
        yield server.url


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[str]:
    """Give the URL of a Valkey, one for all tests."""
    yield from _shared("valkey")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """Give the URL of a Redis, one for all tests."""
    yield from _shared("redis")


@pytest.fixture(params=["valkey", pytest.param("redis", marks=pytest.mark.chaos)])
def broker(request: pytest.FixtureRequest) -> str:
    """Give the URL of a Valkey, then of a Redis, each one for all tests."""
    found: str = request.getfixturevalue(f"{request.param}_server")
    return found


@pytest.fixture
def own_server() -> Iterator[Callable[..., KeyValueServer]]:
    """Start servers of the test's own: ``own_server("redis", appendfsync="always")``."""
    with ExitStack() as stack:

        def start(kind: str = "valkey", **settings: Any) -> KeyValueServer:
            try:
                return stack.enter_context(KeyValueServer(kind, **settings))
            except MissingProgramError as error:
                missing(str(error))

        yield start


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Give the DSN of a superuser of a Postgres, one for all tests."""
    if given := os.environ.get(POSTGRES_VARIABLE):
        yield given
        return
    with OwnPostgres() as server:
        yield server.dsn


@pytest.fixture
def postgres_database(postgres_server: str) -> Iterator[str]:
    """Give the URL of an empty database, of the test's own, as a superuser."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        try:
            yield url_of(make_conninfo(postgres_server, dbname=name))
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def _with_schema(server: str) -> Iterator[str]:
    """Give the URL of a database that was made a log of, on a server."""
    from flowstream.logs.postgres._schema import schema_sql

    name = f"log_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        try:
            dsn = make_conninfo(server, dbname=name)
            with psycopg.connect(dsn) as inside:
                inside.execute(schema_sql())
            yield url_of(dsn)
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="session")
def postgres_log(postgres_server: str) -> Iterator[str]:
    """Give the URL of a database with the schema of a log, one for all tests."""
    yield from _with_schema(postgres_server)


@pytest.fixture(scope="session")
def postgres_18_log() -> Iterator[str]:
    """Give the URL of such a database on the wheel's Postgres, one for all tests."""
    try:
        server = OwnPostgres("wheel")
    except MissingProgramError as error:
        missing(str(error))
    with server:
        yield from _with_schema(server.dsn)


def url_of(dsn: str) -> str:
    """Return a DSN as a URL, which a log takes."""
    parts = {name: str(value) for name, value in conninfo_to_dict(dsn).items()}
    user, password = quote(parts.pop("user", "")), quote(parts.pop("password", ""))
    database = quote(parts.pop("dbname", ""))
    return f"postgres://{user}:{password}@/{database}?{urlencode(parts)}"


@pytest.fixture
def own_postgres() -> Iterator[Callable[..., OwnPostgres]]:
    """Start Postgres servers of the test's own: ``own_postgres("debian", tcp=True)``."""
    with ExitStack() as stack:

        def start(kind: str = "", **settings: Any) -> OwnPostgres:
            try:
                return stack.enter_context(OwnPostgres(kind, **settings))
            except MissingProgramError as error:
                missing(str(error))

        yield start


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Give certificates of servers and clients."""
    return Certificates(tmp_path_factory.mktemp("certificates"))
