"""The feed: one topic with a publisher of its own, which the clients of the page share.

It publishes a numbered event 200 times a second, for as long as somebody listens. Each is
padded, because what a client does not read is first swallowed by the kernel and the browser,
2 to 4 MB of it; only then does the server feel it. Three seconds of the past are kept, so that
a short cut of the connection is made up for, and a long one ends in a gap.

It also does the sum that shows what bounded buffers are good for: what a queue without a bound
would hold for a client is all that was published since it came, less what was sent to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import trio

from flowstream import CatchUp, Replay, StreamStatistics, Topic
from flowstream.abc import Policy

from . import _query
from ._rate import Rate
from .flood import POLICIES, numbered

RATE = 200.0
"""Events a second."""

PAD = 12_000
"""Bytes of padding in each."""

REPLAY = Replay(items=600)
"""What is kept for clients that come back: three seconds."""

LINGER = 30.0
"""Seconds for which it goes on when nobody listens: who is cut off then misses something."""

TOPIC_POLICIES: dict[str, Policy] = {
    **{name: policy for name, policy in POLICIES.items() if name != "block"},
    "catch_up": CatchUp(),
}
"""The policies by their names in a query. `Block` is not among them: it would let one client hold
the publisher, and so everybody."""


@dataclass(frozen=True, slots=True)
class FeedClient:
    """What one client of the feed asked for."""

    policy: str
    """One of `TOPIC_POLICIES`."""
    buffer: int
    """Items its buffer holds."""

    @classmethod
    def parse(cls, arguments: _query.Arguments) -> FeedClient:
        """Read a query.

        Raises:
            BadParameterError: a parameter is unknown, or not what it should be.
        """
        _query.known(arguments, ("policy", "buffer", "client"))
        return cls(
            policy=_query.choice(arguments, "policy", "drop_oldest", TOPIC_POLICIES),
            buffer=_query.whole(arguments, "buffer", 64, low=1, high=10_000, unit="items"),
        )


class DemoFeed:
    """The topic and its publisher.

    Attributes:
        topic: what clients are streamed.
        published: events so far; the number of the newest.
    """

    def __init__(self, rate: float = RATE, pad: int = PAD) -> None:
        self.topic: Topic = Topic("feed", replay=REPLAY)
        self.published: int = 0
        self._rate = rate
        self._padding = "." * pad
        self._wanted = trio.Event()
        self._heard = 0.0  # when somebody listened last, or was about to

    def want(self) -> None:
        """Have it publish, if it does not: somebody is about to listen."""
        self._heard = trio.current_time()
        self._wanted.set()

    def position(self, after: str | None) -> int:
        """Return the number after which a client begins that has seen the event of id `after`."""
        epoch, _, number = (after or "").partition(".")
        if epoch == self.topic.epoch and re.fullmatch(r"[0-9]{1,15}", number):
            oldest = max(0, self.published - REPLAY.items)
            if oldest <= int(number) <= self.published:
                return int(number)
        return self.published

    async def publish(self) -> None:
        """Publish for ever; while nobody listens, wait."""
        while True:
            await self._wanted.wait()
            await self._publish_while_wanted()
            self._wanted = trio.Event()

    async def _publish_while_wanted(self) -> None:
        pace = Rate(self._rate)
        while trio.current_time() - self._heard < LINGER:
            if self.topic.subscribers:
                self._heard = trio.current_time()
            await pace.wait()
            event = numbered(self.published + 1, self._padding)
            self.published += 1
            await self.topic.publish(event.data, key=event.key)

    def owed(self, since: int, client: StreamStatistics) -> int:
        """Return the bytes that a queue without a bound would hold for a client.

        Args:
            since: the number of the event after which it began.
            client: its statistics.
        """
        if client.state == "closed":
            return 0
        kept = self.topic.statistics()
        size = kept.replay_bytes // kept.replay_items if kept.replay_items else 0
        return max(0, self.published - since - client.items) * size
