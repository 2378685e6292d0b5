"""The SQL of the log on Postgres: leases."""

from __future__ import annotations

import threading
import time

import psycopg
from logs.postgres._sql_log import SQLLog
from logs.postgres.test_postgres_retention import age

_FINISH = "select * from flowstream.finish('r', %s, %s, 9, 60, 999, 'end', null, 60, %s)"


def claim(log, owner, instead=None):
    (row,) = log.ask("select * from flowstream.claim('r', %s, 10, %s::int8)", owner, instead)
    return row


def test_a_claim_is_one_owner_s(log):
    """The second owner gets the first one's lease; the first one its own, renewed."""
    mine = claim(log, "me")
    assert mine[:2] == ("r", "me")
    assert claim(log, "you")[1:3] == mine[1:3]
    age(log, 5)
    assert claim(log, "you")[3] < 6
    again = claim(log, "me")
    assert again[1:3] == mine[1:3]
    assert again[3] > 9
    assert log.ask("select * from flowstream.topics('', '', 9)") == []


def test_a_token_is_never_given_twice(log):
    """Tokens grow with each claim of any topic, and with the clock."""
    tokens = [
        log.ask("select * from flowstream.claim(%s, 'me', 10)", f"r{number}")[0][2]
        for number in range(5)
    ]
    assert tokens == sorted(set(tokens))
    log.ask("update flowstream.log set fence = %s returning 1", tokens[-1] + 10**12)
    assert claim(log, "me")[2] == tokens[-1] + 10**12 + 1


def test_beats_renew_what_is_the_owner_s(log):
    """A lapsed one, too; not another's, not with another token, not an ended one."""
    token = claim(log, "me")[2]
    age(log, 20)
    beat = "select * from flowstream.beat(%s, '{r,s}', array[%s, 1]::int8[], 10)"
    assert log.ask(beat, "you", token)[0][3] < 0
    assert log.ask(beat, "me", token + 1)[0][3] < 0
    ((topic, _, _, seconds, ended),) = log.ask(beat, "me", token)
    assert (topic, ended) == ("r", False)
    assert seconds > 9
    log.ask(_FINISH, token, "t", False)
    assert log.ask(beat, "me", token)[0][4] is True


def test_the_end_is_one_commit(log):
    """The last event and the mark; a second end changes nothing; another token is fenced."""
    token = claim(log, "me")[2]
    log.append("r", b"1", fence=token)
    (row,) = log.ask(_FINISH, token + 1, "t", False)
    assert (row[9], row[4]) == (True, False)
    (row,) = log.ask(_FINISH, token, "t", True)  # it has not lapsed
    assert (row[8], row[4]) == (0, False)
    (row,) = log.ask(_FINISH, token, "t", False)
    assert (row[2], row[4], row[7], row[8], row[9]) == (token, True, 2, 1, False)
    (row,) = log.ask(_FINISH, token, "u", False)
    assert (row[4], row[8]) == (True, 0)
    assert [data for _, data in log.events("r")] == [b"1", b"end"]
    assert log.append("r", b"2", fence=token)[5] is True
    # It is there for a minute, then as if it had never been.
    epoch = log.epoch("r")
    age(log, 61)
    assert log.ask("select * from flowstream.leases('{r}')") == []
    assert log.read("r")[0][0] is None
    assert log.ask(_FINISH, token, "v", False) == []
    later = claim(log, "you")[2]
    assert log.append("r", b"new", fence=later)[5] is False
    assert log.epoch("r") > epoch
    assert [data for _, data in log.events("r")] == [b"new"]


def test_a_lapsed_lease_is_reaped_once(log):
    """Who ends it with `lapsed` does so after its time; the old owner is fenced then."""
    token = claim(log, "me")[2]
    age(log, 11)
    (row,) = log.ask(_FINISH, token, "t", True)
    assert (row[4], row[8]) == (True, 1)
    assert log.append("r", b"2", fence=token)[5] is True


