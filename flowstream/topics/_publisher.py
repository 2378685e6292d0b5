"""The publisher: what a topic and a run have in common: a history and its readers.

An event is published when it enters the history. That is synchronous and can't be half done.
Delivery follows, in the order of the history.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import trio

from flowstream._clock import clock
from flowstream._closing import CloseReason
from flowstream._errors import outside_event_loop, unencodable
from flowstream._event import Event
from flowstream._live_stream import BufferStatistics
from flowstream.abc import Encoder, Policy
from flowstream.encoders import SSE
from flowstream.sources._feed import Ending, Feed, Subscriber, Terms
from flowstream.tasks._failure import passes
from flowstream.topics._cursor import Cursor
from flowstream.topics._fanout import Fanout
from flowstream.topics._history import History, Published, Replay
from flowstream.topics._joined import Joined
from flowstream.topics._snapshots import Snapshots

# Others run once in so many events that are published to few subscribers or none.
_BURST_EVENTS = 64

_DEFAULT_ENCODER = SSE()

# What an id that an event is yet to be given adds to its encoding, at the most.
_ID_BYTES = 64


class Publisher(Feed):
    """A history and its subscribers: the feed of a topic or a run.

    Args:
        name: for errors.
        replay: how much of the past is kept.
        changed: called with ``join`` and ``leave``.
        policy: what happens when a client's buffer is full, unless it is said for that client.
        from_beginning: a client that is new gets all that is kept of the past, where else it
            gets what comes from now on.

    Attributes:
        snapshots: where a subscriber's first event comes from; None if there is no such.
        published: events so far.
        last_publish: time of the last of them.
        ending: why it takes no more events, and the error that is the reason; None while it
            takes them.
        token: that of the Trio run that it was first used in, or None.
    """

    def __init__(
        self,
        name: str,
        replay: Replay,
        changed: Callable[[str], None],
        *,
        policy: Policy = Feed.policy,
        from_beginning: bool = False,
    ) -> None:
        self._name = name
        self.policy = policy
        self._from_beginning = from_beginning
        self.history: History = History(replay, clock.current_time)
        self.fanout: Fanout = Fanout(self.history, changed)
        self.snapshots: Snapshots | None = None
        self.published: int = 0
        self.last_publish: float = -math.inf
        self.ending: Ending | None = None
        self.token: trio.lowlevel.TrioToken | None = None

    # -- publishing ------------------------------------------------------------------------

    async def publish(self, event: Event) -> str:
        """Publish `event`, **wait** until every subscriber was handed it, and return its id.

        Raises:
            EncodingError: no format of the subscribers can carry it (SSE, if there are none).
                Nothing is published.
            trio.ClosedResourceError: no more events are taken.
            RuntimeError: Trio does not run here.
            ValueError: its id is one that it can't have.
            TypeError: its key can't be hashed.
        """
        readers = self.fanout.readers
        if readers.members and readers.behind:
            await self._wait_for_readers(event)
        published = self._commit(event)
        if self.fanout.count:
            await self.fanout.deliver(published.number)
        else:
            self.history.delivered = self.history.head
        if self.published % _BURST_EVENTS == 0:
            await trio.lowlevel.checkpoint()
        return published.id

    def publish_nowait(self, event: Event) -> str:
        """Publish `event` without waiting, and return its id.

        Raises:
            Exception: as `publish`, and
            trio.WouldBlock: a subscriber that is waited for has no room.
        """
        published = self._commit(event, nowait=True)
        if self.fanout.count:
            self.fanout.deliver_nowait()
        else:
            self.history.delivered = self.history.head
        return published.id

    def publish_soon(self, event: Event) -> None:
        """Publish an event that nobody waits for: who has no room is waited for elsewhere."""
        self._commit(event)
        self.fanout.assist()

    def _commit(self, event: Event, *, nowait: bool = False) -> Published:
        if self.ending is not None:
            raise trio.ClosedResourceError(f"{self._name} takes no more events")
        history = self.history
        hash(event.key)  # before anything is done: what is kept by key needs it
        try:
            self._remember_run()
            published = history.make(event)  # asks Trio for the time
        except RuntimeError:
            if trio.lowlevel.in_trio_run():
                raise
            raise outside_event_loop(self._name, used=self.token is not None) from None
        encoder = self.fanout.encoder or _DEFAULT_ENCODER
        try:
            published.encoded(encoder)
        except BaseException as error:  # noqa: ASYNC103  # see `passes`
            if passes(error):
                raise
            if not self._is_carried_elsewhere(published, encoder):
                raise unencodable(event.data, error) from error  # noqa: ASYNC104  # see `passes`
        if nowait and self.fanout.full(published.weight):
            raise trio.WouldBlock
        history.append(published)
        self.published += 1
        self.last_publish = published.stamp
        if self.snapshots is not None:
            self.snapshots.published(published)
        return published

    async def _wait_for_readers(self, event: Event) -> None:
        """**Wait** until nobody that is waited for would lose anything to `event`."""
        size = _ID_BYTES
        encoder = self.fanout.encoder or _DEFAULT_ENCODER
        try:
            size += len(Published(0, event, 0.0).encode(encoder))
        except BaseException as error:  # noqa: ASYNC103  # see `passes`
            if passes(error):
                raise
            # `_commit` says what is wrong with it.
        await self.fanout.readers.wait(size)

    def _is_carried_elsewhere(self, published: Published, but: Encoder) -> bool:
        """Return whether a format other than `but` can carry an event that somebody may get."""
        for encoder in self.fanout.encoders:
            encoder = encoder or _DEFAULT_ENCODER
            if encoder != but:
                try:
                    published.encoded(encoder)
                except BaseException as error:  # noqa: ASYNC103  # see `passes`
                    if passes(error):
                        raise
                else:
                    return True
        return False

    # -- subscribing -----------------------------------------------------------------------

    def join(self, subscriber: Subscriber, encoder: Encoder | None, terms: Terms) -> Cursor:
        """Have `subscriber` get what is published from now on, and what it missed."""
        self._remember_run()
        if self._from_beginning:
            terms = replace(terms, from_beginning=True)
        cursor = Cursor(self.history, self.fanout, self.snapshots, subscriber, encoder, terms)
        if self.ending is not None:
            subscriber.feed_ended(*self.ending)
        return cursor

    @property
    def epoch(self) -> str:
        """What the ids that it makes begin with."""
        return self.history.epoch

    def beside(self, others: Sequence[Feed]) -> Feed:
        """Return a feed of this one and `others`, for one connection."""
        return Joined([self, *others])

    def _remember_run(self) -> None:
        if self.token is None:
            self.token = trio.lowlevel.current_trio_token()

    # -- the end ---------------------------------------------------------------------------

    async def finish(
        self,
        reason: CloseReason = CloseReason.COMPLETED,
        error: BaseException | None = None,
        detail: str = "",
    ) -> None:
        """Take no more events; subscribers get what they have not got yet, and end.

        **Waits** until what was published is delivered.
        """
        self.ending = (reason, error, detail)
        try:
            await self.fanout.deliver(self.history.head)
        finally:  # cancelled, too: who is told nothing would wait for ever
            for member in self.fanout.members():
                if member.number < self.history.head:
                    member.put_behind()
                member.subscriber.feed_ended(reason, error, detail)

    def statistics(self, offered: int, *, dropped: int) -> BufferStatistics:
        """Return how full the replay is, with the counts of what fills it."""
        history = self.history
        return BufferStatistics(
            items=history.items,
            bytes=history.size,
            max_items=history.replay.items,
            max_bytes=history.replay.bytes,
            offered=offered,
            dropped=dropped,
            gaps=0,
        )

    def close(self, reason: CloseReason, detail: str = "") -> None:
        """Take no more events, and end the subscribers at once."""
        self.ending = (reason, None, detail)
        for member in self.fanout.members():
            member.subscriber.close(reason, detail)
