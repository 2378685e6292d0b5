"""The SQL of the log on Postgres: epochs, and the lives of the log."""

from __future__ import annotations

import psycopg
import pytest

from flowstream.ids._event_id import event_id, new_epoch, parse_event_id
from flowstream.logs.postgres._schema import VERSION


def test_an_epoch_is_one_of_python_s(log):
    """An epoch of the server's has the form of one made here, and sorts among them."""
    before = new_epoch()
    made = log.one("select flowstream.new_epoch_behind('')")
    assert parse_event_id(event_id(made, 1)) == (made, 1)
    assert before[:6] <= made[:6]


@pytest.mark.parametrize(
    ("last", "behind"),
    [
        ("1lgppmf8l75", None),
        ("vvvvvvvvvv0", "vvvvvvvvvv00"),
        ("vvvvvvvvvv000000", "vvvvvvvvvv1"),
    ],
)
def test_an_epoch_sorts_behind_the_last(log, last, behind):
    """Behind the last ones of all it is the last one with a 0, up to five of them."""
    made = log.one("select flowstream.new_epoch_behind(%s)", last)
    assert made > last
    assert behind in (None, made)


@pytest.mark.parametrize("last", ["vvvvvv00000", "vvvvvv00000000", "vvvvvv0vvvv"])
def test_a_server_and_its_copy_do_not_come_to_the_same_epoch(log, last):
    """If the clock is behind, as within a second, chance tells their epochs apart."""
    made = {log.one("select flowstream.new_epoch_behind(%s)", last) for _ in range(20)}
    assert len(made) > 15
    for one in made:
        assert one > last
        assert parse_event_id(event_id(one, 1)) == (one, 1)
        assert int(one, 32) - int(last[:11], 32) <= 1 << 19


def test_a_position_that_the_log_lost_begins_a_new_epoch(log):
    """A reader that had event 5 of a log with 3 begins an epoch; one that had 3 does not."""
    log.append("a", b"1", b"2", b"3")
    log.append("b", b"1")
    epoch = log.epoch("a")
    log.ask("select flowstream.touch('a', %s, 3)", epoch)
    assert log.epoch("a") == epoch
    log.ask("select flowstream.touch('a', %s, 5)", epoch)
    later = log.epoch("a")
    assert later > epoch
    assert log.append("a", b"4")[1] == f"{epoch}:1,{later}:4"
    # Who had 5 events reads on behind the third.
    assert log.read("a", epoch, 5)[1] == [(4, b"4")]
    # A second reader with the same evidence begins no further one; other topics begin theirs.
    log.ask("select flowstream.touch('a', %s, 5)", epoch)
    assert log.epoch("a") == later
    assert log.read("b")[0][4] is False
    assert log.append("b", b"2")[1].count(",") == 1
    assert log.read("b")[0][4] is True


def test_an_unknown_topic_is_evidence_too(log):
    """A reader with an event of a topic that is not there shows a loss; one with number 0 not."""
    epoch = log.epoch("a")
    log.ask("select flowstream.touch('a', %s, 0)", epoch)
    assert log.epoch("a") == epoch
    log.ask("select flowstream.touch('a', %s, 1)", epoch)
    assert log.epoch("a") > epoch


def test_less_wal_than_was_seen_is_a_new_life(log):
    """A process that saw more WAL than there is begins a life; of another lineage it does not."""
    _, lineage, wal, epoch, read_only = log.ask("select * from flowstream.hello('', 0)")[0]
    assert read_only is False
    assert log.ask("select * from flowstream.hello(%s, %s)", lineage, wal)[0][1] == lineage
    assert log.ask("select * from flowstream.hello('other', %s)", wal + 10**9)[0][1] == lineage
    later = log.ask("select * from flowstream.hello(%s, %s)", lineage, wal + 10**9)[0]
    assert later[1] != lineage
    assert later[3] > epoch
    # Another process with the same evidence finds the new life, and begins none.
    assert log.ask("select * from flowstream.hello(%s, %s)", lineage, wal + 10**9)[0][1] == later[1]


def test_who_appends_must_know_the_lineage_that_is(log):
    """Else it would say of a life what it has of another one. It greets the log, and is let in."""
    _, lineage, wal, _, _ = log.ask("select * from flowstream.hello('', 0)")[0]
    jobs = [("a", [b"1"], {})]
    assert log.append_many(jobs, lineage, wal)[0][3] == 1
    for known in ((lineage, wal + 10**9), ("other", 0)):
        with pytest.raises(psycopg.Error) as refused:
            log.append_many(jobs, *known)
        assert refused.value.sqlstate == "LG001"
    assert log.events("a") == [(1, b"1")]
    later = log.ask("select * from flowstream.hello(%s, %s)", lineage, wal + 10**9)[0]
    assert log.append_many([("a", [b"2"], {})], later[1], later[2])[0][3] == 1


def test_fewer_lives_than_were_seen_are_a_new_life(log):
    """A process that knew life 5 of a log in life 1 begins life 6; of an earlier one it does not.

    The WAL does not matter: the log may have more of it by now.
    """
    _, lineage, _, _, _ = log.ask("select * from flowstream.hello('', 0)")[0]
    server = lineage.rpartition(":")[0]
    assert lineage == f"{server}:1"
    assert log.ask("select * from flowstream.hello(%s, 0)", f"{server}:0")[0][1] == lineage
    for _ in range(2):  # a second one with the same evidence finds the new life
        row = log.ask("select * from flowstream.hello(%s, 0)", f"{server}:5")[0]
        assert row[1] == f"{server}:6"
    elsewhere = log.ask("select * from flowstream.hello('7:00000002:9', 0)")[0][1]
    assert elsewhere == f"{server}:6"


