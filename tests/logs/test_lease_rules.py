"""The rules of leases, as values: whose one is, when it lapses, and when it is forgotten."""

from __future__ import annotations

import pytest

from flowstream.logs import FencedError
from flowstream.logs._append_arguments import FORGET_SECONDS
from flowstream.logs._lease_rules import (
    Claim,
    HeldLease,
    check_fence,
    decide_claim,
    may_beat,
    may_end,
    new_lease,
)
from flowstream.logs._memory_leases import MemoryLeases

LIVE = HeldLease("me", 7, 100.0, False, 100.0 + FORGET_SECONDS)
ENDED = LIVE.over(50.0, 60.0)


@pytest.mark.parametrize(
    ("held", "owner", "instead", "now", "expected"),
    [
        (None, "me", None, 0.0, Claim.ANEW),
        (None, "me", 7, 0.0, Claim.ANEW),
        (LIVE, "me", None, 99.0, Claim.RENEWED),
        (LIVE, "me", None, 101.0, Claim.RENEWED),
        (LIVE, "you", None, 101.0, Claim.REFUSED),
        (LIVE, "you", 6, 101.0, Claim.REFUSED),
        (LIVE, "you", 7, 99.0, Claim.REFUSED),
        (LIVE, "you", 7, 100.0, Claim.TAKEN_OVER),
        (LIVE, "you", 7, 101.0, Claim.TAKEN_OVER),
        (ENDED, "me", None, 51.0, Claim.REFUSED),
        (ENDED, "you", 7, 51.0, Claim.ANEW),
        (ENDED, "me", 7, 51.0, Claim.ANEW),
        (ENDED, "you", 6, 51.0, Claim.REFUSED),
    ],
)
def test_what_becomes_of_a_claim(
    held: HeldLease | None, owner: str, instead: int | None, now: float, expected: Claim
) -> None:
    """Only a lease that has no seconds left, or has ended, is taken from its owner."""
    assert decide_claim(held, owner, instead, now) is expected


@pytest.mark.parametrize(
    ("now", "lapsed", "expected"),
    [(99.0, False, True), (99.0, True, False), (100.0, True, True), (101.0, True, True)],
)
def test_who_may_end_a_lease(now: float, lapsed: bool, expected: bool) -> None:
    """Its owner at any time; who reaps it when it has no seconds left; and nobody twice."""
    assert may_end("news", LIVE, 7, now, lapsed) is expected
    assert may_end("news", ENDED, 7, now, lapsed) is False
    assert may_end("news", None, 7, now, lapsed) is False
    for held in (LIVE, ENDED):
        with pytest.raises(FencedError, match="somebody else"):
            may_end("news", held, 6, now, lapsed)


@pytest.mark.parametrize(
    ("held", "fence", "says"),
    [(None, 7, "no lease any more"), (LIVE, 6, "somebody else"), (ENDED, 7, "has ended")],
)
def test_who_may_not_append(held: HeldLease | None, fence: int, says: str) -> None:
    """The error says why; who has the token of a live lease may."""
    with pytest.raises(FencedError, match=says):
        check_fence("news", held, fence)
    check_fence("news", LIVE, 7)


def test_which_beats_renew() -> None:
    """Those of its owner, with its token, until it has ended."""
    assert may_beat(LIVE, "me", 7)
    assert not any(
        [
            may_beat(None, "me", 7),
            may_beat(LIVE, "you", 7),
            may_beat(LIVE, "me", 6),
            may_beat(ENDED, "me", 7),
        ]
    )


def test_a_new_lease_has_a_token_that_no_other_had() -> None:
    """It is above the last one, and above all of a log that forgot what it gave."""
    assert new_lease("me", 0, 10.0, 1.8e9, 15.0) == HeldLease(
        "me", 1_800_000_000_000_000, 25.0, False, 25.0 + FORGET_SECONDS
    )
    assert new_lease("me", 1_900_000_000_000_000, 10.0, 1.8e9, 15.0).token == 1_900_000_000_000_001


def test_a_lease_is_forgotten_when_its_time_is_over() -> None:
    """An ended one after the seconds that it is kept for, to the moment."""
    leases = MemoryLeases()
    lease, _ = leases.claim("news", "me", 15.0, None, 0.0)
    assert leases.may_end("news", lease.token, 1.0, False)
    leases.end("news", 60.0, 1.0)
    assert [leases.is_gone("news", now) for now in (60.9, 61.0, 61.1)] == [False, True, True]
    assert [leases.gone(now) for now in (60.9, 61.0)] == [[], ["news"]]
    assert not leases.is_gone("other", 1e9)
