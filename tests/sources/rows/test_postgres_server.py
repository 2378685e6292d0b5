"""The Postgres that tests run against comes up where there is nothing but Python packages."""

from __future__ import annotations

import os

import _postgres
import psycopg
import pytest

pytestmark = pytest.mark.chaos


def test_the_server_of_the_wheel_comes_up(monkeypatch):
    """Without one in the environment or on the machine; and unreadable to others, for root."""
    monkeypatch.delenv(_postgres.VARIABLE, raising=False)
    monkeypatch.setattr(_postgres, "_installed", lambda: None)
    monkeypatch.setattr(_postgres, "_is_open", lambda path: False)
    with _postgres.postgres_server() as dsn, psycopg.connect(dsn) as connection:
        (directory,) = connection.execute("SHOW data_directory").fetchone()
        assert os.path.exists(directory)
    assert not os.path.exists(directory)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn)
