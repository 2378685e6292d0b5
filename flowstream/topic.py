"""Topic: one publisher side, any number of subscribers, a bounded past.

::

    publish ──► history ──► fan-out ──┬─► a parked client's socket
                   │                  ├─► a busy client's buffer, under its policy
                   └──── pull ────────┴─► a client that is catching up

Publishing is the moment at which the event enters the history: that is synchronous and can't
be half done. Delivery follows, in the order of the history, whoever does it.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import trio

from flowstream._closing import CloseReason
from flowstream._errors import unencodable
from flowstream._event import Event
from flowstream._fanout import Fanout
from flowstream._history import History, Published, Replay
from flowstream._joined import Joined
from flowstream._snapshots import FromApp, KeptByKey, LatestByKey, Snapshots
from flowstream._subscriber import Subscriber
from flowstream._subscription import Subscription
from flowstream.abc import Encoder, Policy
from flowstream.encoders import SSE
from flowstream.limits import Buffer
from flowstream.policies import Block, DropOldest
from flowstream.sources._feed import Feed, Sink, Terms

__all__ = ["LatestByKey", "Replay", "Topic", "TopicStatistics", "check_policy"]

logger = logging.getLogger("flowstream")

Where = Callable[[Event], object]

# Others run once in so many events that are published to few subscribers or none.
_BURST_EVENTS = 64


@dataclass(frozen=True, slots=True)
class TopicStatistics:
    """A moment of one topic."""

    name: str
    """The topic's name."""
    subscribers: int
    """Streams and subscriptions that are there now."""
    catching_up: int
    """Those among them that are reading the past."""
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


