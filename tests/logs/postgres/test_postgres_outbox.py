"""The outbox on Postgres: events that are published by an app's own transaction."""

from __future__ import annotations

import random
import threading

import psycopg
import pytest
from psycopg import IsolationLevel

from flowstream import Event
from flowstream.topics._envelope import unwrap, wrap


def put(connection, topic, data, **options):
    names = "".join(f", {name} => %s" for name in options)
    connection.execute(
        f"select flowstream.put(%s::text, %s::bytea{names})", [topic, data, *options.values()]
    )


def data(log, topic):
    return [one for _, one in log.events(topic)]


def test_a_commit_publishes(log, schema_dsn):
    """Nothing is there before it; then all is, in the order of the calls, and no row is left."""
    with psycopg.connect(schema_dsn) as app:
        for number in range(3):
            put(app, "a", b"%d" % number)
            put(app, "b", b"%d" % number)
        assert data(log, "a") == []
        assert log.ask("select * from flowstream.topic") == []
    assert data(log, "a") == data(log, "b") == [b"0", b"1", b"2"]
    assert log.ask("select * from flowstream.outbox") == []
    assert log.ask("select * from flowstream.committing") == []


def test_a_rollback_publishes_nothing(log, schema_dsn):
    """Neither does a connection that is cut, and no number is used up."""
    app = psycopg.connect(schema_dsn)
    put(app, "a", b"1")
    app.rollback()
    put(app, "a", b"2")
    app.close()
    put(log.connection, "a", b"3")
    assert log.events("a") == [(1, b"3")]


def test_a_savepoint_that_is_rolled_back_takes_its_events(log, schema_dsn):
    """The others of the transaction are published, whichever of them came first."""
    with psycopg.connect(schema_dsn) as app:
        for number in range(4):
            try:
                with app.transaction():
                    put(app, "a", b"%d" % number)
                    if number % 2 == 0:
                        raise LookupError
            except LookupError:
                pass
    assert data(log, "a") == [b"1", b"3"]


def test_constraints_that_are_checked_at_once_publish_in_order(log, schema_dsn):
    """With `set constraints all immediate` events are appended at once, and only once."""
    with psycopg.connect(schema_dsn) as app:
        put(app, "a", b"1")
        app.execute("set constraints all immediate")
        put(app, "a", b"2")
        app.execute("set constraints all deferred")
        put(app, "a", b"3")
        assert data(log, "a") == []
    assert data(log, "a") == [b"1", b"2", b"3"]


def test_followers_hear_of_it(log, schema_dsn):
    """One notification a topic, with the number of its newest event; none with notify off."""
    with psycopg.connect(schema_dsn, autocommit=True) as listener:
        listener.execute("listen flowstream")
        with psycopg.connect(schema_dsn) as app:
            put(app, "a", b"1")
            put(app, "b", b"1", notify=False)
            put(app, "a", b"2")
        id = log.one("select id from flowstream.topic where name = 'a'")
        heard = [note.payload for note in listener.notifies(timeout=5, stop_after=1)]
        assert heard == [f"{id} {log.epoch('a')} 2"]
        log.ask("select pg_notify('flowstream', 'last')")
        assert [note.payload for note in listener.notifies(timeout=5, stop_after=1)] == ["last"]


def test_keys_count_in_the_outbox(log, schema_dsn):
    """An idempotency key is published once, and the newest of each key is kept."""
    for number in range(2):
        with psycopg.connect(schema_dsn) as app:
            put(app, "a", b"once", idempotency_key="x", key="k")
            put(app, "a", b"%d" % number, key="k", items=5)
    assert data(log, "a") == [b"once", b"0", b"1"]
    assert log.ask("select key, number from flowstream.latest") == [("k", 3)]
    assert log.one("select items from flowstream.topic") == 5


@pytest.mark.parametrize(
    "values",
    [
        {"topic": "", "data": b"1"},
        {"topic": None, "data": b"1"},
        {"topic": "x" * 1025, "data": b"1"},
        {"topic": "a", "data": None},
        {"topic": "a", "data": b"1", "key": ""},
        {"topic": "a", "data": b"1", "idempotency_seconds": float("inf")},
        {"topic": "a", "data": b"1", "idempotency_key": "x", "idempotency_seconds": 0},
        {"topic": "a", "data": b"1", "items": -1},
    ],
)
@pytest.mark.parametrize("function", ["put", "relay"])
def test_what_can_t_be_stored_fails_at_once(log, schema_dsn, function, values):
    """The statement that says it fails, and not the commit."""
    names = ", ".join(f"{name} => %s" for name in values)
    with pytest.raises(psycopg.errors.IntegrityError):
        log.ask(f"select flowstream.{function}({names})", *values.values())