def test_a_lease_is_taken_over(log):
    """A lapsed one with its events and its epoch, an ended one without; a live one is not."""
    token = claim(log, "me")[2]
    log.append("r", b"1", fence=token)
    epoch = log.epoch("r")
    assert claim(log, "you", token)[1] == "me"
    age(log, 11)
    taken = claim(log, "you", token)
    assert taken[1] == "you"
    assert claim(log, "third", token)[1] == "you"
    assert log.append("r", b"2", fence=token)[5] is True
    log.append("r", b"3", fence=taken[2])
    assert [data for _, data in log.events("r")] == [b"1", b"3"]
    assert log.epoch("r") == epoch
    log.ask(_FINISH, taken[2], "t", False)
    assert claim(log, "third", taken[2])[1] == "third"
    assert log.events("r") == []
    assert log.epoch("r") > epoch


def test_a_topic_with_a_lease_is_kept(log):
    """A lease that nobody ends is forgotten with its topic a week after it lapsed."""
    token = claim(log, "me")[2]
    log.append("r", b"1", fence=token)
    age(log, 6 * 86400)
    log.ask("select flowstream.maintain()")
    assert len(log.events("r")) == 1
    age(log, 86400 + 10)
    assert log.ask("select * from flowstream.leases('{r}')") == []
    log.ask("select flowstream.maintain()")
    assert log.ask("select name from flowstream.topic") == []


def test_what_is_left_over_is_deleted(log):
    """A topic that nobody claimed has its events deleted by the first claim."""
    log.append("r", b"old")
    epoch = log.epoch("r")
    token = claim(log, "me")[2]
    assert log.events("r") == []
    assert log.append("r", b"new", fence=token)[1].split(":")[0] > epoch


def test_leases_are_locked_in_one_order(log, schema_dsn):
    """Beats that cross never wait for each other in a circle: topics are taken by their names."""
    tokens = {}
    for topic in ("r1", "r2", "r3"):
        ((_, _, tokens[topic], _, _),) = log.ask(
            "select * from flowstream.claim(%s, 'me', 10)", topic
        )
    wanted = list(reversed(tokens))
    beats = []

    def beat():
        other = SQLLog(schema_dsn)
        values = wanted, [tokens[topic] for topic in wanted]
        beats.extend(other.ask("select * from flowstream.beat('me', %s, %s::int8[], 10)", *values))
        other.close()

    with psycopg.connect(schema_dsn) as holder:
        holder.execute("select 1 from flowstream.lease where topic = 'r1' for update")
        thread = threading.Thread(target=beat)
        thread.start()
        waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
        while not log.one(
            f"{waits} and query like '%flowstream.beat%' and pid <> pg_backend_pid()"
        ):
            time.sleep(0.005)
        free = "select topic from flowstream.lease order by topic for update skip locked"
        assert log.ask(free) == [("r2",), ("r3",)]
    thread.join(60)
    assert sorted(row[0] for row in beats) == ["r1", "r2", "r3"]


def test_only_leases_that_were_asked_for_are_there(log):
    """Each topic has its own: a claim, a beat and an end of one leave the others alone."""
    tokens = {
        topic: log.ask("select * from flowstream.claim(%s, %s, 10)", topic, owner)[0][2]
        for topic, owner in (("a", "me"), ("b", "you"), ("r", "me"))
    }
    assert [row[:3] for row in log.ask("select * from flowstream.leases('{b,x}')")] == [
        ("b", "you", tokens["b"])
    ]
    assert claim(log, "third")[1:3] == ("me", tokens["r"])
    assert claim(log, "third", tokens["r"])[1:3] == ("me", tokens["r"])  # it has not lapsed
    age(log, 11)
    assert claim(log, "third")[1:3] == ("me", tokens["r"])
    assert claim(log, "third", tokens["a"])[1:3] == ("me", tokens["r"])
    assert claim(log, "third", tokens["r"])[1] == "third"
    rows = log.ask("select * from flowstream.leases('{a,b,r}') order by 1")
    assert [row[1] for row in rows] == ["me", "you", "third"]
    assert [row[3] > 0 for row in rows] == [False, False, True]
