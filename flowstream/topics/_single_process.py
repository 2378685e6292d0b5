"""What a topic in memory knows of other workers: nothing. All its clients are in this process.

`LogPublisher` has the same methods for a topic that several workers share.
"""

from __future__ import annotations

from typing import Protocol

from flowstream._event import Event
from flowstream.topics._control import Control
from flowstream.topics._fanout import Fanout
from flowstream.topics._log_statistics import LogStatistics


class PresenceHearer(Protocol):
    """A topic that is told of subscribers."""

    def publish_soon(self, event: Event) -> None:
        """Publish an event without waiting."""


class SingleProcess:
    """The part of a publisher that has to do with other workers, where there are none."""

    fanout: Fanout

    @property
    def control(self) -> Control | None:
        """What the workers of its log tell each other; None in memory."""
        return None

    def tell_presence(self, into: PresenceHearer, name: str, event: str) -> None:
        """Publish in `into` how many subscribers the topic `name` has.

        Raises:
            Exception: as `Publisher.publish_soon`.
        """
        body = {"topic": name, "subscribers": self.fanout.count}
        into.publish_soon(Event(body, type=event, key=name))

    def total(self, into: PresenceHearer | None, name: str) -> int:
        """Return how many subscribers the topic has."""
        return self.fanout.count

    def log_statistics(self) -> LogStatistics | None:
        """Return what happened between this process and the log; None in memory."""
        return None
