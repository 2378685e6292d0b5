"""The SQL of the log on Postgres: what `append` does, and what `read` then finds."""

from __future__ import annotations

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
