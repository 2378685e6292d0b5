"""The SQL of the log on Postgres: what is read of topics, by name, by number and by key."""

from __future__ import annotations

import pytest
from logs.postgres.test_postgres_retention import age

FOLLOW = "select * from flowstream.follow(%s::int8[], %s::int8[], %s, %s)"


def id_of(log, topic):
    return log.one("select id from flowstream.topic where name = %s", topic)


def test_a_topic_that_is_not_there_is_empty(log):
    """It has the log's epoch, no event, and would begin with number 1; so say all who are asked."""
    epoch = log.one("select epoch from flowstream.log")
    head, records = log.read("none", epoch, 0)
    assert (head[:5], records) == ((None, f"{epoch}:1", 0, 1, True), [])
    assert log.ask("select * from flowstream.heads('{none}')") == [(None, f"{epoch}:1", 0, 1, True)]
    (row,) = log.ask("select * from flowstream.latest('none', '', 999)")
    assert row == (None, f"{epoch}:1", 0, 1, None, None, None, None, None, False, True)


def test_news_are_a_row_for_the_topic_and_one_for_each_event(log):
    """The row has the head; an event's has its number, age and data, and nothing else."""
    log.append("a", b"1", b"2", b"3")
    log.append("b", b"4")
    a, b = id_of(log, "a"), id_of(log, "b")
    age(log, 2)
    rows = log.ask(FOLLOW, [a, b, 999_999], [1, 1, 0], 100, 10_000)
    ages = [row[4] for row in rows if row[4] is not None]
    assert [row[:4] + row[5:] for row in rows] == [
        (a, log.read("a")[0][1], 3, None, None),
        (a, None, None, 2, b"2"),
        (a, None, None, 3, b"3"),
        (b, log.read("b")[0][1], 1, None, None),
        (999_999, None, None, None, None),
    ]
    assert all(2 <= one < 60 for one in ages)
    log.append("b", b"young")
    assert log.ask(FOLLOW, [b], [1], 100, 10_000)[1][4] < 1
    assert len(log.ask(FOLLOW, [a, b], [0, 0], 0, 10_000)) == 2


def test_only_what_is_asked_for_is_there(log):
    """Numbers of names and names of numbers: of topics that are there, and of no others."""
    for name in "abc":
        log.append(name, b"1", b"2")
    a, b = id_of(log, "a"), id_of(log, "b")
    epoch = log.epoch("a")
    assert log.ask("select * from flowstream.ids('{a,x}')") == [(a, "a", f"{epoch}:1", 2)]
    assert log.ask("select * from flowstream.names(array[%s, 77]::int8[])", b) == [
        (b, "b", f"{log.epoch('b')}:1", 2)
    ]
    log.ask("update flowstream.topic set gone = clock_timestamp() returning 1")
    assert log.ask("select * from flowstream.ids('{a,b}')") == []
    assert log.ask("select * from flowstream.names(array[%s, %s]::int8[])", a, b) == []
    assert log.ask("select name from flowstream.topic") != []


def test_a_topic_that_is_gone_is_not_there(log):
    """No function finds it, though nothing was deleted yet."""
    log.append("a", b"1", keys=["k"])
    a, epoch = id_of(log, "a"), log.epoch("a")
    log.ask("update flowstream.topic set gone = clock_timestamp() returning 1")
    assert log.read("a", epoch, 0)[0][0] is None
    assert [row[0] for row in log.ask("select * from flowstream.heads('{a}')")] == [None]
    assert len(log.ask("select * from flowstream.latest('a', '', 999)")) == 1
    assert log.ask("select * from flowstream.topics('', '', 9)") == []
    assert [row[:4] for row in log.ask(FOLLOW, [a], [0], 9, 999)] == [(a, None, None, None)]
    assert log.one("select flowstream.trim('a', 0, null, null)") == 0
    # What is appended begins anew, behind the numbers that there were.
    row = log.append("a", b"2")
    assert row[2:4] == (2, 1)
    assert log.epoch("a") > epoch
    assert log.events("a") == [(2, b"2")]


