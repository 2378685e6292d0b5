"""The feed of a topic that is not bound yet: its log is found when a stream begins.

``sse(topic)`` may be written where the module is imported, long before the log of the app is open.
A stream that joined the topic's publisher of that moment would be in memory, and get nothing of
what is published in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flowstream.abc import Encoder
from flowstream.sources._feed import Feed, FeedCursor, FeedOrigin, SingleFeed, Subscriber, Terms
from flowstream.topics._app_log import has_log
from flowstream.topics._joined import Joined
from flowstream.topics._publisher import Publisher


class UnboundFeed(SingleFeed):
    """Stands for the publisher that a topic will have.

    Args:
        publisher: binds the topic, and returns its publisher.
    """

    def __init__(self, publisher: Callable[[], Publisher]) -> None:
        self._publisher = publisher

    def join(self, subscriber: Subscriber, encoder: Encoder | None, terms: Terms) -> FeedCursor:
        """Have `subscriber` get what is published in the topic.

        Raises:
            RuntimeError: the topic's log is not open.
        """
        return self._publisher().join(subscriber, encoder, terms)

    @property
    def is_shared(self) -> bool:
        """Whether the app has a log."""
        return has_log()

    @property
    def origin(self) -> FeedOrigin:
        """That of the topic, which is bound for it."""
        return self._publisher().origin

    def beside(self, others: Sequence[SingleFeed]) -> Feed:
        """Return a feed of this one and `others`."""
        return Joined([self, *others])
