"""The feed: one topic with a publisher of its own, which the clients of the page share.

It publishes a numbered event 200 times a second while it has clients. Each event is padded, because
the kernel and the browser first take 2 to 4 MB that a client does not read, and only then does the
server notice. Three seconds of the past are kept. So after a short break of its connection a client
misses nothing, and after a long one it gets a gap.

The feed also computes what bounded buffers save. A queue without a bound would hold, for each
client, everything published since the client came, minus everything sent to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import trio

from flowstream import CatchUp, Replay, StreamStatistics, Topic
from flowstream.abc import Policy
from flowstream.ids._event_id import parse_event_id

from . import _query
from ._rate import Rate
from .flood import POLICIES, numbered

RATE = 200.0
"""Events a second."""

PAD = 12_000
"""Bytes of padding in each event."""

REPLAY = Replay(items=600)
"""The past that is kept for clients that come back: three seconds."""

LINGER = 30.0
"""Seconds that it goes on without a client, so that a client that was cut off misses something."""

TOPIC_POLICIES: dict[str, Policy] = {
    **{name: policy for name, policy in POLICIES.items() if name != "block"},
    "catch_up": CatchUp(),
}
"""The policies by their names in a query. `Block` is not among them, because with it one client
could hold up the publisher, and so all other clients."""


@dataclass(frozen=True, slots=True)
class FeedClient:
    """The query of one client of the feed."""

    policy: str
    """One of `TOPIC_POLICIES`."""
    buffer: int
    """Items its buffer holds."""

    @classmethod
    def parse(cls, arguments: _query.Arguments) -> FeedClient:
        """Read a query.

        Raises:
            BadParameterError: a parameter is unknown or wrong.
        """
        _query.known(arguments, ("policy", "buffer", "client"))
        return cls(
            policy=_query.choice(arguments, "policy", "drop_oldest", TOPIC_POLICIES),
            buffer=_query.whole(arguments, "buffer", 64, low=1, high=10_000, unit="items"),
        )


class DemoFeed:
    """The topic and its publisher.

    Attributes:
        topic: the topic that clients get.
        published: events so far, which is the number of the newest event.
    """

    def __init__(self, rate: float = RATE, pad: int = PAD) -> None:
        self.topic: Topic = Topic("feed", replay=REPLAY)
        self.published: int = 0
        self._rate = rate
        self._padding = "." * pad
        self._wanted = trio.Event()
        self._heard = 0.0  # when it last had a client, or was about to get one

    def want(self) -> None:
        """Start to publish, unless it does: a client is about to come."""
        self._heard = trio.current_time()
        self._wanted.set()

    def position(self, after: str | None) -> int:
        """Return the number of the event after which a client begins that has seen id `after`."""
        epoch, number = parse_event_id(after or "") or ("", 0)
        oldest = max(0, self.published - REPLAY.items)
        if epoch == self.topic.epoch and oldest <= number <= self.published:
            return number
        return self.published

    async def publish(self) -> None:
        """Publish for ever; **wait** while there is no client."""
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
