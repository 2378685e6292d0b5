"""Topic: one publisher side, any number of subscribers, a bounded past.

::

    publish ──► history ──► fan-out ──┬─► a parked client's socket
                   │                  ├─► a busy client's buffer, under its policy
                   └──── pull ────────┴─► a client that is catching up

How that is done is in `Publisher`, which a run has, too.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, cast

import trio

from flowstream._clock import clock
from flowstream._closing import CloseReason
from flowstream._event import Where
from flowstream.abc import Log, Policy
from flowstream.limits import Buffer, Replay, check_positive
from flowstream.sources._feed import HasFeed, SingleFeed
from flowstream.tasks._failure import passes
from flowstream.tasks._retry import Retry
from flowstream.topics._app_log import (
    OpenLog,
    find_log,
    log_of_transactions,
    no_transaction,
)
from flowstream.topics._feeder import Feeder, Feeders, FeederStatistics
from flowstream.topics._log_statistics import LogStatistics
from flowstream.topics._publisher import Publisher
from flowstream.topics._publishing_side import PublishingSide
from flowstream.topics._snapshots import LatestByKey
from flowstream.topics._subscription import SubscriptionManager
from flowstream.topics._topic_statistics import TopicStatistics
from flowstream.topics._unbound_feed import UnboundFeed

__all__ = [
    "Feeder",
    "FeederStatistics",
    "LatestByKey",
    "LogStatistics",
    "Replay",
    "Retry",
    "Topic",
    "TopicStatistics",
]

logger: logging.Logger = logging.getLogger("flowstream")


class Topic(PublishingSide, HasFeed):
    """One publisher side and any number of subscribers.

    Pass it to `sse()` or `ndjson()`. A client that comes back with a ``Last-Event-ID`` goes on
    where it left off, or is told what it missed. Use a topic inside one Trio run only.

    Args:
        name: for logs and statistics.
        replay: how much of the past is kept for clients that come back.
        snapshot: an async function without arguments, or `LatestByKey()`. A client gets its
            result when it is new, or when the replay no longer has what it missed. The function
            may return an `Event` with the id of the last event that went into it. Otherwise
            flowstream takes it to hold what was published before the call.
        presence: another topic, which gets an event ``join`` or ``leave`` whenever a subscriber
            comes or goes, with the body ``{"topic", "subscribers"}`` and the name as its key. In
            a log it gets the sum over all workers, at most once a second; the share of a worker
            that was killed is in it for 15 s more. Both topics must be in the same log, or both
            in memory.
        snapshot_timeout: seconds that the function may take. Then it is cancelled, and the
            streams that wait for it end with `error`; their clients may come back. While they
            wait they get heartbeats.
        log: the log that its events are in: a log that a `Flowstream` or
            ``flowstream.starlette.lifespan`` was given and has open, or `MemoryLog()` for this
            process's memory. None for the log of the app in which the topic is first used: by
            publishing, subscribing, streaming, feeding or asking for its `position`. If the app
            has none, its events are in memory. Then it stays where it is.

    Raises:
        RuntimeError: from a first use: the log that it belongs in is not open.
        ValueError: from a first use: its presence topic is not in the same log.
        TypeError, ValueError: an argument is not what is said above.
    """

    def __init__(
        self,
        name: str,
        *,
        replay: Replay = Replay(),  # noqa: B008  # a frozen value
        snapshot: Callable[[], Awaitable[Any]] | LatestByKey | None = None,
        presence: Topic | None = None,
        snapshot_timeout: float = 30.0,
        log: Log | None = None,
    ) -> None:
        if not isinstance(name, str):
            raise TypeError(f"name must be a str, not {type(name).__name__}")
        if not isinstance(replay, Replay):
            raise TypeError(f"replay must be a Replay, not {type(replay).__name__}")
        if presence is not None and not isinstance(presence, Topic):
            raise TypeError(f"presence must be a Topic, not {type(presence).__name__}")
        check_positive("snapshot_timeout", snapshot_timeout, unit="seconds")
        if log is not None and not isinstance(log, Log):
            raise TypeError(
                "log must be a log such as SQLiteLog('events.db') that the app has open, too, not "
                f"{type(log).__name__}"
            )
        self.name = name
        self._replay = replay
        self._snapshot = _check_snapshot(snapshot)
        self._snapshot_timeout = snapshot_timeout
        self._presence = presence
        self._presence_is_full = False
        self._log = log
        self._is_bound = False
        self._was_in_log = False
        self._opened: OpenLog | None = None
        self._publisher = self._in_memory()
        self._feeders = Feeders(name, self._bind)

    # -- subscribing -----------------------------------------------------------------------

    def subscribe(
        self,
        *,
        after: str | None = None,
        where: Where | None = None,
        buffer: int | Buffer = 256,
        policy: Policy | None = None,
    ) -> SubscriptionManager:
        """Subscribe inside the program: a context manager that gives an iterator of events.

        ``async with topic.subscribe() as events: async for event in events: ...``. An `Event` of
        type ``gap`` stands for missed events; a snapshot is an `Event` of type ``snapshot``.
        ``sse(topic.subscribe(...))`` streams the topic to one client with these arguments. A
        client that comes back with a ``Last-Event-ID`` goes on there, and not at `after`.

        Args:
            after: the id of the last event that you have; None for new events only.
            where: events for which it returns false are left out, without a gap.
            buffer: how much may wait.
            policy: what happens when the buffer is full; `DropOldest()` by default.

        Raises:
            TypeError, ValueError: an argument is not what is said above.
        """
        return SubscriptionManager(self._feed, after, where, buffer, policy)

    @property
    def epoch(self) -> str:
        """What the ids that it makes begin with; drawn when it is made.

        Those of topics made later in this process sort behind it. In another process one may be
        equal, so don't take it for the topic's name. In a log the ids get theirs from the log:
        until somebody reads the topic in this process, this one may be another.
        """
        return self._publisher.history.epoch

    @property
    def _feed(self) -> SingleFeed:
        if not self._is_bound:
            self._bind()
        return self._publisher if self._is_bound else UnboundFeed(self._bind)

    # -- its log ---------------------------------------------------------------------------

    def _bind(self) -> Publisher:
        """Find its log, or leave it in memory if there is none, and return its publisher.

        Raises:
            RuntimeError: the log that it belongs in is not open.
        """
        if self._is_bound or not trio.lowlevel.in_trio_run():
            return self._publisher
        if not self.closed:
            opened = find_log(self.name, self._log, was_in_log=self._was_in_log)
            self._check_presence(opened)
            self._opened = opened
            if opened is not None:
                self._publisher = opened.publisher(self.name, self._replay, self._count_changed)
                self._prepare_snapshots(self._publisher)
                self._was_in_log = True
                opened.add(self)
        self._is_bound = True
        return self._publisher

    def _unbind(self) -> None:
        publisher = self._publisher
        if publisher.ending is None:
            publisher.close(CloseReason.SHUTDOWN, "the log was closed")
            self._publisher = self._in_memory()
            self._is_bound = False
            self._opened = None

    @property
    def _is_keyed(self) -> bool:
        return isinstance(self._snapshot, LatestByKey)

    def _log_of_transactions(self) -> Log:
        if not self._is_bound:
            return log_of_transactions(self.name, self._log)
        if self._opened is None or self._opened.engine is None:
            raise no_transaction(self.name)
        return self._opened.engine.log

    def _in_memory(self) -> Publisher:
        publisher = Publisher("topic", self.name, self._replay, self._count_changed)
        self._prepare_snapshots(publisher)
        return publisher

    def _prefer_log(self, log: Log | None) -> None:
        """Belong in `log`, unless it was given another."""
        self._log = self._log or log

    # -- the end ---------------------------------------------------------------------------

    async def aclose(self, reason: CloseReason | None = None) -> None:
        """Take no more events, and end the subscribers.

        Without a `reason`, each subscriber gets what is left, and ends with `completed`. With one,
        each ends at once, with that reason. **Waits** until all published events are delivered.
        Feeders (`publish_from`) are told to stop; it does not wait for them.
        """
        self._feeders.stop()
        if reason is None:
            await self._publisher.finish()
        else:
            self._publisher.close(reason, "Topic.aclose()")
            await trio.lowlevel.checkpoint()

    async def delete(self) -> None:
        """Forget all events, and end the subscribers with `stopped`. The topic stays usable.

        What is published from now on is a new life of the topic, also if that happens meanwhile.
        A client that comes back with an id from before gets a gap of unknown size, and what
        follows. Feeders (`publish_from`) go on.

        In a log it does so for all workers, and **waits** for the log. Other workers end their
        subscribers as soon as they hear of it: within milliseconds, or 10 s if a hint was lost.

        Raises:
            LogUnavailableError: the log is away, for longer than the patience of publishers. The
                events may be forgotten, and subscribers of other workers may go on. Call it again.
            RuntimeError: the log that it belongs in is not open.
        """
        await self._bind().delete()

    def _touch(self) -> None:
        """Count as used now, for `_idle_for`."""
        self._publisher.fanout.touch()

    def _close_idle(self) -> None:
        """Take no more events; for a topic without subscribers."""
        self._feeders.stop()
        self._publisher.close(CloseReason.COMPLETED)

    @property
    def closed(self) -> bool:
        """Whether it takes no more events."""
        return self._publisher.ending is not None

    @property
    def _is_used(self) -> bool:
        """Whether anything was ever published in it."""
        return self._publisher.published > 0

    @property
    def subscribers(self) -> int:
        """How many streams and subscriptions are there now."""
        return self._publisher.fanout.count

    @property
    def total_subscribers(self) -> int:
        """How many streams and subscriptions there are on all workers.

        In memory it is the same as `subscribers`. In a log, another worker's clients are counted
        within a second or so, and those of a worker that was killed for 15 s more.

        Raises:
            RuntimeError: the topic is in a log, and has no `presence`; or that log is not open.
        """
        presence = self._presence
        return self._bind().total(None if presence is None else presence._bind(), self.name)

    @property
    def _idle_for(self) -> float:
        """Seconds since the last event, or since somebody came or left."""
        return clock.current_time() - max(
            self._publisher.last_publish, self._publisher.fanout.last_change
        )

    def statistics(self) -> TopicStatistics:
        """Return how many subscribers there are, and what is kept."""
        history = self._publisher.history
        history.trim()
        fanout = self._publisher.fanout
        members = fanout.members()
        return TopicStatistics(
            name=self.name,
            subscribers=len(members),
            catching_up=sum(member.behind for member in members),
            published=self._publisher.published,
            replay_items=history.items,
            replay_bytes=history.size,
            replay_first=history.id_of(history.first) if history.items else None,
            closed=self.closed,
            deliveries=fanout.direct + fanout.queued,
            direct_deliveries=fanout.direct,
            feeders=len(self._feeders),
            feed_failures=self._feeders.counts.failures,
            bad_items=self._feeders.counts.bad_items,
            log=self._publisher.log_statistics(),
        )

    def _count_changed(self, event: str) -> None:
        if self._presence is not None and not self._presence.closed:
            try:
                self._publisher.tell_presence(self._presence._bind(), self.name, event)
                self._presence_is_full = False
            except trio.WouldBlock:
                if not self._presence_is_full:
                    self._presence_is_full = True
                    logger.error(
                        "the presence topic of %r lacks events: too many wait for its subscribers",
                        self.name,
                    )
            except BaseException as error:  # noqa: ASYNC103  # see `passes`
                if passes(error):
                    raise
                # Who comes and goes here has no part in what others do there.
                logger.exception("the presence topic of %r failed", self.name)

    def _check_presence(self, opened: OpenLog | None) -> None:
        """Check that the presence topic is in `opened`, where this topic is about to be.

        Raises:
            ValueError: one is in a log, and the other in memory or in another log.
        """
        other = self._presence
        if other is None or other.closed:
            return
        other._bind()
        if other._opened is not opened:
            raise ValueError(
                f"the topic {self.name!r} and its presence topic {other.name!r} must be in the "
                "same log, or both in memory: give both the same log="
            )

    def _prepare_snapshots(self, publisher: Publisher) -> None:
        snapshot = self._snapshot
        if isinstance(snapshot, LatestByKey):
            publisher.keep_by_key(snapshot, self.name)
        elif snapshot is not None:
            publisher.ask_for_snapshots(snapshot, self._snapshot_timeout)


def _check_snapshot(given: Any) -> Callable[[], Awaitable[Any]] | LatestByKey | None:
    if given is None or isinstance(given, LatestByKey) or callable(given):
        return cast("Callable[[], Awaitable[Any]] | LatestByKey | None", given)
    raise TypeError(
        f"snapshot must be an async function or LatestByKey(), not {type(given).__name__}"
    )
