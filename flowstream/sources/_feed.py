"""Feed: a source that has many clients at once, and hands each event to all of them.

A `Source` is run in a task for one client. A feed has no task a client: a stream subscribes,
and the feed puts events into its buffer, or has them written to its connection at once, from
whatever task publishes. What a client missed before it came is not pushed but pulled, by its
writer when it has time for it, so that nothing piles up between the two.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, Protocol

from flowstream._buffer import EventBuffer
from flowstream._closing import CloseReason
from flowstream._queue import Gap
from flowstream.abc import Encoder, Policy


class Sink(Protocol):
    """A stream, as a feed that it subscribed to knows it.

    Attributes:
        buffer: where events go.
        direct: writes bytes that are framed as an HTTP/1.1 chunk to the connection, if
            nobody else writes, and returns whether it did; None where that is impossible.
            For use while nothing is queued and the writer waits.
    """

    buffer: EventBuffer
    direct: Callable[[bytes], bool] | None

    def wrote(self, size: int, items: int) -> None:
        """Count what was written by `direct`."""

    def give_up(self) -> None:
        """End it: its client is too slow."""

    def fail(self, error: Exception) -> None:
        """End it: events cannot be made for it."""

    def close(self, reason: CloseReason) -> None:
        """End it when what is queued is written, for this reason."""

    def feed_ended(self) -> None:
        """End it when what is queued is written: no more events will come."""


class Subscriber(Protocol):
    """A stream's place in a feed.

    Attributes:
        leave: a function; after it is called no more events come. Can be called again.
    """

    leave: Callable[[], None]

    @property
    def behind(self) -> bool:
        """Whether there are events that the stream has to pull."""

    async def pull(self, limit: int) -> list[bytes | Gap]:
        """Return what follows, up to about `limit` bytes; **waits** only for a snapshot.

        Called by the writer when nothing is queued and `behind` is true.
        """


class Feed(abc.ABC):
    """A source with any number of clients."""

    @abc.abstractmethod
    def join(
        self,
        sink: Sink,
        encoder: Encoder | None,
        *,
        policy: Policy,
        after: str | None,
        where: Callable[[Any], object] | None,
        controls: bool,
    ) -> Subscriber:
        """Have `sink` get what is published from now on, and what it missed after `after`."""