def test_a_transaction_that_is_prepared_is_refused(log, schema_dsn):
    """It would hold the topic's lock until somebody commits it: nothing is published."""
    for notify in (True, False):
        app = psycopg.connect(schema_dsn, autocommit=True)
        app.execute("begin")
        put(app, "a", b"1", notify=notify)
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="can not be prepared"):
            app.execute("/* two */ prepare transaction 'x'")
        app.close()
    put(log.connection, "a", b"prepare transaction 'x'")
    log.connection.execute("select flowstream.put('a', 'prepare transaction')")
    assert len(data(log, "a")) == 2


@pytest.mark.parametrize("level", [IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE])
def test_a_snapshot_that_is_too_old_fails(log, schema_dsn, level):
    """Who published to the topic since it began makes the commit fail with 40001; `relay` not."""
    log.append("a", b"1")
    app = psycopg.connect(schema_dsn)
    app.isolation_level = level
    app.execute("select count(*) from pg_class")
    put(app, "a", b"2")
    log.append("a", b"3")
    with pytest.raises(psycopg.errors.SerializationFailure):
        app.commit()
    app.execute("select count(*) from pg_class")
    app.execute("select flowstream.relay('a', '4')")
    log.append("a", b"5")
    app.commit()
    app.close()
    assert log.one("select flowstream.empty_relay()") == 1
    assert data(log, "a") == [b"1", b"3", b"5", b"4"]


def test_the_relay_is_emptied_by_one(log, schema_dsn):
    """In the order of the calls, so many at a time; a second worker returns at once."""
    with psycopg.connect(schema_dsn) as app:
        for number in range(5):
            app.execute("select flowstream.relay('a', %s::bytea)", [b"%d" % number])
    with psycopg.connect(schema_dsn) as worker:
        assert worker.execute("select flowstream.empty_relay(3)").fetchone() == (3,)
        assert log.one("select flowstream.empty_relay(3)") == 0
    assert log.one("select flowstream.empty_relay(3)") == 2
    assert data(log, "a") == [b"0", b"1", b"2", b"3", b"4"]


def test_plain_sql_publishes_what_python_reads(log):
    """`flowstream.publish` writes the envelope of `Topic.publish`, for texts of all lengths."""
    for length in (0, 31, 32, 255, 256, 65_535, 65_536):
        text = "x" * length
        log.ask("select flowstream.publish('a', to_jsonb(%s::text), type => %s)", text, text[:300])
    log.ask(
        "select flowstream.publish('a', '{\"n\": [1, 2.5, null, \"é\"]}', key => 'k',"
        " essential => true, retry => 3000)"
    )
    log.ask("select flowstream.publish('a', 'null')")
    *texts, row, null = [unwrap(one, "x") for one in data(log, "a")]
    assert [len(event.data) for event in texts] == [0, 31, 32, 255, 256, 65_535, 65_536]
    assert [len(event.type or "") for event in texts] == [0, 31, 32, 255, 256, 300, 300]
    assert row.data == {"n": [1, 2.5, None, "é"]}
    assert (row.type, row.key, row.essential, row.retry) == (None, "k", True, 3000)
    assert null.data is None
    assert log.ask("select key from flowstream.latest") == [("sk",)]


def test_the_shortest_envelope_is_byte_for_byte_the_same(log):
    """What JSON has in one form alone is stored as `Topic.publish` stores it."""
    log.ask("select flowstream.publish('a', '17', type => 'n', key => 'k')")
    assert data(log, "a") == [wrap(Event(17, type="n", key="k"))]


def test_transactions_that_cross_never_wait_for_each_other(log, schema_dsn):
    """Four apps publish to two of five topics each, in any order, 250 times: no deadlock."""
    failures = []

    def run(seed):
        chance = random.Random(seed)
        try:
            with psycopg.connect(schema_dsn, autocommit=True) as app:
                for number in range(250):
                    with app.transaction():
                        for topic in chance.sample("abcde", 2):
                            put(app, topic, b"%d %d" % (seed, number))
        except psycopg.Error as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=[seed]) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    seen = 0
    for topic in "abcde":
        events = log.events(topic)
        seen += log.read(topic)[0][2]
        assert [number for number, _ in events] == sorted({number for number, _ in events})
        for seed in range(4):
            mine = [int(one.split()[1]) for _, one in events if one.startswith(b"%d " % seed)]
            assert mine == sorted(mine)
    assert seen == 4 * 250 * 2


def test_a_reader_skips_no_commit(log, schema_dsn):
    """A transaction that put its event early and commits late gets its number at the commit."""
    early = psycopg.connect(schema_dsn)
    put(early, "a", b"early")
    log.append("a", b"late")
    assert log.events("a") == [(1, b"late")]
    early.commit()
    early.close()
    assert log.events("a") == [(1, b"late"), (2, b"early")]


def test_a_topic_is_locked_for_the_commit_alone(log, schema_dsn):
    """While a transaction with an event goes on, others publish to the topic."""
    with psycopg.connect(schema_dsn) as slow:
        put(slow, "a", b"slow")
        log.ask("select set_config('lock_timeout', '5s', false)")
        log.append("a", b"quick")
        with psycopg.connect(schema_dsn) as other:
            put(other, "a", b"other")
    assert data(log, "a") == [b"quick", b"other", b"slow"]
