"""The SQL of the log on Postgres: which faults of a server are a new life of the log."""

from __future__ import annotations

import pytest
from logs.postgres._sql_log import SQLLog, make_schema

pytestmark = pytest.mark.chaos

HELLO = "select o_lineage, o_wal from flowstream.hello(%s, %s)"


def test_a_crash_is_none(own_postgres):
    """All that was acknowledged is there after it, in the same epoch; so is what was relayed."""
    server = own_postgres()
    make_schema(server.dsn)
    log = SQLLog(server.dsn)
    log.append("a", b"1")
    log.ask("select flowstream.relay('a', '2')")
    epoch = log.epoch("a")
    ((lineage, wal),) = log.ask(HELLO, "", 0)
    log.close()
    server.crash()
    server.start()
    log = SQLLog(server.dsn)
    assert log.ask(HELLO, lineage, wal)[0][0] == lineage
    assert log.one("select flowstream.empty_relay()") == 1
    assert log.events("a") == [(1, b"1"), (2, b"2")]
    assert log.epoch("a") == epoch
    log.close()


def test_a_failover_is_one(own_postgres):
    """The standby has the same events, and begins a new epoch: it may lack what came last."""
    server = own_postgres()
    make_schema(server.dsn)
    standby = own_postgres(standby_of=server)
    log = SQLLog(server.dsn)
    log.append("a", b"1")
    epoch = log.epoch("a")
    standby.wait_in_step(server)
    second = SQLLog(standby.dsn)
    assert second.ask("select o_read_only from flowstream.hello('', 0)") == [(True,)]
    log.close()
    server.crash()
    standby.promote()
    assert second.ask("select o_read_only from flowstream.hello('', 0)") == [(False,)]
    assert second.read("a")[0][4] is False
    second.append("a", b"2")
    assert second.events("a") == [(1, b"1"), (2, b"2")]
    assert second.epoch("a") > epoch
    second.close()


def test_an_older_copy_is_one_if_somebody_knows(own_postgres):
    """A process that saw more of the log than the copy has begins a new life."""
    server = own_postgres()
    make_schema(server.dsn)
    log = SQLLog(server.dsn)
    log.append("a", b"1")
    epoch = log.epoch("a")
    copy = server.copy()
    log.append("a", *[b"x" * 1000] * 50)
    ((lineage, wal),) = log.ask(HELLO, "", 0)
    log.close()
    server.restore(copy)
    log = SQLLog(server.dsn)
    assert log.ask(HELLO, "", 0)[0][0] == lineage
    assert log.ask(HELLO, lineage, wal)[0][0] != lineage
    assert log.append("a", b"2")[1].count(",") == 1
    assert log.epoch("a") > epoch
    log.close()


@pytest.mark.parametrize("kind", ["debian", "wheel"])
def test_the_schema_works_on_each_server(own_postgres, kind):
    """On Debian's Postgres and on the newest: what is put in a transaction can be read."""
    server = own_postgres(kind)
    make_schema(server.dsn)
    make_schema(server.dsn)
    log = SQLLog(server.dsn)
    with log.connection.transaction():
        log.ask("select flowstream.put('a', '1'), flowstream.publish('b', '{}')")
    assert log.events("a") == [(1, b"1")]
    assert len(log.events("b")) == 1
    assert log.one("select flowstream.maintain()") == 0
    log.close()
