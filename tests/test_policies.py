"""The policies as values: what they refuse to be, and the verdicts of their judges."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.abc import Policy, Verdict
from flowstream.policies import Block, Conflate, Disconnect, DropNewest, DropOldest, Sample

AGED = [DropOldest, DropNewest, Conflate]
W, E, N = Verdict.WAIT, Verdict.EVICT_OLDEST, Verdict.EVICT_NEWEST
R, A, D = Verdict.REPLACE_NEWEST, Verdict.DROP_ARRIVING, Verdict.DISCONNECT


@pytest.mark.parametrize(
    ("policy", "verdict", "for_essential"),
    [
        (Block(), W, W),
        (DropOldest(), E, E),
        (DropNewest(), A, N),
        (Disconnect(), D, D),
        (Conflate(), E, E),
    ],
)
def test_a_policy_without_memory_always_gives_the_same_verdict(policy, verdict, for_essential):
    """However often it is asked and however full the buffer is; and it is never behind."""
    judge = policy.start()
    for level in (1.0, 0.6, 0.0):
        assert judge.arrive(level, False) is verdict
        assert judge.arrive(level, True) is for_essential
        judge.drained(level)
        assert not judge.behind


@pytest.mark.parametrize("policy", AGED)
def test_a_maximum_age_is_a_positive_number_of_seconds(policy):
    """Zero would drop everything, and text is no number."""
    assert policy(max_age=1.5).max_age == 1.5
    with pytest.raises(ValueError, match="max_age must be more than 0 seconds"):
        policy(max_age=0)
    with pytest.raises(TypeError, match="max_age must be a number of seconds"):
        policy(max_age="1")


def test_the_timeout_of_block_is_a_positive_number_of_seconds():
    """Without one it waits as long as the client lives."""
    assert Block().timeout is None
    assert Block(timeout=2).timeout == 2
    with pytest.raises(ValueError, match="timeout must be more than 0 seconds"):
        Block(timeout=-1)
    with pytest.raises(TypeError, match="timeout must be a number"):
        Block(timeout=True)


def test_only_conflation_looks_at_keys():
    """`keyed` is what an own policy sets to get the same; an app can't turn it off."""
    assert Conflate().keyed
    assert not any(policy.keyed for policy in (Block(), DropOldest(), DropNewest(), Disconnect()))
    with pytest.raises(TypeError):
        Conflate(keyed=False)


@pytest.mark.parametrize("policy", [Block, Disconnect])
def test_what_a_policy_does_not_know_is_refused(policy):
    """A maximum age with a policy that has none is a mistake, not a wish."""
    with pytest.raises(TypeError, match="max_age"):
        policy(max_age=1)


def test_sample_takes_one_measure_and_not_two():
    """Neither both measures nor none, and never by position."""
    for wrong in ({}, {"every": 2, "interval": 1.0}, {"max_age": 1}):
        with pytest.raises(TypeError, match="either every=n or interval=seconds"):
            Sample(**wrong)
    with pytest.raises(TypeError):
        Sample(2)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"every": 0}, ValueError, "every must be at least 1"),
        ({"every": 1}, ValueError, "one in 1 keeps all, use DropOldest"),
        ({"every": 2.0}, TypeError, "every must be an int"),
        ({"interval": 0}, ValueError, "interval must be more than 0 seconds"),
        ({"interval": math.nan}, ValueError, "interval must be more than 0 seconds"),
        ({"interval": "1"}, TypeError, "interval must be a number"),
        ({"every": 2, "max_age": 0}, ValueError, "max_age must be more than 0"),
    ],
)
def test_sample_refuses_a_measure_that_measures_nothing(wrong, error, message):
    """Each message says which argument was wrong, and what it should have been."""
    with pytest.raises(error, match=message):
        Sample(**wrong)


def test_policies_are_values():
    """They compare and hash by what they do, so that one may be shared or be a default."""
    assert {Sample(every=2), Sample(every=2), Sample(interval=2)} == {
        Sample(every=2),
        Sample(interval=2),
    }
    assert repr(Conflate(max_age=3)) == "Conflate(max_age=3)"


def test_a_judge_of_sample_is_of_one_client():
    """What one client's buffer went through does not make another one's judge behind."""
    policy = Sample(every=2)
    first, second = policy.start(), policy.start()
    first.arrive(0, False)
    assert first.behind
    assert not second.behind


@given(st.integers(2, 20), st.integers(1, 100))
def test_sample_every_n_makes_each_nth_arrival_firm(every, arrivals):
    """The arrival after a firm one evicts the oldest; any other replaces the candidate."""
    judge = Sample(every=every).start()
    verdicts = [judge.arrive(0, False) for _ in range(arrivals)]
    assert verdicts == [E if number % every == 0 else R for number in range(arrivals)]


def test_sample_starts_to_count_when_the_client_falls_behind():
    """A count left from the last time, or a candidate, has no say in the next."""
    judge = Sample(every=3).start()
    assert [judge.arrive(0, False) for _ in range(2)] == [E, R]
    judge.drained(0.5)
    assert [judge.arrive(0, False) for _ in range(4)] == [E, R, R, E]


def test_sample_catches_up_at_half_and_not_before():
    """Level 0.51 is behind still, 0.5 is not."""
    judge = Sample(every=3).start()
    judge.arrive(0, False)
    judge.drained(0.51)
    assert judge.behind
    judge.drained(0.5)
    assert not judge.behind


def test_sample_by_interval_starts_a_new_interval_with_the_arrival_that_ends_one():
    """Intervals begin with arrivals, so that silence adds no sampling points."""
    judge = Sample(interval=10).start()
    times = [100, 105, 109, 110, 115, 150, 159, 160]
    assert [judge.arrive(now, False) for now in times] == [E, R, R, E, R, E, R, E]


@pytest.mark.parametrize("policy", [Sample(every=2), Sample(interval=1)])
def test_an_essential_evicts_the_oldest_and_is_no_sample(policy):
    """It neither counts as an arrival nor takes a candidate's place."""
    judge = policy.start()
    assert judge.arrive(0, True) is E
    assert judge.behind
    assert judge.arrive(0, False) is E  # the first arrival: nothing to replace yet
    assert judge.arrive(0, True) is E
    assert judge.arrive(0, False) is R


def test_a_policy_of_ones_own_has_to_say_what_it_does():
    """`start` is the one method that there is no default for."""
    with pytest.raises(TypeError, match="start"):
        type("Own", (Policy,), {})()
