"""The SQL of the log on Postgres: what is forgotten, and when; and the days' partitions."""

from __future__ import annotations

import datetime

import psycopg


def numbers(log, topic):
    return [number for number, _ in log.events(topic)]


def stored(log, topic):
    return [
        number
        for (number,) in log.ask(
            "select e.number from flowstream.event e join flowstream.topic t on t.id = e.topic"
            " where t.name = %s order by 1",
            topic,
        )
    ]


def age(log, seconds):
    """Have all that is in the log be older."""
    past = datetime.timedelta(seconds=seconds)
    log.ask("update flowstream.event set at = at - %s returning 1", past)
    log.ask(
        "update flowstream.topic set touched = touched - %s, due = due - %s,"
        " gone = gone - %s returning 1",
        past,
        past,
        past,
    )
    log.ask("update flowstream.lease set until = until - %s returning 1", past)
    log.ask("update flowstream.key set until = until - %s returning 1", past)


def test_the_bound_of_items_is_exact_for_readers(log):
    """Readers never see more; what is stored is deleted by and by."""
    for start in range(0, 300, 10):
        log.append("a", *[b"x"] * 10, items=50)
        assert len(numbers(log, "a")) == min(start + 10, 50)
    assert log.read("a")[0][3] == 251
    age(log, 120)
    log.ask("select flowstream.maintain()")
    assert stored(log, "a") == list(range(251, 301))


def test_the_bound_of_bytes_is_kept_within_a_fifth(log):
    """Of 100 bytes each, a bound of 1,000 keeps ten, and twelve at the most."""
    for _ in range(40):
        log.append("a", b"x" * 100, bytes=1000)
        assert 1 <= len(numbers(log, "a")) <= 12
    assert len(numbers(log, "a")) >= 10
    size = log.one("select size from flowstream.topic")
    assert size == 100 * len(numbers(log, "a"))


def test_an_old_event_is_not_read_and_then_deleted(log):
    """Nothing older than `seconds` is read, by `read`, `heads` or `follow`; then it is deleted."""
    log.append("a", b"1", b"2", seconds=60)
    age(log, 61)
    log.append("a", b"3", seconds=60)
    assert numbers(log, "a") == [3]
    assert log.ask("select * from flowstream.heads('{a}')")[1][3] == 3
    id = log.one("select id from flowstream.topic")
    rows = log.ask("select * from flowstream.follow(array[%s::int8], array[0::int8], 9, 999)", id)
    assert [row[3] for row in rows] == [None, 3]
    log.ask("select flowstream.maintain()")
    assert stored(log, "a") == [3]


def test_a_topic_that_keeps_nothing_delivers(log):
    """What followers have yet to hear of passes them for 5 seconds, and no reader."""
    log.append("a", b"1", b"2", items=0)
    id = log.one("select id from flowstream.topic")
    ask = "select * from flowstream.follow(array[%s::int8], array[0::int8], 9, 999)"
    assert [row[3] for row in log.ask(ask, id)] == [None, 1, 2]
    assert numbers(log, "a") == []
    age(log, 6)
    assert [row[3] for row in log.ask(ask, id)] == [None]


def test_news_are_bounded_over_all_topics(log):
    """The records of all topics together are within the bounds, but one is always there."""
    for name in "abc":
        log.append(name, b"x" * 400, b"y" * 400)
    ids = [id for (id,) in log.ask("select id from flowstream.topic order by id")]
    ask = "select * from flowstream.follow(%s::int8[], '{0,0,0}'::int8[], %s, %s)"

    def found(*bounds):
        return [row[3] for row in log.ask(ask, ids, *bounds) if row[3] is not None]

    assert found(100, 10_000) == [1, 2, 1, 2, 1, 2]
    assert found(3, 10_000) == [1, 2, 1]
    assert found(100, 1200) == [1, 2, 1]
    assert found(100, 1) == [1]


def test_trim_is_exact(log):
    """It returns how many events can no longer be read, and takes all bounds."""
    log.append("a", *[b"x" * 100] * 10)
    assert log.one("select flowstream.trim('a', 8, null, null)") == 2
    assert log.one("select flowstream.trim('a', null, null, 500)") == 3
    assert numbers(log, "a") == [6, 7, 8, 9, 10]
    assert log.one("select flowstream.trim('a', null, null, null)") == 0
    assert log.one("select flowstream.trim('nothing', 0, null, null)") == 0


def test_delete_begins_an_epoch(log):
    """Events, tokens, keys and the newest by key go; numbers go on in a new epoch."""
    first = log.append("a", b"1", b"2", token="t", asked=["x", None], keys=["k", None])
    assert log.ask("select * from flowstream.delete('a')") == [(first[0],)]
    assert log.ask("select * from flowstream.delete('a')") == []
    assert log.ask("select * from flowstream.topics('', '', 9)") == []
    assert len(log.ask("select * from flowstream.latest('a', '', 999)")) == 1
    again = log.append("a", b"1", token="t", asked=["x"])
    assert again[2:4] == (3, 1)
    assert again[1].split(":")[0] > first[1].split(":")[0]


