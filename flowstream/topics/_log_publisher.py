"""The publisher of a topic that is in a log.

::

    publish ──► envelope ──► sender ──► the log ──┬─► window ──► fan-out ──► clients here
                                                  └─► hints ──► the windows of other processes

An event is published when the log has committed it. Then it enters the window, as the events of
other processes do, and `publish` waits until every subscriber here was handed it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, Protocol

import trio

from flowstream._clock import clock
from flowstream._errors import LogUnavailableError, outside_event_loop
from flowstream._event import Event
from flowstream.abc import (
    Appended,
    Encoder,
    Head,
    Log,
    LogEntry,
    Policy,
    Position,
    Record,
)
from flowstream.ids._event_id import event_id
from flowstream.limits import Replay
from flowstream.logs._append_arguments import check_idempotency, check_topic
from flowstream.sources._feed import Feed, Subscriber, Terms
from flowstream.tasks._failure import passes
from flowstream.topics._control import Control
from flowstream.topics._envelope import log_entry
from flowstream.topics._follower import Follower
from flowstream.topics._log_cursor import LogCursor
from flowstream.topics._log_pages import LogPages
from flowstream.topics._log_reader import LogReader
from flowstream.topics._log_snapshots import FromAppInLog, KeptInLog
from flowstream.topics._log_statistics import LogCounts, LogStatistics
from flowstream.topics._presence import Presence, PresenceTopic
from flowstream.topics._publish_arguments import MOST_BYTES, check_many
from flowstream.topics._published import Published
from flowstream.topics._publisher import Publisher
from flowstream.topics._sender import Sender
from flowstream.topics._single_process import PresenceHearer
from flowstream.topics._snapshots import LatestByKey
from flowstream.topics._window import Window

logger = logging.getLogger("flowstream")


class Shared(Protocol):
    """What the publishers of one log share: its `Engine`, as they see it.

    Attributes:
        log: the log.
        pages: what was read of it lately.
        patience: seconds that a publisher waits for it.
        control: what the workers of the log tell each other.
        presence: who is where on all workers.
        counts: what happened with the log.
    """

    log: Log
    pages: LogPages
    patience: float
    control: Control
    presence: Presence
    counts: LogCounts

    async def delete(self, topic: str) -> None:
        """Forget a topic's events, and end its subscribers on all workers."""

    def send(self, work: Callable[[], Awaitable[object]]) -> None:
        """Start the task of a sender, which the end of the log waits for.

        Raises:
            RuntimeError: the log is not open.
        """

    def mark_stale(self, follower: LogReader) -> None:
        """Have a follower read."""

    def follow(self, follower: Follower) -> None:
        """Have a follower hear of its topic, until nobody has needed it for a while.

        Raises:
            RuntimeError: the log is not open.
        """


