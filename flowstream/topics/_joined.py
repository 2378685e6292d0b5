"""Several topics on one connection, because a browser opens only six connections to a host.

Each event's id has the positions in all topics, so that one ``Last-Event-ID`` resumes them all
(`flowstream/ids/_joined_id.py`). The ids differ between clients, so the bytes are made for each
client.

An id says "you have everything up to here", for every topic. So an event must come after all events
that its id claims: while the past of one topic is read, the others push nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from flowstream._closing import CloseReason
from flowstream.abc import Encoder
from flowstream.buffer._queue import Gap, Slice
from flowstream.ids._event_id import lost_id
from flowstream.ids._joined_id import join_parts, part_of, split_joined
from flowstream.sources._feed import (
    Ending,
    Feed,
    FeedCursor,
    ForwardingSubscriber,
    SingleFeed,
    Subscriber,
    Terms,
)


class Joined(Feed):
    """Several feeds as one.

    Args:
        feeds: the feeds. One that is given twice counts once.
    """

    def __init__(self, feeds: Sequence[SingleFeed]) -> None:
        self._feeds = list(feeds)
        # One buffer has one policy. If one feed must lose nothing, none does.
        self.policy = next((feed.policy for feed in feeds if feed.policy.rereads), Feed.policy)

    @property
    def is_shared(self) -> bool:
        """Whether that is true of each feed."""
        return all(feed.is_shared for feed in self._feeds)

    def join(self, subscriber: Subscriber, encoder: Encoder | None, terms: Terms) -> FeedCursor:
        """Give `subscriber` the events of all feeds."""
        # Only now: to ask a topic that was opened by name for its origin makes the topic.
        distinct = {feed.origin: feed for feed in reversed(self._feeds)}
        return _JoinedCursor(list(distinct.values())[::-1], subscriber, encoder, terms)


class _JoinedCursor:
    """One stream's places in several feeds."""

    def __init__(
        self,
        feeds: list[SingleFeed],
        subscriber: Subscriber,
        encoder: Encoder | None,
        terms: Terms,
    ) -> None:
        places = [feed.origin.place for feed in feeds]
        self._tags = [place.tag for place in places]
        self._open = len(feeds)
        # The ending of the first feed that ended without being complete.
        self._ending: Ending = (CloseReason.COMPLETED, None, "")
        self._subscriber = subscriber
        self._turn = 0  # the index of the cursor that is tried first
        self._cursors: list[FeedCursor] = []
        try:
            for index, (feed, own) in enumerate(
                zip(feeds, split_joined(terms.after, places), strict=True)
            ):
                name = self._namer(index)
                self._cursors.append(
                    feed.join(
                        _Part(subscriber, self._ended),
                        None if encoder is None else _Renaming(encoder, name),
                        replace(terms, after=own, name=name),
                    )
                )
        except BaseException:
            self.leave()
            raise
        # The id before a gap at the very beginning, if one of its positions is known here.
        unknown = {None, *(lost_id(place.epoch) for place in places)}
        known = {cursor.position for cursor in self._cursors} - unknown
        subscriber.buffer.queue.pass_by(
            0, self.position if known and terms.after is not None else None
        )
        if self.waits:  # an id must not be given before each topic has its place
            self.fall_behind()

    @property
    def behind(self) -> bool:
        """Whether any feed has events to pull."""
        return any(cursor.behind for cursor in self._cursors)

    @property
    def waits(self) -> bool:
        """Whether `pull` would wait for a snapshot that the app makes."""
        return any(cursor.behind and cursor.waits for cursor in self._cursors)

    async def prepare(self) -> None:
        """**Wait** until `pull` would not wait. As in `pull`, nothing is pushed meanwhile."""
        self.fall_behind()
        for index, cursor in enumerate(self._cursors):
            if cursor.behind and cursor.waits:
                await cursor.prepare()
                self._turn = index - 1  # it is the next one to be pulled

    def lacks(self) -> int | None:
        """Return how many events of all feeds are still to be pulled; None if unknown."""
        lacking = [cursor.lacks() for cursor in self._cursors]
        return None if None in lacking else sum(number or 0 for number in lacking)

    @property
    def position(self) -> str:
        """The id that resumes all feeds here."""
        return self._join(None, "")

    def tally(self) -> None:
        """Make the stream count what was written directly to its connection."""
        for cursor in self._cursors:
            cursor.tally()

    async def pull(self, limit: int) -> list[bytes | Gap | Slice]:
        """Return the next events of a feed that is behind. The feeds take turns."""
        self._turn = (self._turn + 1) % len(self._cursors)
        for cursor in [*self._cursors[self._turn :], *self._cursors[: self._turn]]:
            if cursor.behind:
                self.fall_behind()
                try:
                    return await cursor.pull(limit)
                finally:
                    self.catch_up()
        return []

    def fall_behind(self) -> None:
        """Stop all feeds from pushing, until the stream has pulled."""
        for cursor in self._cursors:
            cursor.fall_behind()

    def catch_up(self) -> None:
        """Let those feeds push again that have nothing to pull."""
        for cursor in self._cursors:
            cursor.catch_up()

    def leave(self) -> None:
        """Leave all feeds."""
        for cursor in self._cursors:
            cursor.leave()

    def _namer(self, index: int) -> Callable[[str], str]:
        return lambda id: self._join(index, id)

    def _join(self, index: int | None, id: str) -> str:
        """Return the joined id of all positions, with `id` for the feed at `index`."""
        return join_parts(
            part_of(self._tags[number], id if number == index else cursor.position)
            for number, cursor in enumerate(self._cursors)
        )

    def _ended(self, ending: Ending) -> None:
        self._open -= 1
        if self._ending[0] is CloseReason.COMPLETED:
            self._ending = ending
        if not self._open:
            self._subscriber.feed_ended(*self._ending)


class _Part(ForwardingSubscriber):
    """The stream, as one of several feeds sees it.

    One feed may end the stream though the others go on, because it lacks what it was asked for.
    A feed that is complete ends the stream only if it is the last one.
    """

    def __init__(self, subscriber: Subscriber, ended: Callable[[Ending], None]) -> None:
        super().__init__(subscriber)
        self._has_ended = False
        self._tell_ended = ended

    def feed_ended(
        self,
        reason: CloseReason = CloseReason.COMPLETED,
        error: BaseException | None = None,
        detail: str = "",
    ) -> None:
        """End the stream if the others have ended, too."""
        if not self._has_ended:
            self._has_ended = True
            self._tell_ended((reason, error, detail))


class _Renaming(Encoder):
    """An encoder that puts all positions into the id. It belongs to one stream."""

    def __init__(self, encoder: Encoder, name: Callable[[str], str]) -> None:
        self._encoder = encoder
        self._name = name

    def start(self) -> Encoder:
        """Return a new one: nobody may share the bytes that this one writes."""
        return _Renaming(self._encoder, self._name)

    def encode(
        self,
        data: Any,
        *,
        id: str | None = None,
        type: str | None = None,
        key: object = None,
        retry: int | None = None,
    ) -> bytes:
        """Return the event's bytes; its id is the joined id of all positions."""
        named = None if id is None else self._name(id)
        return self._encoder.encode(data, id=named, type=type, key=key, retry=retry)

    def control(
        self, name: str, body: Any, *, id: str | None = None, retry: int | None = None
    ) -> bytes:
        """Return a control event's bytes, with such an id."""
        named = None if id is None else self._name(id)
        return self._encoder.control(name, body, id=named, retry=retry)
