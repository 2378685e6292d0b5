"""`Topic.outbox`: an event of the app's own transaction, in the topic's log."""

from __future__ import annotations

import asyncio
import threading

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


DSN = "postgres://app@127.0.0.1:1/shop"  # nobody listens: making a statement reaches no server


def topic_of(statement):
    """Return the topic's name in the log."""
    return statement.parameters[0]


def test_a_program_that_serves_nothing_makes_a_statement(monkeypatch):
    """A Django view or a job has no event loop of Trio and no open log."""
    monkeypatch.setenv("FLOWSTREAM_LOG_NAMESPACE", "shop")
    orders = Topic("orders", log=PostgresLog(DSN))
    assert topic_of(orders.outbox({"id": 7})) == "shop/topic:orders"

    async def job():
        return orders.outbox({"id": 7}, style="dollar")

    assert topic_of(asyncio.run(job())) == "shop/topic:orders"


def test_the_environment_says_which_log(monkeypatch):
    """So the same topics serve the app and a program beside it."""
    orders = Topic("orders")
    monkeypatch.setenv("FLOWSTREAM_LOG_URL", DSN)
    assert topic_of(orders.outbox("x")) == "topic:orders"
    monkeypatch.setenv("FLOWSTREAM_LOG_URL", "memory:")
    with pytest.raises(RuntimeError, match="set FLOWSTREAM_LOG_URL"):
        orders.outbox("x")
    monkeypatch.setenv("FLOWSTREAM_LOG_URL", "sqlite:///events.db")
    with pytest.raises(NotImplementedError, match="behind the commit"):
        orders.outbox("x")
    monkeypatch.delenv("FLOWSTREAM_LOG_URL")
    with pytest.raises(RuntimeError, match=r"log=PostgresLog\(\.\.\.\)"):
        orders.outbox("x")


async def test_a_view_that_runs_in_a_thread_makes_a_statement(log, schema_dsn):
    """A view without `async` runs in a thread of the app; its topic may be bound by then or not."""
    orders, others = Topic("orders"), Topic("others")
    app = Flowstream(log=PostgresLog(url_of(schema_dsn)), namespace="shop")
    async with app:
        await orders.publish("first")
        for topic in (orders, others):
            statement = await trio.to_thread.run_sync(topic.outbox, "x")
            assert topic_of(statement) == f"shop/topic:{topic.name}"
        made = []
        thread = threading.Thread(target=lambda: made.append(others.outbox("x")))
        thread.start()
        await trio.to_thread.run_sync(thread.join)
        assert topic_of(made[0]) == "shop/topic:others"


def test_a_topic_of_one_of_two_apps_has_to_say_which():
    """A statement for the wrong database would be found by nobody."""
    one, other = PostgresLog(DSN), PostgresLog(DSN)
    apps = Flowstream(log=one, namespace="one"), Flowstream(log=other)
    with pytest.raises(RuntimeError, match=r"Topic\(\.\.\., log=\.\.\.\)"):
        Topic("orders").outbox("x")
    assert topic_of(Topic("orders", log=one).outbox("x")) == "one/topic:orders"
    assert topic_of(Topic("orders", log=other).outbox("x")) == "topic:orders"
    del apps


async def test_a_topic_that_has_ended_has_no_outbox():
    """What would be published after its end is refused when it is written."""
    orders = Topic("orders", log=PostgresLog(DSN))
    await orders.aclose()
    with pytest.raises(trio.ClosedResourceError):
        orders.outbox("x")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"idempotency_key": ""}, ValueError),
        ({"idempotency_key": "k", "idempotency_seconds": 0}, ValueError),
        ({"key": 1.5}, TypeError),
    ],
)
def test_a_wrong_argument_is_refused(arguments, error):
    """A statement that is refused at the commit would take the app's transaction with it."""
    with pytest.raises(error):
        Topic("orders", log=PostgresLog(DSN)).outbox("x", **arguments)
