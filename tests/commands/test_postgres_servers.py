"""``flowstream log`` for a log on Postgres, with servers of several kinds."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from click.testing import CliRunner, Result
from real_servers.own_postgres import OwnPostgres
from real_servers.pgbouncer import PgBouncer

from flowstream.cli import main
from flowstream.logs.postgres._schema import schema_sql

pytestmark = pytest.mark.chaos


def test_through_pgbouncer_and_on_a_standby(
    own_postgres: Callable[..., OwnPostgres], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a pooler all of it works; a standby is looked into, and refuses what writes."""

    def run(url: str, *arguments: str) -> Result:
        monkeypatch.setenv("FLOWSTREAM_LOG_URL", url)
        return CliRunner().invoke(main, ["log", *arguments])

    server = own_postgres()
    with psycopg.connect(server.dsn) as owner:
        owner.execute(schema_sql().encode())
    with psycopg.connect(server.dsn) as owner:
        owner.execute("select flowstream.put('news', 'abc') from generate_series(1, 5)")
    with PgBouncer(server) as pooler:
        for _ in range(2):
            assert "news" in run(pooler.url, "inspect").output
            assert "in order: 1 topics" in run(pooler.url, "verify").output
        trimmed = run(pooler.url, "trim", "--topic", "news", "--items", "4")
        assert "'news': 1" in trimmed.output
        assert run(pooler.url, "new-epoch").exit_code == 0
    standby = own_postgres(standby_of=server)
    standby.wait_in_step(server)
    assert "news" in run(standby.url, "inspect").output
    assert "in order: 1 topics" in run(standby.url, "verify").output
    for command in (["trim", "--topic", "news"], ["new-epoch"], ["init"]):
        refused = run(standby.url, *command)
        assert refused.exit_code == 1
        assert "read-only" in refused.output or "recovery" in refused.output, refused.output
