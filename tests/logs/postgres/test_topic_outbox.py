"""`Topic.outbox`: an event of the app's own transaction, in the topic's log."""

from __future__ import annotations

import psycopg
import pytest
import trio
from real_servers.fixtures import url_of

from flowstream import Event, Topic
from flowstream.logs import MemoryLog, PostgresLog
from flowstream.quart import Flowstream


async def test_an_event_of_a_transaction_reaches_subscribers(log, schema_dsn):
    """It comes when the transaction commits, as what `publish` makes; a rollback publishes none."""
    orders = Topic("orders")
    app = Flowstream(log=PostgresLog(url_of(schema_dsn)), namespace="shop")
    async with app, orders.subscribe() as events:
        await orders.publish("first")
        with psycopg.connect(schema_dsn) as connection:
            lost = orders.outbox("lost")
            connection.execute(lost.sql, lost.parameters)
            connection.rollback()
            for state in ("paid", "sent"):
                event = orders.outbox({"state": state}, type="order", key=state)
                connection.execute(event.sql, event.parameters)
            connection.commit()
        with trio.fail_after(20):
            heard = [await anext(events) for _ in range(3)]
    assert [(one.data, one.type, one.key) for one in heard if isinstance(one, Event)] == [
        ("first", None, None),
        ({"state": "paid"}, "order", "paid"),
        ({"state": "sent"}, "order", "sent"),
    ]


async def test_a_worker_relays_what_a_transaction_left(log, schema_dsn):
    """With the relay, a transaction in any isolation publishes, soon after its commit."""
    orders = Topic("orders")
    log_of_app = PostgresLog(url_of(schema_dsn), outbox="relay")
    async with Flowstream(log=log_of_app), orders.subscribe() as events:
        await orders.publish("first")
        with psycopg.connect(schema_dsn) as app:
            app.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
            event = orders.outbox("second")
            app.execute(event.sql, event.parameters)
        with trio.fail_after(20):
            assert [(await anext(events)).data for _ in range(2)] == ["first", "second"]


@pytest.mark.parametrize("log_of_app", [None, MemoryLog()])
async def test_other_logs_have_no_outbox(log_of_app):
    """The error says what to write instead."""
    orders = Topic("orders")
    async with Flowstream(log=log_of_app):
        with pytest.raises((RuntimeError, NotImplementedError), match="behind the commit"):
            orders.outbox("x")


async def test_a_wrong_style_is_refused(log, schema_dsn):
    """The styles are named."""
    orders = Topic("orders")
    async with Flowstream(log=PostgresLog(url_of(schema_dsn))):
        with pytest.raises(ValueError, match="'format', 'dollar' or 'named'"):
            orders.outbox("x", style="qmark")  # type: ignore[arg-type]