class Topic(Feed):
    """One publisher side and any number of subscribers.

    Hand it to `sse()` or `ndjson()`; a client that comes back with a ``Last-Event-ID`` goes on
    where it left off, or is told what it missed. For use inside one Trio run.

    Args:
        name: for logs and statistics.
        replay: how much of the past is kept for clients that come back.
        snapshot: an async function without arguments, or `LatestByKey()`: what a client is
            given when it comes first, or when it can't be given what it missed. The function
            may return an `Event` with the id of the last event that is in it; else it is
            taken to hold what was published before it was called.
        presence: a topic in which each coming and going is published, as an event ``join`` or
            ``leave`` with the body ``{"topic", "subscribers"}`` and the name for a key.

    Raises:
        TypeError: an argument is not what is said above.
    """

    def __init__(
        self,
        name: str,
        *,
        replay: Replay = Replay(),  # noqa: B008  # a frozen value
        snapshot: Callable[[], Awaitable[Any]] | LatestByKey | None = None,
        presence: Topic | None = None,
    ) -> None:
        if not isinstance(name, str):
            raise TypeError(f"name must be a str, not {type(name).__name__}")
        if not isinstance(replay, Replay):
            raise TypeError(f"replay must be a Replay, not {type(replay).__name__}")
        if presence is not None and not isinstance(presence, Topic):
            raise TypeError(f"presence must be a Topic, not {type(presence).__name__}")
        self.name = name
        self._history = History(replay, trio.current_time)
        self._fanout = Fanout(self._history, self._count_changed)
        self._snapshots = self._make_snapshots(snapshot)
        self._closed = False
        self._published = 0
        self._last_publish = -math.inf
        self._presence = presence
        self._token: trio.lowlevel.TrioToken | None = None

    # -- publishing ------------------------------------------------------------------------

    async def publish(
        self,
        data: Any,
        *,
        type: str | None = None,
        id: str | None = None,
        key: object = None,
        essential: bool = False,
    ) -> str:
        """Publish one event, and **wait** until every subscriber was handed it.

        It is published at once; handing it on lets others run about once a millisecond, and
        waits for subscribers with `Block(timeout=...)` until they have room or their time is
        up, when they are disconnected with `slow_consumer`. If it is cancelled meanwhile the
        event is delivered all the same.

        Args:
            data: the item. It is not copied: don't change it afterwards.
            type: the event's name.
            id: the app's own id; by default ``epoch.number``. One that is used again stands
                for the first event that has it and is kept.
            key: what the event is about, for `Conflate` and `LatestByKey`.
            essential: no policy drops it. A subscriber whose buffer is full of such is
                disconnected with `slow_consumer`.

        Returns:
            The event's id.

        Raises:
            EncodingError: no format of the subscribers can carry it (SSE, if there are none).
                Nothing is published. If some can, the streams of the others end with `error`.
            trio.ClosedResourceError: the topic is closed.
            TypeError, ValueError: `type` or `id` can't stand in an event, `id` is empty or of
                the kind that flowstream makes itself, or `key` can't be hashed.
        """
        published = self._commit(Event(data, type=type, id=id, key=key, essential=essential))
        if self._fanout.count:
            await self._fanout.deliver(published.number)
        else:
            self._history.delivered = self._history.head
        if self._published % _BURST_EVENTS == 0:
            await trio.lowlevel.checkpoint()
        return published.id

    def publish_nowait(
        self,
        data: Any,
        *,
        type: str | None = None,
        id: str | None = None,
        key: object = None,
        essential: bool = False,
    ) -> str:
        """Publish one event without waiting.

        It is handed to up to 256 subscribers at once, and to more by a task that lets others
        run in between. A loop that does nothing else should `publish`.

        Args, Returns, Raises: as `publish`, and
            trio.WouldBlock: a subscriber with `Block(timeout=...)` has no room. Nothing is
                published.
        """
        event = Event(data, type=type, id=id, key=key, essential=essential)
        published = self._commit(event, nowait=True)
        if self._fanout.count:
            self._fanout.deliver_nowait()
        else:
            self._history.delivered = self._history.head
        return published.id

    def publish_from_thread(
        self,
        data: Any,
        *,
        type: str | None = None,
        id: str | None = None,
        key: object = None,
        essential: bool = False,
    ) -> str:
        """Do as `publish` does, from a thread outside the event loop; **blocks** the thread.

        Raises:
            RuntimeError: in a thread that Trio did not start, if the topic was not used in
                the event loop before: it can't know which loop is meant.
            trio.RunFinishedError: that event loop has ended.
            Exception: as `publish`.
        """

        async def publish() -> str:
            return await self.publish(data, type=type, id=id, key=key, essential=essential)

        try:
            return trio.from_thread.run(publish)
        except RuntimeError:
            if self._token is None or trio.lowlevel.in_trio_run():
                raise
        return trio.from_thread.run(publish, trio_token=self._token)

    def _commit(self, event: Event, *, nowait: bool = False) -> Published:
        if self._closed:
            raise trio.ClosedResourceError(f"the topic {self.name!r} is closed")
        if self._token is None:
            self._token = trio.lowlevel.current_trio_token()
        history = self._history
        hash(event.key)  # before anything is done: what is kept by key needs it
        published = history.make(event)
        encoder = self._fanout.encoder or _DEFAULT_ENCODER
        try:
            published.frame(encoder)
        except Exception as error:
            if not self._is_carried_elsewhere(published, encoder):
                raise unencodable(event.data, error) from error
        if nowait and self._fanout.full(published.weight):
            raise trio.WouldBlock
        history.append(published)
        self._published += 1
        self._last_publish = published.stamp
        if self._snapshots is not None:
            self._snapshots.published(event)
        return published

    def _is_carried_elsewhere(self, published: Published, but: Encoder) -> bool:
        """Return whether a format other than `but` can carry an event that somebody may get."""
        for encoder in self._fanout.encoders:
            encoder = encoder or _DEFAULT_ENCODER
            if encoder != but:
                with contextlib.suppress(Exception):
                    published.frame(encoder)
                    return True
        return False

    # -- subscribing -----------------------------------------------------------------------

    @asynccontextmanager
    async def subscribe(
        self,
        *,
        after: str | None = None,
        where: Where | None = None,
        buffer: int | Buffer = 256,
        policy: Policy | None = None,
    ) -> AsyncIterator[Subscription]:
        """Subscribe inside the program: a context manager that gives an iterator of events.

        ``async with topic.subscribe() as events: async for event in events: ...``. What was
        missed comes as an `Event` of type ``gap``, a snapshot as one of type ``snapshot``.

        Args:
            after: the id of the last event that is known; None for what comes from now on.
            where: events for which it returns false are left out, without a gap.
            buffer: how much may wait.
            policy: what happens when that is full; `DropOldest()` by default.

        Raises:
            TypeError, ValueError: an argument is not what is said above.
        """
        if after is not None and not isinstance(after, str):
            raise TypeError(f"after must be the id of an event, not a {type(after).__qualname__}")
        if where is not None and not callable(where):
            raise TypeError(
                f"where must be a function of an event, not a {type(where).__qualname__}"
            )
        terms = Terms(check_policy(policy), after, where, controls=True)
        subscription = Subscription(Buffer.of(buffer), terms.policy)
        subscription.start(self.join(subscription, None, terms))
        try:
            yield subscription
        finally:
            subscription.end()

    def join(self, sink: Sink, encoder: Encoder | None, terms: Terms) -> Subscriber:
        """Have `sink` get what is published from now on, and what it missed."""
        if self._token is None:
            self._token = trio.lowlevel.current_trio_token()
        subscriber = Subscriber(
            self._history,
            self._fanout,
            self._snapshots,
            sink,
            encoder,
            terms,
        )
        if self._closed:
            sink.feed_ended()
        return subscriber

    @property
    def epoch(self) -> str:
        """What the ids that it makes begin with; drawn when it is made."""
        return self._history.epoch

    def beside(self, others: Sequence[Feed]) -> Feed:
        """Return a feed of this topic and `others`, for one connection."""
        return Joined([self, *others])

    # -- the end ---------------------------------------------------------------------------

    async def aclose(self, reason: CloseReason | None = None) -> None:
        """Take no more events, and end the subscribers.

        Without a `reason` each gets what it has not got yet and ends with `completed`; with
        one it ends at once, with that. **Waits** until what was published is delivered.
        """
        self._closed = True
        try:
            if reason is None:
                await self._fanout.deliver(self._history.head)
            else:
                await trio.lowlevel.checkpoint()
        finally:  # cancelled, too: who is told nothing would wait for ever
            for member in self._fanout.members():
                if reason is not None:
                    member.sink.close(reason)
                    continue
                if member.number < self._history.head:
                    self._fanout.put_behind(member)
                member.sink.feed_ended()

    def touch(self) -> None:
        """Count as used now, for `idle_for`."""
        self._fanout.touch()

    def close_idle(self) -> None:
        """Take no more events; for a topic without subscribers."""
        self._closed = True

    @property
    def closed(self) -> bool:
        """Whether it takes no more events."""
        return self._closed

    @property
    def subscribers(self) -> int:
        """How many streams and subscriptions are there now."""
        return self._fanout.count

    @property
    def idle_for(self) -> float:
        """Seconds since the last event, or since somebody came or left."""
        return trio.current_time() - max(self._last_publish, self._fanout.last_change)

    def statistics(self) -> TopicStatistics:
        """Return who is there and what is kept."""
        history = self._history
        history.trim()
        members = self._fanout.members()
        return TopicStatistics(
            name=self.name,
            subscribers=len(members),
            catching_up=sum(member.behind for member in members),
            published=self._published,
            replay_items=history.items,
            replay_bytes=history.size,
            replay_first=history.id_of(history.first) if history.items else None,
            closed=self._closed,
        )

    def _count_changed(self, event: str) -> None:
        if self._presence is not None and not self._presence.closed:
            body = {"topic": self.name, "subscribers": self._fanout.count}
            try:
                self._presence._publish_soon(Event(body, type=event, key=self.name))
            except Exception:
                # Who comes and goes here has no part in what others do there.
                logger.exception("the presence topic of %r failed", self.name)

    def _publish_soon(self, event: Event) -> None:
        """Publish an event that nobody waits for: who has no room is waited for elsewhere."""
        self._commit(event)
        self._fanout.assist()

    def _make_snapshots(self, given: Any) -> Snapshots | None:
        if given is None:
            return None
        if isinstance(given, LatestByKey):
            return KeptByKey(self._history, given.keys, self.name)
        if not callable(given):
            raise TypeError(
                f"snapshot must be an async function or LatestByKey(), not {type(given).__name__}"
            )
        return FromApp(self._history, cast("Callable[[], Awaitable[Any]]", given))


_DEFAULT_ENCODER = SSE()


def check_policy(policy: Policy | None) -> Policy:
    """Return the policy of a subscriber, `DropOldest()` by default.

    Raises:
        TypeError: it is no policy.
        ValueError: it could make a publisher wait for ever.
    """
    if policy is None:
        return DropOldest()
    if not isinstance(policy, Policy):
        raise TypeError(f"policy must be a Policy such as DropOldest(), not {policy!r}")
    if isinstance(policy, Block) and policy.timeout is None:
        raise ValueError(
            "Block() without a timeout would let one client stop a topic for all: use "
            "Block(timeout=seconds)"
        )
    return policy