@pytest.mark.parametrize("topic", ["a", "unknown"])
def test_a_new_epoch_sorts_behind_what_somebody_has_seen(log, topic):
    """Of another server, whose clock was ahead: a reader's place never goes back."""
    log.append("a", b"1")
    log.ask("select flowstream.touch(%s, 'vvvvvvvvvv0', 7)", topic)
    epoch = log.epoch(topic)
    assert epoch > "vvvvvvvvvv0"
    assert parse_event_id(event_id(epoch, 1)) == (epoch, 1)
    log.ask("select flowstream.touch(%s, 'vvvvvvvvvv0', 7)", topic)
    assert log.epoch(topic) == epoch
    log.ask("select flowstream.touch(%s, 'zzz, no epoch', 7)", topic)
    assert parse_event_id(event_id(log.epoch(topic), 1)) is not None


def test_eight_epochs_are_kept(log):
    """The oldest epoch goes, and with it the events that it has alone."""
    for number in range(10):
        log.append("a", b"%d" % number)
        log.ask("select flowstream.new_epoch()")
    row, _ = log.read("a")
    assert row[1].count(",") == 7
    assert (row[2], row[3]) == (10, 3)


def test_another_timeline_is_a_new_epoch(log):
    """A log that says it was made by another lineage begins an epoch with the next append."""
    log.append("a", b"1")
    log.ask("update flowstream.log set lineage = 'x:00000009:1' returning 1")
    log.ask("update flowstream.topic set lineage = 'x:00000009:1' returning 1")
    assert log.read("a")[0][4] is False
    assert log.append("a", b"2")[1].count(",") == 1


def test_a_failover_may_be_trusted(log):
    """With `failover_loses` off the timeline is not part of what is compared."""
    log.ask("update flowstream.log set failover_loses = false returning 1")
    lineage = log.ask("select * from flowstream.hello('', 0)")[0][1]
    assert lineage.split(":")[1] == "*"


def test_a_read_only_server_says_so(log, schema_dsn):
    """A transaction that may not write gets no lineage, and no error."""
    with psycopg.connect(schema_dsn) as connection:
        connection.read_only = True
        row = connection.execute("select * from flowstream.hello('', 0)").fetchone()
    assert row == (VERSION, None, None, None, True)


@pytest.mark.parametrize(
    "write",
    [
        "select * from flowstream.append('', 0, '{a}', '{1}', '{t}', '{9}', '{9}', '{9}',"
        " array[null]::int8[], '{x}', null, null, null)",
        "select flowstream.trim('a', 0, null, null)",
        "select * from flowstream.delete('a')",
        "select flowstream.touch('a', '', 0)",
        "select flowstream.new_epoch()",
        "select * from flowstream.claim('a', 'me', 10)",
        "select * from flowstream.beat('me', '{a}', '{1}', 10)",
        "select * from flowstream.finish('a', 1, 't', 9, 60, 999, 'end', null, 60, false)",
    ],
)
def test_a_commit_is_flushed_whatever_the_session_says(log, write):
    """Where commits are not flushed, what writes has its own commit flushed, and no other."""
    log.append("a", b"1")
    log.ask("select set_config('synchronous_commit', 'off', false)")
    with log.connection.transaction():
        log.ask(write)
        assert log.one("show synchronous_commit") == "on"
    assert log.one("show synchronous_commit") == "off"


def test_topics_begin_a_new_epoch_one_at_a_time(log):
    """The last eight epochs are kept in their order, the first one stays until there are more."""
    log.append("a", b"0")
    epochs = [log.epoch("a")]
    for number in range(1, 12):
        log.ask("select flowstream.new_epoch()")
        row = log.append("a", b"%d" % number)
        kept = [one.split(":") for one in row[1].split(",")]
        epochs.append(kept[-1][0])
        assert [epoch for epoch, _ in kept] == epochs[-8:]
        first = max(0, number - 7)
        assert [int(begin) for _, begin in kept] == list(range(first + 1, number + 2))
        assert epochs == sorted(set(epochs))
        before, newest = (number, b"%d" % (number - 1)), (number + 1, b"%d" % number)
        assert log.read("a", epochs[-2], number - 1)[1] == [before, newest]
        # A position beyond the end of its epoch is the end of it.
        assert log.read("a", epochs[-2], number + 5)[1] == [newest]
        assert log.read("a", epochs[-1], number + 5)[1] == []


@pytest.mark.parametrize(
    ("epoch", "number", "behind"),
    [
        ("b", 4, None),
        ("b", 5, 5),
        ("b", 9, 9),
        ("b", 10, 9),  # beyond the end of its epoch: what came next is read
        ("c", 8, None),
        ("c", 9, 9),
        ("c", 12, 12),
        ("c", 13, None),  # nobody can have it
        ("a", 5, None),
        ("d", 9, None),
    ],
)
def test_a_position_is_in_an_epoch_that_is_known(log, epoch, number, behind):
    """Of a topic with the events 6 to 9 in one epoch and 10 to 12 in the next."""
    found = log.one("select flowstream.locate('b:6,c:10', 12, %s, %s)", epoch, number)
    assert found == behind