def test_a_topic_is_forgotten_after_a_week(log):
    """Its numbers are free then, and every unknown topic's epoch sorts behind those it had."""
    log.append("a", b"1", seconds=60)
    epoch = log.epoch("a")
    age(log, 6 * 86400)
    log.ask("select flowstream.maintain()")
    assert log.read("a")[0][2] == 1
    age(log, 86400 + 10)
    log.ask("select flowstream.maintain()")
    assert log.ask("select * from flowstream.topic") == []
    assert log.epoch("a") > epoch


def test_old_keys_are_forgotten(log):
    """An idempotency key whose time is over counts no more, and is deleted."""
    log.append("a", b"1", asked=["x"])
    age(log, 301)
    assert log.append("a", b"2", asked=["x"])[3] == 1
    age(log, 301)
    log.ask("select flowstream.maintain()")
    assert log.ask("select * from flowstream.key") == []


def test_so_many_keys_of_latest_are_kept(log):
    """10,000 keys, and 8 MiB; the key written longest ago goes first."""
    names = [f"k{number:05}" for number in range(10_050)]
    log.append("a", *[b"x"] * len(names), keys=names)
    log.append("a", b"again", keys=[names[50]])
    log.append("a", b"new", keys=["z"])
    kept = [key for (key,) in log.ask("select key from flowstream.latest order by key")]
    assert len(kept) == 10_000
    assert names[50] in kept
    assert names[51] not in kept
    log.append("b", *[b"x" * (1 << 20)] * 9, keys=names[:9])
    assert log.one("select latest_bytes from flowstream.topic where name = 'b'") == 8 << 20
    rows = log.ask("select * from flowstream.latest('b', '', 2097152)")
    assert [(row[4], row[9]) for row in rows] == [(None, False), (names[1], True), (names[2], True)]
    assert [row[9] for row in log.ask("select * from flowstream.latest('b', %s, 1)", names[8])] == [
        False
    ]


def test_partitions_are_made_ahead_and_dropped(log):
    """Seven days are there. Of days that are over, what is kept is moved, and the rest dropped."""
    days = "select count(*) from pg_class where relname ~ '^event_[0-9]{8}$' and relkind = 'r'"
    assert log.one(days) == 8
    log.append("a", *[b"x"] * 100, items=10)
    today = datetime.datetime.now(datetime.UTC).date()
    past = today - datetime.timedelta(days=3)
    log.connection.execute(
        f"create table flowstream.event_{past:%Y%m%d} partition of flowstream.event"
        f" for values from ('{past}') to ('{past + datetime.timedelta(days=1)}')"
    )
    log.ask("update flowstream.event set day = %s returning 1", past)
    assert log.one(f"select count(*) from flowstream.event_{past:%Y%m%d}") == 100
    for _ in range(3):
        log.ask("select flowstream.maintain()")
    assert log.one(days) == 8
    assert log.one("select to_regclass(%s) is null", f"flowstream.event_{past:%Y%m%d}")
    assert numbers(log, "a") == list(range(91, 101))
    assert log.one("select count(*) from flowstream.event_kept") == 10


def test_publishing_goes_on_without_partitions(log):
    """Events of a day for which there is no partition are kept in the rest, and can be read."""
    today = datetime.datetime.now(datetime.UTC)
    log.connection.execute(f"drop table flowstream.event_{today:%Y%m%d}")
    log.append("a", b"1", b"2")
    log.ask("select flowstream.maintain()")
    assert numbers(log, "a") == [1, 2]


def test_a_reader_holds_nobody_up(log, schema_dsn):
    """What needs a lock that a long transaction has is left to the next time; appends go on."""
    today = datetime.datetime.now(datetime.UTC).date()
    past = today - datetime.timedelta(days=3)
    log.connection.execute(
        f"create table flowstream.event_{past:%Y%m%d} partition of flowstream.event"
        f" for values from ('{past}') to ('{past + datetime.timedelta(days=1)}')"
    )
    with psycopg.connect(schema_dsn) as reader:
        reader.execute("select * from flowstream.event")
        assert log.one("select flowstream.maintain()") == 0
        log.append("a", b"1")
        assert log.one("select to_regclass(%s) is not null", f"flowstream.event_{past:%Y%m%d}")
    log.ask("select flowstream.maintain()")
    assert log.one("select to_regclass(%s) is null", f"flowstream.event_{past:%Y%m%d}")


def test_one_of_all_workers_maintains(log, schema_dsn):
    """While one does it, another one returns at once."""
    with psycopg.connect(schema_dsn) as other:
        other.execute("select flowstream.maintain()")
        assert log.one("select flowstream.maintain()") == 0
