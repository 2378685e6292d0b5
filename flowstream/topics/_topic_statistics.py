"""What a topic tells of itself at one moment, for metrics and for tests.

Reading it costs a look at every subscriber, and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from flowstream.topics._log_statistics import LogStatistics


@dataclass(frozen=True, slots=True)
class TopicStatistics:
    """A moment of one topic."""

    name: str
    """The topic's name."""
    subscribers: int
    """Streams and subscriptions that read it now."""
    catching_up: int
    """How many of them are still reading the past."""
    published: int
    """Events published so far."""
    replay_items: int
    """Events kept for replay now."""
    replay_bytes: int
    """Bytes of their encodings."""
    replay_first: str | None
    """Id of the oldest of them, or None."""
    closed: bool
    """Whether it takes no more events."""
    deliveries: int
    """Events handed to subscribers when they were published, counted once for each subscriber. It
    does not count events read from the past, or left out by a policy or a filter."""
    direct_deliveries: int
    """How many of them were written directly to the client's connection."""
    feeders: int
    """Tasks of `Topic.publish_from` that feed it now."""
    feed_failures: int
    """How often one of them has failed."""
    bad_items: int
    """Items that they left out, because they could not be made or published."""
    log: LogStatistics | None = None
    """What happened between this process and the log; None for a topic in memory."""
