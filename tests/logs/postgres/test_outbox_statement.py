"""The statement that publishes in an app's transaction, as drivers execute it."""

from __future__ import annotations

import math
import re

import psycopg
import pytest

from flowstream import Event, Replay
from flowstream.abc import LogEntry, OutboxStatement
from flowstream.logs.postgres._outbox_statement import outbox_statement
from flowstream.topics._envelope import wrap

ENTRY = LogEntry(wrap(Event({"n": 1}, type="created", key="k")), "sk", "once", 60.0)
KEEP = Replay(items=5, seconds=3600.0)


def kept(log):
    return log.ask("select name, items, seconds, bytes from flowstream.topic")


def test_psycopg_executes_it(log, schema_dsn):
    """What is in the log is byte for byte what `Topic.publish` appends, with all its options."""
    event = outbox_statement("orders", ENTRY, KEEP)
    assert isinstance(event.parameters, tuple)
    for _ in range(2):
        with psycopg.connect(schema_dsn) as app:
            app.execute("select 'the app writes its own rows here'")
            app.execute(event.sql, event.parameters)
            assert log.events("orders") in ([], [(1, ENTRY.data)])
    assert log.events("orders") == [(1, ENTRY.data)]
    assert log.ask("select key from flowstream.latest") == [("sk",)]
    assert kept(log) == [("orders", 5, 3600.0, 8 << 20)]


def test_numbered_parameters_are_executed(log, schema_dsn):
    """As asyncpg has them; infinity and bounds beyond 64 bits are what the log can keep."""
    event = outbox_statement(
        "orders", LogEntry(b"1"), Replay(items=1 << 70, bytes=1 << 70), style="dollar"
    )
    with psycopg.connect(schema_dsn) as app:
        psycopg.RawCursor(app).execute(event.sql, event.parameters)
    assert log.events("orders") == [(1, b"1")]
    assert kept(log) == [("orders", 2**63 - 1, math.inf, 2**63 - 1)]


def test_named_parameters_are_executed(log, schema_dsn):
    """As SQLAlchemy has them: a name stands alone behind its colon."""
    event = outbox_statement("orders", ENTRY, KEEP, style="named", notify=False)
    assert isinstance(event.parameters, dict)
    # The pattern by which SQLAlchemy finds names, and what psycopg is given then.
    sql, count = re.subn(r"(?<![:\w\\]):(\w+)(?!:)", r"%(\1)s", event.sql)
    assert count == len(event.parameters) == 9
    with psycopg.connect(schema_dsn) as app:
        app.execute(sql, event.parameters)
    assert log.events("orders") == [(1, ENTRY.data)]


def test_the_relay_takes_the_same(log, schema_dsn):
    """A worker appends it then."""
    event = outbox_statement("orders", ENTRY, KEEP, outbox="relay")
    with psycopg.connect(schema_dsn) as app:
        app.execute(event.sql, event.parameters)
    assert log.events("orders") == []
    assert log.one("select flowstream.empty_relay()") == 1
    assert log.events("orders") == [(1, ENTRY.data)]
    assert kept(log) == [("orders", 5, 3600.0, 8 << 20)]


def test_no_value_is_in_the_sql():
    """Whatever a name has in it, it is a parameter."""
    event = outbox_statement("'); drop table x; --", ENTRY, KEEP)
    assert isinstance(event, OutboxStatement)
    assert "drop" not in event.sql
    assert event.parameters[0] == "'); drop table x; --"


def test_what_can_t_be_stored_is_refused_where_it_is_made():
    """As `Log.append` refuses it."""
    with pytest.raises(ValueError, match="must not be empty"):
        outbox_statement("", ENTRY, KEEP)
    with pytest.raises(ValueError, match="NUL"):
        outbox_statement("a", ENTRY._replace(key="\0"), KEEP)
    with pytest.raises(ValueError, match="'format', 'dollar' or 'named'"):
        outbox_statement("a", ENTRY, KEEP, style="qmark")  # type: ignore[arg-type]
