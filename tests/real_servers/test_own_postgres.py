"""A test's own Postgres does what it is told, with Debian's programs and the wheel's."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from real_servers import programs
from real_servers.own_postgres import OwnPostgres
from real_servers.pgbouncer import PgBouncer

pytestmark = pytest.mark.chaos


@pytest.fixture(params=["debian", "wheel"])
def server(request, own_postgres):
    return own_postgres(request.param)


def test_the_server_of_the_wheel_comes_up(monkeypatch):
    """Also where root's packages are not for others to read; nothing is left of it at the end."""
    monkeypatch.setattr(programs, "is_open", lambda path: False)
    with OwnPostgres("wheel") as server:
        assert server.sql("SELECT 1") == [(1,)]
        assert server.folder.exists()
    assert not server.folder.exists()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(server.dsn)


def test_a_database_of_a_test_is_empty_and_known_by_its_url(postgres_database):
    """It is one of the shared server's, and another one than the superuser's own."""
    with psycopg.connect(postgres_database) as connection:
        (name,) = connection.execute("SELECT current_database()").fetchone()
        tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'"
        assert connection.execute(tables).fetchone() == (0,)
    assert name.startswith("test_")


def test_a_crash_keeps_what_was_committed_and_a_restored_copy_does_not(server):
    """A copy is as of its moment, and can be restored twice."""
    server.sql("CREATE TABLE seen (number int)")
    server.sql("INSERT INTO seen VALUES (1)")
    copy = server.copy()
    server.sql("INSERT INTO seen VALUES (2)")
    server.restart()
    assert server.sql("SELECT count(*) FROM seen") == [(2,)]
    for _ in range(2):
        server.restore(copy)
        assert server.sql("SELECT count(*) FROM seen") == [(1,)]
        server.sql("INSERT INTO seen VALUES (3)")


def test_a_frozen_one_says_nothing_until_it_thaws(server):
    """With all its children."""
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        server.freeze()
        pid = connection.info.backend_pid
        assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        server.thaw()
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_standby_is_promoted_and_the_old_primary_follows_it(server, own_postgres):
    """It has what the primary had, refuses writes until it is one, and back again."""
    server.sql("CREATE TABLE seen (number int)")
    standby = own_postgres(standby_of=server)
    assert standby.is_standby
    server.sql("INSERT INTO seen VALUES (1)")
    standby.wait_in_step(server)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        standby.sql("INSERT INTO seen VALUES (2)")
    server.crash()
    standby.promote()
    standby.sql("INSERT INTO seen VALUES (2)")
    server.follow(standby)
    assert server.is_standby
    server.wait_in_step(standby)
    assert server.sql("SELECT count(*) FROM seen") == [(2,)]


def test_tls_over_tcp(own_postgres, certificates):
    """With the server's certificate verified."""
    server = own_postgres(tcp=True, certificates=certificates)
    options = f"sslmode=verify-full&sslrootcert={certificates.authority}"
    with psycopg.connect(f"{server.tcp_url}?{options}") as connection:
        assert connection.pgconn.ssl_in_use


def test_pgbouncer_gives_each_transaction_any_connection(server):
    """Sessions are not kept: ten clients share one connection of the server."""
    with PgBouncer(server, default_pool_size=1) as bouncer:
        pids = set()
        clients = [psycopg.connect(bouncer.url) for _ in range(10)]
        for client in clients:
            pids.add(client.execute("SELECT pg_backend_pid()").fetchone())
            client.commit()
        for client in clients:
            client.close()
    assert len(pids) == 1
