"""The rules of leases: who gets one, who may append, and when it is forgotten.

::

                  claim                          end
    no lease ───────────► live ◄──beat── lapsed ─────► ended ──► no lease
                           │  time goes by ▲  │          │
                           └───────────────┘  └──────────┴─ claim(instead=) ──► live, a new token

They are the same for every log: values in, values out. The time is the log's own, in seconds, and
never goes back.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from typing import NamedTuple

from flowstream._errors import FencedError
from flowstream.abc import Lease
from flowstream.limits import check_positive
from flowstream.logs._append_arguments import FORGET_SECONDS, check_text, check_topic


class HeldLease(NamedTuple):
    """A lease as a log stores it."""

    owner: str
    token: int
    until: float
    """When it lapses; of an ended one, when it is forgotten."""
    ended: bool
    gone: float
    """When it is forgotten, with the topic's events."""

    def seen(self, now: float) -> Lease:
        """Return it as a caller sees it."""
        return Lease(self.owner, self.token, self.until - now, self.ended)

    def renewed(self, now: float, seconds: float) -> HeldLease:
        """Return it renewed."""
        until = now + seconds
        return self._replace(until=until, gone=until + FORGET_SECONDS)

    def over(self, now: float, seconds: float) -> HeldLease:
        """Return it ended, to be kept for so long."""
        return self._replace(until=now + seconds, ended=True, gone=now + seconds)


class Claim(enum.Enum):
    """What becomes of a claim."""

    REFUSED = "refused"
    """Somebody else has the lease, or has ended it."""
    RENEWED = "renewed"
    """The owner has it already."""
    TAKEN_OVER = "taken over"
    """A new lease; the topic goes on where it is."""
    ANEW = "anew"
    """A new lease; what the topic has is deleted."""


def decide_claim(held: HeldLease | None, owner: str, instead: int | None, now: float) -> Claim:
    """Return what becomes of a claim of a topic whose lease is `held`."""
    if held is None:
        return Claim.ANEW
    if held.owner == owner and not held.ended:
        return Claim.RENEWED
    if held.token == instead:
        if held.ended:
            return Claim.ANEW
        if held.until <= now:
            return Claim.TAKEN_OVER
    return Claim.REFUSED


def new_lease(owner: str, last: int, now: float, date: float, seconds: float) -> HeldLease:
    """Return a lease for `owner` with the next token.

    Args:
        owner: whose it is.
        last: the last token that the log gave.
        now: the log's time.
        date: seconds since 1970, so that a log which forgot `last` gives none twice.
        seconds: until it lapses.
    """
    token = max(last + 1, int(date * 1e6))
    return HeldLease(owner, token, 0.0, False, 0.0).renewed(now, seconds)


def may_beat(held: HeldLease | None, owner: str, token: int) -> bool:
    """Return whether this owner's beat renews the lease."""
    return held is not None and held.owner == owner and held.token == token and not held.ended


def may_end(topic: str, held: HeldLease | None, fence: int, now: float, lapsed: bool) -> bool:
    """Return whether an end of the lease changes anything.

    Raises:
        FencedError: the lease has another token.
    """
    if held is None or (held.ended and held.token == fence):
        return False
    check_fence(topic, held, fence)
    return not lapsed or held.until <= now


def check_fence(topic: str, held: HeldLease | Lease | None, fence: int) -> None:
    """Raise unless who has the token `fence` may append.

    Raises:
        FencedError: the lease is another one, or has ended, or there is none.
    """
    if held is None:
        why = "it has no lease any more"
    elif held.token != fence:
        why = "somebody else has its lease by now"
    elif held.ended:
        why = "its lease has ended"
    else:
        return
    raise fenced(topic, why)


def fenced(topic: str, why: str = "it has another lease by now, or none") -> FencedError:
    """Return the error for an append, or an end, whose fencing token does not hold."""
    return FencedError(f"nothing was appended to the topic {topic!r}: {why}")


def check_claim(topic: str, owner: str, seconds: float, instead: int | None = None) -> None:
    """Raise unless these can be arguments of `claim`."""
    check_topic(topic)
    check_text("owner", owner)
    check_seconds(seconds)
    if instead is not None:
        check_token("instead", instead)


def check_beat(owner: str, tokens: Mapping[str, int], seconds: float) -> None:
    """Raise unless these can be arguments of `beat`."""
    check_text("owner", owner)
    check_seconds(seconds)
    for topic, token in tokens.items():
        check_topic(topic)
        check_token("a fencing token", token)


def check_token(name: str, token: int) -> None:
    """Raise unless `token` can be a fencing token."""
    if isinstance(token, bool) or not isinstance(token, int):
        raise TypeError(f"{name} must be the token of a Lease, not {type(token).__name__}")


def check_seconds(seconds: float) -> None:
    """Raise unless a lease can last for so long."""
    check_positive("seconds", seconds, unit="seconds")
    if seconds == math.inf:
        raise ValueError("seconds must be finite: a lease that never lapses outlives its owner")