class LogPublisher(Publisher):
    """The publisher of a topic that is in a log.

    Args:
        shared: the log, and what its publishers share.
        topic: the topic's name in the log.
        kind, key, replay, changed, policy, from_beginning: see `Publisher`.

    Raises:
        ValueError: the log can't have a topic of that name.
    """

    def __init__(
        self,
        shared: Shared,
        topic: str,
        kind: Literal["topic", "run"],
        key: object,
        replay: Replay,
        changed: Callable[[str], None],
        *,
        policy: Policy = Feed.policy,
        from_beginning: bool = False,
    ) -> None:
        check_topic(topic)  # before the engine asks the log for it, together with others
        window = Window(replay, clock.current_time)
        super().__init__(
            kind,
            key,
            replay,
            changed,
            policy=policy,
            from_beginning=from_beginning,
            history=window,
        )
        self._shared = shared
        self._topic = topic
        self._keep = replay
        self._window = window
        self._counts = LogCounts(shared.counts)
        self._keyed = False  # whether the log keeps the newest event of each key
        self._follower = Follower(
            topic,
            shared.log,
            window,
            self.fanout,
            self._entered,
            shared.mark_stale,
            self._counts,
        )
        self._sender = Sender(
            topic,
            shared.log,
            replay,
            shared.send,
            self._committed,
            shared.patience,
            self._counts,
        )

    # -- publishing ------------------------------------------------------------------------

    async def publish(
        self,
        event: Event,
        idempotency_key: str | None = None,
        idempotency_seconds: float = 300.0,
    ) -> str:
        """Publish `event`; **wait** until it is in the log and every subscriber here was handed it.

        Raises:
            EncodingError: the log can't carry it. Nothing is published.
            LogUnavailableError: it is not in the log, or may be: see its ``maybe``.
            trio.ClosedResourceError: it takes no more events.
            RuntimeError: Trio does not run here, or the log is closed.
            ValueError: it has an id, or its key is too large.
            TypeError: its key is neither a `str` nor an `int`, or its data is an `Event`.
        """
        if idempotency_key is not None:
            check_idempotency(idempotency_key, idempotency_seconds)
        entry = self._entry(event, idempotency_key, idempotency_seconds)
        (appended,) = await self._send_all([entry])
        return event_id(appended.epoch, appended.number)

    async def publish_many(self, events: Sequence[Event]) -> list[str]:
        """Publish all `events`, one behind the other, or none; **wait** as `publish` does.

        Raises:
            Exception: as `publish`, and
            ValueError: they are too many, or have too many bytes.
        """
        check_many(events)
        entries = [self._entry(event) for event in events]
        size = sum(len(entry.data) for entry in entries)
        if size > MOST_BYTES and len(entries) > 1:
            raise ValueError(
                f"the events have {size:,} bytes, and may have {MOST_BYTES:,}: publish fewer at "
                "once"
            )
        if not entries:
            await trio.lowlevel.checkpoint()
            return []
        appended = await self._send_all(entries)
        return [event_id(one.epoch, one.number) for one in appended]

    def publish_nowait(self, event: Event) -> str:
        """Raise RuntimeError: an event in a log has an id only when the log has it."""
        raise RuntimeError(
            f"publish_nowait returns an id, and {self.name} gets its ids from a log: write "
            "publish_soon(...), or await publish(...)"
        )

    def publish_soon(
        self, event: Event, on_lost: Callable[[Event, Exception], object] | None = None
    ) -> None:
        """Publish `event` without waiting.

        Args:
            event: what to publish.
            on_lost: called with the event and the error if it is not published after all.

        Raises:
            trio.WouldBlock: too many events wait for the log. This one is not published.
            Exception: as `publish`.
        """
        entry = self._entry(event)

        def lost(error: Exception) -> None:
            logger.error("an event of %s is lost: %s", self.name, error)
            if on_lost is not None:
                try:
                    on_lost(event, error)
                except BaseException as raised:  # noqa: ASYNC103  # see `passes`
                    if passes(raised):
                        raise
                    logger.exception("on_lost of an event of %s failed", self.name)

        self._sender.send_soon(entry, lost)

    async def position(self) -> str:
        """Return the id of the newest event, as the log has it. **Waits** for the log.

        Raises:
            LogUnavailableError: it can't be reached.
        """
        head = await self.head()
        return event_id(head.epochs[-1][0], head.number)

    async def head(self) -> Head:
        """Return how far the topic has come. **Waits** for the log."""
        heads = await self._shared.log.heads([self._topic])
        return heads[self._topic]

    async def delete(self) -> None:
        """Forget all events, and end the subscribers on all workers; **wait** for the log.

        Raises:
            LogUnavailableError: see `Engine.delete`.
        """
        await self._shared.delete(self._topic)

    # -- what there is to know -------------------------------------------------------------

    @property
    def control(self) -> Control:
        """What the workers of its log tell each other."""
        return self._shared.control

    def tell_presence(self, into: PresenceHearer, name: str, event: str) -> None:
        """Have `into`, which is in the same log, hear of the subscribers on all workers."""
        assert isinstance(into, LogPublisher)
        self._shared.presence.share(into.as_presence_topic(), name, self.fanout.count)

    def total(self, into: PresenceHearer | None, name: str) -> int:
        """Return how many subscribers all workers have.

        Raises:
            RuntimeError: workers don't tell each other, for want of a presence topic.
        """
        if into is None:
            raise RuntimeError(
                f"{self.name} is in a log, and its workers tell each other how many subscribers "
                "they have if it has a presence topic: write Topic(..., presence=another_topic)"
            )
        assert isinstance(into, LogPublisher)
        return self._shared.presence.total(into.as_presence_topic(), name)

    def as_presence_topic(self) -> PresenceTopic:
        """Return what other workers need to know to publish in it."""
        keep = self._keep
        seconds = None if keep.seconds == math.inf else keep.seconds
        return PresenceTopic(self._topic, keep.items, seconds, keep.bytes, self._keyed)

    @property
    def queued(self) -> int:
        """How many events wait for the next append."""
        return self._sender.queued

    def log_statistics(self) -> LogStatistics:
        """Return what happened between this process and the log."""
        return self._counts.statistics(queued=self.queued, followed=int(self._window.is_open))

    def _entry(
        self,
        event: Event,
        idempotency_key: str | None = None,
        idempotency_seconds: float = 300.0,
    ) -> LogEntry:
        if self.ending is not None:
            raise trio.ClosedResourceError(f"{self.name} takes no more events")
        try:
            self._remember_run()
        except RuntimeError:
            raise outside_event_loop(self.name, used=self.token is not None) from None
        if event.id is not None:
            raise ValueError(
                f"{self.name} gets its ids from a log, so leave `id` out; to publish something "
                "once, write idempotency_key=...; to resume a source of your own ids, use resumable"
            )
        return log_entry(event, self._keyed, idempotency_key, idempotency_seconds)

    async def _send_all(self, entries: list[LogEntry]) -> list[Appended]:
        """Append entries, and **wait** until the subscribers here were handed them."""
        if self.fanout.count and not self._window.is_open:
            await self._wait_until_open()
        appended = await self._sender.send(entries)
        if self.fanout.count:
            await self._hand_out((appended[-1].epoch, appended[-1].number))
        return appended

    async def _wait_until_open(self) -> None:
        """**Wait** until the window is open: a new client would begin behind what is sent before.

        Raises:
            LogUnavailableError: that takes too long. Nothing was sent.
        """
        with trio.move_on_after(self._shared.patience):
            await self._follower.until_open()
        if not self._window.is_open:
            raise LogUnavailableError(
                f"the log of {self.name} can't be followed yet, so its subscribers here would miss "
                "the event; it was not appended"
            )

    async def _hand_out(self, position: Position) -> None:
        """**Wait** until the subscribers here were handed what is up to `position`."""
        window = self._window
        number = window.number_of(position) if window.is_open else None
        if number is None or number > window.head:  # it has to be read first
            number = None
            with trio.move_on_after(self._shared.patience):
                number = await self._follower.until(position)
            if number is None:
                return
        if window.delivered < number:
            await self.fanout.deliver(number)

    def _committed(self, entries: Sequence[LogEntry], appended: Sequence[Appended]) -> None:
        """Put what is in the log now into the window, without waiting for the log's hint."""
        self.published += sum(not one.duplicate for one in appended)
        self.last_publish = clock.current_time()
        records = [
            Record(one.epoch, one.number, entry.data)
            for entry, one in zip(entries, appended, strict=True)
            if not one.duplicate
        ]
        if records and self.fanout.count:
            self._follower.hear(records[0].number - 1, records)

    def _entered(self, published: Published) -> None:
        if self.snapshots is not None:
            self.snapshots.published(published)

    # -- snapshots -------------------------------------------------------------------------

    def keep_by_key(self, bounds: LatestByKey, name: str) -> None:
        """Have the log keep the newest event of each key."""
        self._keyed = True
        self.snapshots = KeptInLog(self._shared.log, self._follower, bounds, name)

    def ask_for_snapshots(self, function: Callable[[], Awaitable[Any]], timeout: float) -> None:
        """Have `function` make snapshots; it may take `timeout` seconds."""
        self.snapshots = FromAppInLog(self._follower, function, timeout)

    # -- subscribing -----------------------------------------------------------------------

    def join(self, subscriber: Subscriber, encoder: Encoder | None, terms: Terms) -> LogCursor:
        """Give `subscriber` all events from now on, and those that it missed."""
        self._remember_run()
        self._shared.follow(self._follower)
        cursor = LogCursor(
            self._follower,
            self._shared.pages,
            self._window,
            self.fanout,
            self.snapshots,
            subscriber,
            encoder,
            terms,
        )
        if self.ending is not None:
            subscriber.feed_ended(*self.ending)
        return cursor