def test_the_newest_events_by_key_come_in_pages(log):
    """A page has so many bytes, and one key at least; its last row says whether there are more."""
    log.append("a", b"x" * 10, b"y" * 10, b"z" * 10, keys=["k", "l", "m"])

    def page(after, size):
        _, *rows = log.ask("select * from flowstream.latest('a', %s, %s)", after, size)
        return [(row[4], row[6], row[8], row[9]) for row in rows]

    everything = [
        ("k", 1, b"x" * 10, True),
        ("l", 2, b"y" * 10, True),
        ("m", 3, b"z" * 10, False),
    ]
    assert page("", 30) == everything
    assert page("", 29) == everything[:2]
    assert page("", 20) == everything[:2]
    assert page("", 19) == everything[:1]
    assert page("", 1) == everything[:1]
    assert page("k", 1) == everything[1:2]
    assert page("m", 99) == []


def test_names_begin_with_the_prefix(log):
    """The prefix itself is one; the page begins behind a name, and a deleted topic is not in it."""
    for name in ("a", "ab", "abc", "b", "aé", "A"):
        log.append(name, b"1")
    log.ask("select flowstream.delete('abc')")
    ask = "select * from flowstream.topics(%s, %s, %s)"

    def names(*arguments):
        return [name for (name,) in log.ask(ask, *arguments)]

    assert names("", "", 9) == ["A", "a", "ab", "aé", "b"]
    assert names("a", "", 9) == ["a", "ab", "aé"]
    assert names("ab", "", 9) == ["ab"]
    assert names("a", "a", 9) == ["ab", "aé"]
    assert names("a", "", 2) == ["a", "ab"]
    assert names("", "b", 9) == []


def test_a_key_may_come_several_times_in_a_call(log):
    """The last one counts, also of a call in which others are duplicates; entries without a key
    are in no page."""
    log.append("a", b"1", b"2", b"3", b"4", keys=["k", "l", "k", None])
    log.append("a", b"1", asked=["x"], keys=["m"])
    log.append("a", b"again", b"5", b"6", asked=["x", "y", None], keys=["m", "m", "n"])
    _, *rows = log.ask("select * from flowstream.latest('a', '', 999)")
    assert [(row[4], row[6], row[8]) for row in rows] == [
        ("k", 3, b"3"),
        ("l", 2, b"2"),
        ("m", 6, b"5"),
        ("n", 7, b"6"),
    ]
    row = log.ask("select latest_keys, latest_bytes from flowstream.topic where name = 'a'")
    assert row == [(4, 4)]
    log.append("a", b"a", asked=["x"], keys=["n"])  # nothing is new
    assert log.ask("select * from flowstream.latest('a', 'm', 999)")[1][8] == b"6"


@pytest.mark.parametrize(
    ("change", "soon"),
    [
        ({}, False),
        ({"items": 500}, True),
        ({"seconds": 7000.0}, True),
        ({"bytes": 5 << 20}, True),
    ],
)
def test_a_topic_whose_bounds_change_is_looked_at_soon(log, change, soon):
    """What it keeps may be less now: the next `maintain` looks; else it has time."""
    bounds = {"items": 1000, "seconds": 9000.0, "bytes": 8 << 20}
    log.append("a", b"1", **bounds)
    log.ask("update flowstream.topic set due = now() + interval '1 day' returning 1")
    log.append("a", b"2", **bounds | change)
    assert log.one("select due <= clock_timestamp() from flowstream.topic") is soon


def test_a_full_topic_is_looked_at_in_a_minute(log):
    """Readers see no more than it keeps; what is below is deleted by and by."""
    log.append("a", b"1", items=3)
    log.ask("update flowstream.topic set due = now() + interval '1 day' returning 1")
    left = "select extract(epoch from due - clock_timestamp())::int from flowstream.topic"
    log.append("a", b"2", b"3", items=3)
    assert log.one(left) > 3600
    log.append("a", b"4", items=3)
    assert 1 <= log.one(left) <= 61


def test_the_last_thousand_events_tokens_are_known(log):
    """A call that is made again within so many events appends nothing."""
    first = log.append("a", b"1", token="first")
    log.append("a", *[b"x"] * 1022, token="many")
    log.append("a", b"x", token="last")
    again = log.append("a", b"1", token="first")
    assert (again[3], again[4]) == (0, first[4])
    for _ in range(64):
        log.append("a", b"x")
    tokens = {one for (one,) in log.ask("select token from flowstream.token")}
    assert "first" not in tokens
    assert {"many", "last"} <= tokens
