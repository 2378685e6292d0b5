"""Feed: a source with many clients at once, which gives each event to all of them.

A `Source` runs in a task for one client. A feed needs no task for a client: a stream subscribes,
and the task that publishes puts events into the stream's buffer, or writes them directly to its
connection. Events from before a client came are not pushed. The client's writer pulls them when it
has time, so that nothing piles up in between.

Topics and runs are not feeds; each has one (`HasFeed`). So an app does not see the methods that a
feed and its streams call.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flowstream._closing import CloseReason
from flowstream.abc import Encoder, Policy
from flowstream.buffer._event_buffer import EventBuffer
from flowstream.buffer._queue import Gap, Slice
from flowstream.framing import Framing
from flowstream.ids._joined_id import Place
from flowstream.policies import DropOldest

Ending = tuple[CloseReason, BaseException | None, str]
"""Why a feed has ended: the reason, its error and its cause; see `Subscriber.feed_ended`."""


class Subscriber(Protocol):
    """A stream, as the feed that it has subscribed to sees it.

    Attributes:
        buffer: where events go.
        framing: how to frame bytes for `direct`; None if direct writes are impossible.
        direct: writes framed bytes to the connection if nobody else writes, and returns
            whether it did; None if that is impossible, or not known yet. Call it only while
            nothing is queued and the writer waits.
    """

    buffer: EventBuffer

    @property
    def framing(self) -> Framing | None:
        """How bytes are framed for `direct`: the same as long as the stream lasts."""

    @property
    def direct(self) -> Callable[[bytes], bool] | None:
        """Writes to the connection; None if that is impossible."""

    def wrote(self, size: int, items: int, at: float) -> None:
        """Count what `direct` has written, the last of it at time `at`; see `tally`."""

    def give_up(self) -> None:
        """End the stream: its client is too slow."""

    def fail(self, error: BaseException) -> None:
        """End the stream: its events cannot be made."""

    def close(self, reason: CloseReason, detail: str = "") -> None:
        """End the stream, with this reason and cause, when the queued events are written."""

    def feed_ended(
        self,
        reason: CloseReason = CloseReason.COMPLETED,
        error: BaseException | None = None,
        detail: str = "",
    ) -> None:
        """End the stream when it has got all events: no more will come.

        Args:
            reason: why no more come.
            error: the failure, if that is the reason. It is in the log already.
            detail: the cause, for the stream's report.
        """


class ForwardingSubscriber:
    """A subscriber that passes every call on to another one.

    Args:
        subscriber: the other one.
    """

    def __init__(self, subscriber: Subscriber) -> None:
        self._subscriber = subscriber
        self.buffer: EventBuffer = subscriber.buffer
        self.framing: Framing | None = subscriber.framing

    @property
    def direct(self) -> Callable[[bytes], bool] | None:
        """Writes to the connection; None if that is impossible."""
        return self._subscriber.direct

    def wrote(self, size: int, items: int, at: float) -> None:
        """Count what `direct` has written."""
        self._subscriber.wrote(size, items, at)

    def give_up(self) -> None:
        """End the stream: its client is too slow."""
        self._subscriber.give_up()

    def fail(self, error: BaseException) -> None:
        """End the stream: its events cannot be made."""
        self._subscriber.fail(error)

    def close(self, reason: CloseReason, detail: str = "") -> None:
        """End the stream when the queued events are written."""
        self._subscriber.close(reason, detail)

    def feed_ended(
        self,
        reason: CloseReason = CloseReason.COMPLETED,
        error: BaseException | None = None,
        detail: str = "",
    ) -> None:
        """End the stream when it has got all events."""
        self._subscriber.feed_ended(reason, error, detail)


class FeedCursor(Protocol):
    """A stream's place in a feed."""

    @property
    def behind(self) -> bool:
        """Whether there are events that the stream has to pull."""
        ...

    @property
    def waits(self) -> bool:
        """Whether `pull` would wait for a snapshot that an app makes."""
        ...

    async def prepare(self) -> None:
        """**Wait** until `pull` would not wait.

        Raises:
            Exception: as `pull`.
        """

    def lacks(self) -> int | None:
        """Return how many events the stream still has to pull; None if that is unknown."""
        ...

    @property
    def position(self) -> str | None:
        """The id that a client comes back with if it has got all events that were passed on.

        None if it would come back as new.
        """

    def fall_behind(self) -> None:
        """Stop the feed from pushing, until the stream has pulled, or calls `catch_up`."""

    def catch_up(self) -> None:
        """Let the feed push again, unless there are events to pull."""

    def tally(self) -> None:
        """Make the stream count what was written directly to its connection.

        The stream is not told of each write. So call this before you read its counts.
        """

    async def pull(self, limit: int) -> list[bytes | Gap | Slice]:
        """Return the next events, up to about `limit` bytes. **Waits** only for a snapshot.

        They are one piece each, or all together one `Slice`.

        The writer calls it when nothing is queued and `behind` is true.
        """
        ...

    def leave(self) -> None:
        """Get no more events. Can be called again."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a stream asks of a feed."""

    policy: Policy
    """The policy of its buffer."""
    after: str | None
    """The last id that its client saw; None for a new client."""
    where: Callable[[Any], object] | None
    """Returns whether the stream wants an event; None for all."""
    controls: bool
    """Whether a snapshot is sent as a control event; if not, as an event of the app."""
    name: Callable[[str], str] | None = None
    """Turns the feed's own ids into those that the client sees, if they differ."""
    from_beginning: bool = False
    """Whether a client that is new, or whose place is unknown, gets the whole past that is kept. If
    not, it gets only new events."""
    left: Callable[[], None] | None = None
    """Called when the stream leaves the feed, perhaps more than once."""


class Feeds:
    """Holds feeds by name: `Topics`, `Runs`. It is not a source, though Python can iterate it.

    A stream of it would tell a client all names, and a client that knows a run's name may read it.

    Attributes:
        _one: how to get one feed, for an error's message.
    """

    _one: str


class FeedOrigin(Protocol):
    """What makes the ids of a feed's events. Feeds with the same one have the same events."""

    @property
    def place(self) -> Place:
        """How it is known in the joined id of several feeds."""
        ...


class Feed(abc.ABC):
    """A source with any number of clients."""

    policy: Policy = DropOldest()
    """What happens when a client's buffer is full, unless the client's stream says otherwise."""

    @property
    def is_shared(self) -> bool:
        """Whether clients of other processes get the same events: they are in a durable log."""
        return False

    @abc.abstractmethod
    def join(self, subscriber: Subscriber, encoder: Encoder | None, terms: Terms) -> FeedCursor:
        """Give `subscriber` all events from now on, and those that it missed.

        Args:
            subscriber: the stream.
            encoder: makes its bytes; None if it takes the events themselves.
            terms: what the stream asks for.
        """


class SingleFeed(Feed):
    """The feed of one topic or run, which may stand beside others on one connection."""

    @property
    @abc.abstractmethod
    def origin(self) -> FeedOrigin:
        """What makes its ids. Only this tells feeds apart: their names and epochs may be equal."""

    @abc.abstractmethod
    def beside(self, others: Sequence[SingleFeed]) -> Feed:
        """Return a feed of this one and `others`, for one connection."""


class HasFeed(abc.ABC):
    """A topic or a run, which an app passes to be streamed to any number of clients."""

    @property
    @abc.abstractmethod
    def _feed(self) -> SingleFeed:
        """The feed that its streams subscribe to."""
