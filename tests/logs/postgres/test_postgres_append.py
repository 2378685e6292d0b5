"""The SQL of the log on Postgres: what `append` does, and what `read` then finds."""

from __future__ import annotations

from contextlib import contextmanager

import psycopg
import pytest


def test_events_get_the_numbers_that_follow(log):
    """Entries of a call stand behind each other, and behind those of the call before."""
    assert log.append("a", b"1", b"2")[2:4] == (1, 2)
    assert log.append("a", b"3")[2:4] == (3, 1)
    assert log.events("a") == [(1, b"1"), (2, b"2"), (3, b"3")]


def test_a_token_is_appended_once(log):
    """A call with a token of before appends nothing and returns what the first one did."""
    first = log.append("a", b"1", b"2", token="t")
    again = log.append("a", b"1", b"2", token="t")
    assert (again[3], again[4]) == (0, first[4])
    assert log.events("a") == [(1, b"1"), (2, b"2")]


def test_results_are_runs(log):
    """Neighbours of one kind are one run, and a token of such a call returns all of them again."""
    epoch = log.append("a", b"1", b"2", asked=["x", "y"])[4].split(":")[0]
    mixed = log.append(
        "a", b"1", b"2", b"3", b"4", b"1", asked=["x", "y", None, "z", "x"], token="m"
    )
    assert mixed[4] == f"{epoch}:1:1:2 {epoch}:3:0:2 {epoch}:1:1:1"
    assert mixed[3] == 2
    assert log.append("a", *[b"-"] * 5, asked=["q"] * 5, token="m")[4] == mixed[4]
    assert log.events("a") == [(1, b"1"), (2, b"2"), (3, b"3"), (4, b"4")]


def test_one_key_twice_in_a_call_is_one_event(log):
    """The second entry of a call is a duplicate of the first."""
    row = log.append("a", b"1", b"2", asked=["x", "x"])
    epoch = row[4].split(":")[0]
    assert row[4] == f"{epoch}:1:0:1 {epoch}:1:1:1"
    assert log.events("a") == [(1, b"1")]


def test_jobs_are_in_one_transaction(log):
    """Many topics in one call each get their row, in order, with their own keys."""
    rows = log.append_many(
        [
            ("a", [b"1", b"2"], {"keys": ["k", "l"]}),
            ("b", [], {}),
            ("c", [b"3"], {"keys": ["k"]}),
            ("c", [b"4"], {}),
        ]
    )
    assert [row[2:4] for row in rows] == [(1, 2), (None, 0), (1, 1), (2, 1)]
    latest = log.ask("select * from flowstream.latest('a', '', 1000000)")
    assert [(row[4], row[8]) for row in latest] == [(None, None), ("k", b"1"), ("l", b"2")]


def test_topics_that_are_not_sorted_are_refused(log):
    """Two transactions that take topics in different orders could wait for each other."""
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="sorted"):
        log.append_many([("b", [b"1"], {}), ("a", [b"1"], {})])
    assert log.ask("select name from flowstream.topic") == []


def test_a_page_has_so_many_bytes(log):
    """A page ends before the record that would exceed it, but has one at least."""
    log.append("a", b"x" * 600, b"y" * 600, b"z" * 600)
    epoch = log.epoch("a")
    assert [number for number, _ in log.read("a", epoch, 0, size=1200)[1]] == [1, 2]
    assert [number for number, _ in log.read("a", epoch, 0, size=1199)[1]] == [1]
    assert [number for number, _ in log.read("a", epoch, 0, size=10)[1]] == [1]
    assert [number for number, _ in log.read("a", epoch, 1, limit=1)[1]] == [2]


def test_a_fence_that_does_not_hold_leaves_the_others(log):
    """A job whose fence is not the lease's appends nothing; the other jobs of the call do."""
    ((_, _, fence, _, _),) = log.ask("select * from flowstream.claim('b', 'me', 10)")
    rows = log.append_many(
        [
            ("a", [b"1"], {}),
            ("b", [b"2"], {"fence": fence}),
            ("b", [b"3"], {"fence": fence + 1}),
            ("c", [b"4"], {"fence": fence}),
            ("d", [b"5"], {}),
        ]
    )
    assert [row[5] for row in rows] == [False, False, True, True, False]
    assert log.events("b") == [(1, b"2")]
    assert log.read("c")[0][0] is None


@contextmanager
def _changes(log, table):
    """Give a list; fill it with how many rows of a table were inserted, updated and deleted inside.

    It is one transaction: the server counts what a session has not reported yet, and reports
    nothing within one.
    """

    def counted():
        return log.ask(
            "select n_tup_ins, n_tup_upd, n_tup_del from pg_stat_xact_user_tables"
            " where schemaname = 'flowstream' and relname = %s",
            table,
        )[0]

    found = []
    with log.connection.transaction():
        before = counted()
        yield found
        found += [now - then for now, then in zip(counted(), before, strict=True)]


def _numbers(rows):
    return [(row[2], row[3], row[4].partition(":")[2]) for row in rows]


