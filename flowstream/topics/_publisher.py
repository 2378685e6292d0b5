"""The publisher: the common part of a topic and a run: a history and its readers.

An event is published when it enters the history. That happens in one synchronous step. Delivery
follows, in the order of the history.

Here the history is the log: it is in memory. A publisher whose events are in a log that outlives
the process overrides what decides that an event is published, and nothing else: `publish`,
`publish_many`, `publish_soon`, `publish_nowait` and `position`.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import trio

from flowstream._clock import clock
from flowstream._closing import CloseReason
from flowstream._errors import event_in_event, outside_event_loop, unencodable
from flowstream._event import Event
from flowstream._live_stream import BufferStatistics
from flowstream.abc import Encoder, Policy
from flowstream.encoders import SSE
from flowstream.ids._event_id import event_id
from flowstream.ids._joined_id import Place, name_tag
from flowstream.limits import Replay
from flowstream.logs._append_arguments import check_idempotency
from flowstream.logs._idempotency_keys import IdempotencyKeys
from flowstream.sources._feed import Ending, Feed, SingleFeed, Subscriber, Terms
from flowstream.tasks._failure import passes
from flowstream.topics._cursor import Cursor
from flowstream.topics._fanout import Fanout
from flowstream.topics._history import History
from flowstream.topics._joined import Joined
from flowstream.topics._publish_arguments import MOST_BYTES, check_many
from flowstream.topics._published import Published
from flowstream.topics._single_process import SingleProcess
from flowstream.topics._snapshots import FromApp, KeptByKey, LatestByKey, Snapshots

# After this many events for few subscribers or none, other tasks run once.
_BURST_EVENTS = 64

_DEFAULT_ENCODER = SSE()


# The most bytes that a new id adds to an event's encoding.
_ID_BYTES = 64

# Characters of a name in the log: a client may have sent it.
_NAME_LENGTH = 100


class Publisher(SingleProcess, SingleFeed):
    """A history and its subscribers: the feed of a topic or a run.

    Args:
        kind: what it publishes for, ``topic`` or ``run``.
        key: what that is known by among its kind.
        replay: how much of the past is kept.
        changed: called with ``join`` and ``leave``.
        policy: what happens when a client's buffer is full, unless its stream says otherwise.
        from_beginning: whether a new client gets the whole past that is kept; if not, it gets only
            new events.
        history: what it publishes into; by default a new one.

    Attributes:
        snapshots: makes the snapshots; None if there are none.
        published: how many events were published.
        last_publish: when the last one was.
        ending: why it takes no more events, with the error; None while it takes them.
        token: the token of the Trio run in which it was first used, or None.
        in_log: whether its events are in a log that outlives the process.
    """

    in_log: bool = False

    def __init__(
        self,
        kind: Literal["topic", "run"],
        key: object,
        replay: Replay,
        changed: Callable[[str], None],
        *,
        policy: Policy = Feed.policy,
        from_beginning: bool = False,
        history: History | None = None,
    ) -> None:
        self._kind = kind
        self._key = key
        self.policy = policy
        self._from_beginning = from_beginning
        self.history: History = history or History(replay, clock.current_time)
        self.fanout: Fanout = Fanout(self.history, changed)
        self.snapshots: Snapshots | None = None
        self.published: int = 0
        self.last_publish: float = -math.inf
        self.ending: Ending | None = None
        self.token: trio.lowlevel.TrioToken | None = None
        self._keys: IdempotencyKeys[str] | None = None

    # -- publishing ------------------------------------------------------------------------

    async def publish(
        self,
        event: Event,
        idempotency_key: str | None = None,
        idempotency_seconds: float = 300.0,
    ) -> str:
        """Publish `event`, **wait** until every subscriber was handed it, and return its id.

        If an event was published with the same idempotency key, and the key is still remembered,
        this publishes nothing and returns the id of that event.

        Raises:
            LogFullError: there are too many idempotency keys. Nothing is published.
            EncodingError: no format of the subscribers can carry it (SSE, if there are none).
                Nothing is published.
            trio.ClosedResourceError: it takes no more events.
            RuntimeError: Trio does not run here.
            ValueError: the event can't have this id.
            TypeError: its key can't be hashed, or its data is an `Event`.
        """
        if idempotency_key is not None:
            check_idempotency(idempotency_key, idempotency_seconds)
        readers = self.fanout.readers
        if readers.members and readers.behind:
            await self._wait_for_readers([event])
        if idempotency_key is None:
            published = self._commit(event)
        else:
            known = self._find_key(idempotency_key)
            if known is not None:
                await trio.lowlevel.checkpoint()
                return known
            published = self._commit(event)
            assert self._keys is not None  # `_find_key` has made it
            until = published.stamp + idempotency_seconds
            self._keys.remember(idempotency_key, published.id, until)
        if self.fanout.count:
            await self.fanout.deliver(published.number)
        else:
            self.history.delivered = self.history.head
        if self.published % _BURST_EVENTS == 0:
            await trio.lowlevel.checkpoint()
        return published.id

    async def publish_many(self, events: Sequence[Event]) -> list[str]:
        """Publish all `events`, one behind the other, or none; return their ids.

        **Waits** until every subscriber was handed them.

        Raises:
            ValueError: they are too many, or have too many bytes, or as `publish`.
            Exception: as `publish`.
        """
        check_many(events)
        fanout, history = self.fanout, self.history
        if fanout.readers.members and fanout.readers.behind:
            await self._wait_for_readers(events)
        if fanout.count:
            # What is not delivered is kept up to a bound, and these need it all.
            while history.delivered < history.head:
                await fanout.deliver(history.head)
        made = [self._make(event, ahead) for ahead, event in enumerate(events)]
        size = sum(published.size for published in made)
        if size > max(MOST_BYTES, history.replay.bytes) and len(made) > 1:
            raise ValueError(
                f"the events have {size:,} bytes, and may have {MOST_BYTES:,}, or Replay.bytes if "
                "that is more: publish fewer at once"
            )
        for published in made:
            self._append(published)
        if fanout.count:
            await fanout.deliver(history.head)
        else:
            history.delivered = history.head
            await trio.lowlevel.checkpoint()
        return [published.id for published in made]

    def publish_nowait(self, event: Event) -> str:
        """Publish `event` without waiting, and return its id.

        Raises:
            Exception: as `publish`, and
            trio.WouldBlock: a subscriber for which a publisher waits has no room.
        """
        published = self._commit(event, self.fanout.full)
        if self.fanout.count:
            self.fanout.deliver_nowait()
        else:
            self.history.delivered = self.history.head
        return published.id

    def publish_soon(
        self, event: Event, on_lost: Callable[[Event, Exception], object] | None = None
    ) -> None:
        """Publish an event without waiting; a task delivers it.

        `on_lost` is called if the event is lost after all, which can't happen in memory.

        Raises:
            trio.WouldBlock: as many events as are held for sure wait to be delivered. This one is
                not published.
            Exception: as `publish`.
        """
        self._commit(event, self.history.is_full)
        if self.fanout.count:
            self.fanout.assist()
        else:
            self.history.delivered = self.history.head

    async def position(self) -> str:
        """Return the id of the newest event; before the first, the place where that will follow."""
        await trio.lowlevel.checkpoint()
        # In the own form, also for an event with an id of the app's, which may be used again.
        return event_id(self.history.epoch, self.history.head)

    def _commit(self, event: Event, full: Callable[[int], bool] | None = None) -> Published:
        published = self._make(event)
        if full is not None and full(published.size):
            raise trio.WouldBlock
        self._append(published)
        return published

    def _make(self, event: Event, ahead: int = 0) -> Published:
        """Return an event to be appended behind `ahead` others, encoded in one format."""
        if self.ending is not None:
            raise trio.ClosedResourceError(f"{self.name} takes no more events")
        hash(event.key)  # first of all: `LatestByKey` needs it
        try:
            self._remember_run()
            published = self.history.make(event, ahead)  # asks Trio for the time
        except RuntimeError:
            if trio.lowlevel.in_trio_run():
                raise
            raise outside_event_loop(self.name, used=self.token is not None) from None
        encoder = self.fanout.encoder or _DEFAULT_ENCODER
        try:
            published.encode_first(encoder)
        except BaseException as error:  # noqa: ASYNC103  # see `passes`
            if passes(error):
                raise
            if isinstance(event.data, Event):
                raise event_in_event() from None  # noqa: ASYNC104  # see `passes`
            if not self._is_carried_elsewhere(published, encoder):
                raise unencodable(event.data, error) from error  # noqa: ASYNC104  # see `passes`
        return published

    def _append(self, published: Published) -> None:
        self.history.append(published)
        self.published += 1
        self.last_publish = published.stamp
        if self.snapshots is not None:
            self.snapshots.published(published)

    def _find_key(self, key: str) -> str | None:
        """Return the id of the event that was published with this idempotency key, if any.

        Raises:
            LogFullError: there is none, and no room to remember this one.
        """
        try:
            self._remember_run()
        except RuntimeError:
            raise outside_event_loop(self.name, used=self.token is not None) from None
        if self._keys is None:
            self._keys = IdempotencyKeys()
        now = clock.current_time()
        found = self._keys.find(key, now)
        if found is None:
            self._keys.check_room(self.name, now)
        return found

    async def _wait_for_readers(self, events: Iterable[Event]) -> None:
        """**Wait** until `events` have room with every subscriber for which a publisher waits."""
        size = 0
        encoder = self.fanout.encoder or _DEFAULT_ENCODER
        for event in events:
            size += _ID_BYTES
            try:
                size += len(Published(0, event, 0.0).encode(encoder))
            except BaseException as error:  # noqa: ASYNC103  # see `passes`
                if passes(error):
                    raise
                # `_make` says what is wrong with it.
        await self.fanout.readers.wait(size)

    def _is_carried_elsewhere(self, published: Published, but: Encoder) -> bool:
        """Return whether a format of the subscribers, other than `but`, can carry the event."""
        for encoder in self.fanout.encoders:
            encoder = encoder or _DEFAULT_ENCODER
            if encoder != but:
                try:
                    published.encode_first(encoder)
                except BaseException as error:  # noqa: ASYNC103  # see `passes`
                    if passes(error):
                        raise
                else:
                    return True
        return False

    # -- snapshots -------------------------------------------------------------------------

    def keep_by_key(self, bounds: LatestByKey, name: str) -> None:
        """Make a new client's snapshot from the newest event of each key."""
        self.snapshots = KeptByKey(self.history, bounds, name)

    def ask_for_snapshots(self, function: Callable[[], Awaitable[Any]], timeout: float) -> None:
        """Have `function` make snapshots; it may take `timeout` seconds."""
        self.snapshots = FromApp(self.history, function, timeout)

    # -- subscribing -----------------------------------------------------------------------

    def join(self, subscriber: Subscriber, encoder: Encoder | None, terms: Terms) -> Cursor:
        """Give `subscriber` all events from now on, and those that it missed."""
        self._remember_run()
        if self._from_beginning:
            terms = replace(terms, from_beginning=True)
        cursor = Cursor(self.history, self.fanout, self.snapshots, subscriber, encoder, terms)
        if self.ending is not None:
            subscriber.feed_ended(*self.ending)
        return cursor

    @property
    def name(self) -> str:
        """What it publishes for, for the log and for errors."""
        text = repr(self._key)
        if len(text) > _NAME_LENGTH:
            text = f"{text[:_NAME_LENGTH]}..."
        return f"the {self._kind} {text}"

    @property
    def is_shared(self) -> bool:
        """Whether its events are in a log that outlives the process."""
        return self.in_log

    @property
    def origin(self) -> Publisher:
        """Itself."""
        return self

    @property
    def place(self) -> Place:
        """How it is known in the joined id of several feeds."""
        key = self._key if isinstance(self._key, str) else repr(self._key)
        return Place(name_tag(self._kind, key), self.history.epoch)

    def beside(self, others: Sequence[SingleFeed]) -> Feed:
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
        """Take no more events. The subscribers get the events that they lack, and end.

        **Waits** until all published events are delivered.
        """
        self.ending = (reason, error, detail)
        try:
            await self.fanout.deliver(self.history.head)
        finally:  # also if cancelled: otherwise subscribers would wait for ever
            for member in self.fanout.members():
                if member.number < self.history.head:
                    member.put_behind()
                member.subscriber.feed_ended(reason, error, detail)

    def statistics(self, offered: int, *, dropped: int) -> BufferStatistics:
        """Return how full the replay is, and the counts of the items that fill it."""
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
        self.fanout.end(reason, detail)

    async def delete(self) -> None:
        """Forget all events, and end the subscribers. What is published next has a new epoch."""
        self.history.begin_anew()
        self._keys = None
        if self.snapshots is not None:
            self.snapshots.clear()
        self.fanout.end(CloseReason.STOPPED, "Topic.delete()")
        await trio.lowlevel.checkpoint()
