"""Feed: a source with many clients at once, which hands each event to all of them.

A `Source` runs in a task for one client. A feed needs no task for a client: a stream subscribes,
and the task that publishes puts events into the stream's buffer, or writes them to its connection
at once. What a client missed before it came is not pushed. Its writer pulls it when it has time,
so that nothing piles up in between.

Topics and runs are not feeds; each has one (`HasFeed`). So the methods that a feed and its streams
call are not among those that an app sees.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flowstream._closing import CloseReason
from flowstream.abc import Encoder, Policy
from flowstream.buffer._event_buffer import EventBuffer
from flowstream.buffer._queue import Gap
from flowstream.framing import Framing
from flowstream.policies import DropOldest

Ending = tuple[CloseReason, BaseException | None, str]
"""Why a feed has ended, the error that is why, and the cause: see `Subscriber.feed_ended`."""


class Subscriber(Protocol):
    """A stream, as a feed that it subscribed to knows it.

    Attributes:
        buffer: where events go.
        framing: how bytes are to be framed for `direct`; None where that is impossible.
        direct: writes framed bytes to the connection, if nobody else writes, and returns
            whether it did; None where that is impossible, and as long as that is not known.
            For use while nothing is queued and the writer waits.
    """

    buffer: EventBuffer

    @property
    def framing(self) -> Framing | None:
        """How bytes are framed for `direct`: the same as long as the stream lasts."""

    @property
    def direct(self) -> Callable[[bytes], bool] | None:
        """Writes to the connection; None where that is impossible."""

    def wrote(self, size: int, items: int, at: float) -> None:
        """Count what was written by `direct`, at the latest at time `at`; see `tally`."""

    def give_up(self) -> None:
        """End it: its client is too slow."""

    def fail(self, error: BaseException) -> None:
        """End it: events cannot be made for it."""

    def close(self, reason: CloseReason, detail: str = "") -> None:
        """End it when what is queued is written, for this reason and cause."""

    def feed_ended(
        self,
        reason: CloseReason = CloseReason.COMPLETED,
        error: BaseException | None = None,
        detail: str = "",
    ) -> None:
        """End it when it was given all there is: no more events will come.

        Args:
            reason: why not.
            error: what failed, where that is why; it is in the log already.
            detail: the cause, for its report.
        """


class ForwardingSubscriber:
    """A subscriber that hands on all that it hears to another one.

    Args:
        subscriber: the other one.
    """

    def __init__(self, subscriber: Subscriber) -> None:
        self._subscriber = subscriber
        self.buffer: EventBuffer = subscriber.buffer
        self.framing: Framing | None = subscriber.framing

    @property
    def direct(self) -> Callable[[bytes], bool] | None:
        """Writes to the connection; None where that is impossible."""
        return self._subscriber.direct

    def wrote(self, size: int, items: int, at: float) -> None:
        """Count what was written by `direct`."""
        self._subscriber.wrote(size, items, at)

    def give_up(self) -> None:
        """End it: its client is too slow."""
        self._subscriber.give_up()

    def fail(self, error: BaseException) -> None:
        """End it: events cannot be made for it."""
        self._subscriber.fail(error)

    def close(self, reason: CloseReason, detail: str = "") -> None:
        """End it when what is queued is written."""
        self._subscriber.close(reason, detail)

    def feed_ended(
        self,
        reason: CloseReason = CloseReason.COMPLETED,
        error: BaseException | None = None,
        detail: str = "",
    ) -> None:
        """End it when it was given all there is."""
        self._subscriber.feed_ended(reason, error, detail)


class FeedCursor(Protocol):
    """A stream's place in a feed."""

    @property
    def behind(self) -> bool:
        """Whether there are events that the stream has to pull."""
        ...

    @property
    def waits(self) -> bool:
        """Whether `pull` would wait for what an app makes: a snapshot."""
        ...

    async def prepare(self) -> None:
        """**Wait** until `pull` need not.

        Raises:
            Exception: as `pull`.
        """

    def lacks(self) -> int | None:
        """Return how many events the stream has yet to pull; None if that can't be known."""
        ...

    @property
    def position(self) -> str | None:
        """The id that a client would come back with, if it has got all that was handed on.

        None if it would come back as new.
        """

    def fall_behind(self) -> None:
        """Have nothing pushed until it was pulled, or `catch_up` is called."""

    def catch_up(self) -> None:
        """Have events pushed again, unless there are some to be pulled."""

    def tally(self) -> None:
        """Have the stream count what was written directly to its connection.

        It is not told of each write: this is to be called before its counts are looked at.
        """

    async def pull(self, limit: int) -> list[bytes | Gap]:
        """Return what follows, up to about `limit` bytes; **waits** only for a snapshot.

        Called by the writer when nothing is queued and `behind` is true.
        """
        ...

    def leave(self) -> None:
        """Get no more events. Can be called again."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a stream is to get of a feed."""

    policy: Policy
    """That of its buffer."""
    after: str | None
    """The id that its client saw last, or None for a client that is new."""
    where: Callable[[Any], object] | None
    """Which events it wants, or None for all."""
    controls: bool
    """Whether a snapshot goes as a control event, or as an event of the app's."""
    name: Callable[[str], str] | None = None
    """Makes the ids that its client sees of the feed's own, if they differ."""
    from_beginning: bool = False
    """Whether a client that is new, or whose place is unknown, gets all that is kept of the
    past, where else it gets what comes from now on."""
    left: Callable[[], None] | None = None
    """Called when the stream leaves the feed; it may be called more than once."""


class Feeds:
    """What holds feeds by name. It is none itself, although Python can iterate it: a stream of it
    would tell a client all names, and whoever knows that of a run may read the run.

    Attributes:
        _one: how to get one of them, for an error.
    """

    _one: str


class Feed(abc.ABC):
    """A source with any number of clients."""

    policy: Policy = DropOldest()
    """What happens when a client's buffer is full, unless it is said for that client."""

    @abc.abstractmethod
    def join(self, subscriber: Subscriber, encoder: Encoder | None, terms: Terms) -> FeedCursor:
        """Have `subscriber` get what is published from now on, and what it missed.

        Args:
            subscriber: the stream.
            encoder: makes its bytes; None if it takes the events themselves.
            terms: what it is to get.
        """

    @property
    @abc.abstractmethod
    def epoch(self) -> str:
        """What the ids that it makes begin with, and those of no other feed."""

    @abc.abstractmethod
    def beside(self, others: Sequence[Feed]) -> Feed:
        """Return a feed of this one and `others`, for one connection."""


class HasFeed(abc.ABC):
    """What an app hands over to stream it to any number of clients: a topic, a run."""

    @property
    @abc.abstractmethod
    def _feed(self) -> Feed:
        """What its streams subscribe to."""