def test_jobs_of_one_topic_count_its_row_once(log):
    """64 jobs of one topic update its row one time, and each returns numbers of its own."""
    log.append("a", b"0")
    with _changes(log, "topic") as topics, _changes(log, "token") as stored:
        rows = log.append_many([("a", [b"x", b"y"][: 1 + at % 2], {}) for at in range(64)])
    assert topics == [0, 1, 0]
    assert stored == [64, 0, 0]
    firsts = [2 + at // 2 * 3 + at % 2 for at in range(64)]
    counts = [1 + at % 2 for at in range(64)]
    assert _numbers(rows) == [
        (first, many, f"{first}:0:{many}") for first, many in zip(firsts, counts, strict=True)
    ]
    assert log.events("a") == [(1, b"0")] + [
        (number, b"y" if number % 3 == 1 else b"x") for number in range(2, 98)
    ]
    assert log.one("select size from flowstream.topic") == 97


def test_a_topic_with_keys_leaves_the_others_of_a_call_together(log):
    """Keys are looked at in their own topic; the jobs of another one update its row one time."""
    log.append_many([("a", [b"0"], {}), ("b", [b"0"], {})])
    with _changes(log, "topic") as topics:
        log.append_many([("a", [b"1"], {"keys": ["k"]})] + [("b", [b"1"], {})] * 8)
    assert topics[1] == 1 + 1 + 1  # a's, its keys' count, b's
    assert [number for number, _ in log.events("b")] == [*range(1, 10)]


@pytest.mark.parametrize("known", ["of before", "twice in the call"])
def test_a_known_token_among_others_is_appended_once(log, known):
    """A job whose token is known gets the first one's result; the others' numbers follow on."""
    log.append("a", b"0", b"0", token="t" if known == "of before" else "u")
    rows = log.append_many(
        [
            ("a", [b"1"], {"token": "v"}),
            ("a", [b"2", b"2"], {"token": "t"}),
            ("a", [b"3"], {"token": "w" if known == "of before" else "v"}),
            ("a", [b"4"], {"token": "x"}),
            ("b", [b"5"], {}),
        ]
    )
    if known == "of before":
        assert [row[3] for row in rows] == [1, 0, 1, 1, 1]
        assert [row[2] for row in _numbers(rows)] == ["3:0:1", "1:0:2", "4:0:1", "5:0:1", "1:0:1"]
        data = [b"0", b"0", b"1", b"3", b"4"]
    else:
        assert [row[3] for row in rows] == [1, 2, 0, 1, 1]
        assert [row[2] for row in _numbers(rows)] == ["3:0:1", "4:0:2", "3:0:1", "6:0:1", "1:0:1"]
        data = [b"0", b"0", b"1", b"2", b"2", b"4"]
    assert log.events("a") == [*enumerate(data, 1)]
    assert log.one("select size from flowstream.topic where name = 'a'") == len(data)
    assert log.append("a", b"6")[2] == len(data) + 1


def test_fences_that_hold_are_appended_together(log):
    """A run's owner has its jobs appended together; one of another owner is refused."""
    ((_, _, fence, _, _),) = log.ask("select * from flowstream.claim('a', 'me', 10)")
    log.append("a", b"0", fence=fence)
    with _changes(log, "topic") as topics:
        rows = log.append_many([("a", [b"1"], {"fence": fence})] * 8)
    assert topics[1] == 1
    assert [row[5] for row in rows] == [False] * 8
    jobs = [("a", [b"2"], {"fence": fence}), ("a", [b"3"], {"fence": fence + 1})]
    rows = log.append_many([*jobs, *jobs])
    assert [row[5] for row in rows] == [False, True, False, True]
    assert log.events("a") == [*enumerate([b"0", *[b"1"] * 8, b"2", b"2"], 1)]


def test_a_plain_append_has_its_topic_looked_at_in_time(log):
    """A topic is due when its oldest event is over its time, and soon if it is full."""
    due = "select extract(epoch from due - touched)::float8 from flowstream.topic"
    for _ in range(2):
        log.append("a", b"1", seconds=100.0, items=2)
    log.ask("update flowstream.topic set due = 'infinity' returning 1")
    log.append("a", b"2", seconds=100.0, items=2)
    assert log.one(due) == pytest.approx(60, abs=1)
    log.ask("update flowstream.topic set due = 'infinity', floor = head + 1 returning 1")
    log.append("a", b"2", seconds=100.0, items=2)
    assert log.one(due) == pytest.approx(100, abs=1)
    log.append_many([("a", [b"3"], {"seconds": 100.0, "items": 2})] * 80)
    assert log.one("select head - floor + 1 from flowstream.topic") == 2


def test_tokens_of_long_ago_are_forgotten(log):
    """Plain appends leave the newest 1,024 tokens of a topic, and up to 64 more."""
    for _ in range(20):
        log.append_many([("a", [b"1"], {})] * 64)
    assert 1024 <= log.one("select count(*) from flowstream.token") <= 1024 + 64
