"""The log's SQL in a database that the tests share; each finds it empty."""

from __future__ import annotations

import psycopg
import pytest
from logs.postgres._sql_log import EMPTY, SQLLog, make_schema
from psycopg.conninfo import make_conninfo


@pytest.fixture(scope="session")
def schema_dsn(postgres_server):
    """Give the DSN of a database with the schema, as its owner."""
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("drop database if exists flowstream_sql")
        connection.execute("create database flowstream_sql")
    dsn = make_conninfo(postgres_server, dbname="flowstream_sql")
    make_schema(dsn)
    return dsn


@pytest.fixture
def log(schema_dsn):
    """Give the functions of the schema, called by its owner."""
    log = SQLLog(schema_dsn)
    log.connection.execute(EMPTY)
    yield log
    log.close()
