"""Idempotency keys in memory: remembered for their time, and not for longer."""

import math

import pytest

from flowstream.logs import LogFullError
from flowstream.logs import _idempotency_keys as module
from flowstream.logs._idempotency_keys import IdempotencyKeys, check_seconds


def test_a_key_ends_with_its_own_time():
    """Each key counts from its own event, in whatever order they end."""
    keys = IdempotencyKeys()
    keys.remember("long", 1, 100.0)
    keys.remember("short", 2, 10.0)
    assert (keys.find("long", 9.9), keys.find("short", 9.9)) == (1, 2)
    assert (keys.find("long", 10.0), keys.find("short", 10.0), len(keys)) == (1, None, 1)
    keys.remember("short", 3, 300.0)
    assert keys.find("short", 99.0) == 3
    assert (keys.find("long", 100.0), len(keys)) == (None, 1)


def test_too_many_keys_are_refused_until_some_have_ended(monkeypatch):
    """A key that is remembered is never forgotten early: the next one is refused."""
    monkeypatch.setattr(module, "MEMORY_KEYS", 2)
    keys = IdempotencyKeys()
    keys.check_room("the topic 't'", 0.0, 2)
    with pytest.raises(LogFullError, match="the topic 't' has 0 idempotency keys"):
        keys.check_room("the topic 't'", 0.0, 3)
    keys.remember("a", 1, 10.0)
    keys.remember("b", 1, 20.0)
    with pytest.raises(LogFullError, match="a shorter idempotency_seconds"):
        keys.check_room("the topic 't'", 9.0)
    keys.check_room("the topic 't'", 10.0)
    assert keys.find("b", 10.0) == 1


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, "5", None, True])
def test_the_seconds_are_a_number_above_0(seconds):
    """Anything else is refused with a sentence that names the argument."""
    with pytest.raises((TypeError, ValueError), match="idempotency_seconds must be"):
        check_seconds(seconds)
