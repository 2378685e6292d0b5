"""The leases of a log in memory."""

from __future__ import annotations

from flowstream._clock import clock
from flowstream.abc import Lease
from flowstream.logs._lease_rules import (
    Claim,
    HeldLease,
    check_fence,
    decide_claim,
    may_beat,
    may_end,
    new_lease,
)


class MemoryLeases:
    """Leases by topic. The methods take the time, in seconds on a clock that never goes back."""

    def __init__(self) -> None:
        self._held: dict[str, HeldLease] = {}
        self._last = 0

    def __contains__(self, topic: str) -> bool:
        """Return whether the topic has a lease, be it one to be forgotten."""
        return topic in self._held

    def is_gone(self, topic: str, now: float) -> bool:
        """Return whether the topic has a lease that is to be forgotten."""
        held = self._held.get(topic)
        return held is not None and held.gone <= now

    def gone(self, now: float) -> list[str]:
        """Return the topics whose leases are to be forgotten."""
        return [topic for topic, held in self._held.items() if held.gone <= now]

    def forget(self, topic: str) -> None:
        """Forget a topic's lease."""
        self._held.pop(topic, None)

    def check(self, topic: str, fence: int) -> None:
        """Raise FencedError unless who has this token may append to the topic."""
        check_fence(topic, self._held.get(topic), fence)

    def find(self, topic: str, now: float) -> Lease | None:
        """Return the topic's lease, if it has one."""
        held = self._held.get(topic)
        return None if held is None else held.seen(now)

    def claim(
        self, topic: str, owner: str, seconds: float, instead: int | None, now: float
    ) -> tuple[Lease, Claim]:
        """Return the lease as it is now, and what became of the claim."""
        held = self._held.get(topic)
        claim = decide_claim(held, owner, instead, now)
        if held is None or claim in (Claim.ANEW, Claim.TAKEN_OVER):
            held = new_lease(owner, self._last, now, clock.wall_time(), seconds)
            self._last = held.token
        elif claim is Claim.RENEWED:
            held = held.renewed(now, seconds)
        self._held[topic] = held
        return held.seen(now), claim

    def beat(self, topic: str, owner: str, token: int, seconds: float, now: float) -> Lease | None:
        """Renew a lease, if it is still the owner's; return it as it is now."""
        held = self._held.get(topic)
        if held is not None and may_beat(held, owner, token):
            self._held[topic] = held.renewed(now, seconds)
        return self.find(topic, now)

    def may_end(self, topic: str, fence: int, now: float, lapsed: bool) -> bool:
        """Return whether `end` changes anything; raise FencedError if the token is another one."""
        return may_end(topic, self._held.get(topic), fence, now, lapsed)

    def end(self, topic: str, seconds: float, now: float) -> None:
        """End the lease; keep it for so long."""
        self._held[topic] = self._held[topic].over(now, seconds)
