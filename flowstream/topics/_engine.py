"""The engine: it connects the topics of a process with one log.

It holds the log open, hands hints to followers, and has those read that have missed one: few at a
time, since after a failure of the log all of them have to. Hints are speed alone. So it also
compares heads: each topic's every ten seconds.
"""

from __future__ import annotations

import logging
import math
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

import trio

from flowstream._clock import clock
from flowstream._errors import LogUnavailableError
from flowstream.abc import Log, Policy, Record
from flowstream.limits import Replay, check_positive
from flowstream.sources._feed import Feed
from flowstream.tasks._retry import Backoff
from flowstream.topics._control import Control
from flowstream.topics._envelope import name_in_log
from flowstream.topics._follower import Follower
from flowstream.topics._log_pages import LogPages
from flowstream.topics._log_publisher import LogPublisher
from flowstream.topics._log_reader import RETRY, LogReader, insist
from flowstream.topics._log_statistics import LogCounts, LogStatistics
from flowstream.topics._presence import Presence
from flowstream.topics._sender import PATIENCE

logger = logging.getLogger("flowstream")

# Followers that read at the same time.
_READERS = 2

# Seconds between two comparisons of heads, each of a part of the topics.
_SWEEP_SECONDS = 1.0
_SWEEP_PARTS = 10

# Seconds after its last subscriber has left that a topic is followed.
_IDLE_SECONDS = 30.0

# Seconds that events which are on their way have when the log is closed.
_DRAIN_SECONDS = 5.0


class Engine:
    """The topics of this process that are in one log.

    Args:
        log: the log; `run` opens it.
        patience: seconds that a publisher waits while the log is away.

    Attributes:
        control: what workers tell each other.
        presence: who is where on all workers.
        counts: what happened with the log.

    Raises:
        TypeError, ValueError: `patience` is no number above 0.
    """

    def __init__(self, log: Log, *, patience: float = PATIENCE) -> None:
        check_positive("patience", patience, unit="seconds")
        self.log = log
        self.patience = patience
        self.pages = LogPages(log)
        self.counts = LogCounts()
        self.control = Control(log, self.send, self.mark_stale, patience)
        self.presence = Presence(log, self.send, self.mark_stale, patience)
        self.control.add(self)
        self._publishers: weakref.WeakSet[LogPublisher] = weakref.WeakSet()
        # {topic: [reader, …]}, in the order in which the topics are looked at next.
        self._followers: OrderedDict[str, list[LogReader]] = OrderedDict()
        self._opening: list[LogReader] = []
        self._stale: OrderedDict[LogReader, None] = OrderedDict()
        self._news = trio.lowlevel.ParkingLot()  # of the tasks that open and read
        self._nursery: trio.Nursery | None = None
        self._closing = False
        self._sending = 0
        self._sent = trio.lowlevel.ParkingLot()

    async def run(  # noqa: ASYNC114  # `AppLog.open` starts it
        self, *, task_status: Any = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Hold the log open and follow topics, until it is cancelled.

        Then events that are on their way have 5 s more.

        Raises:
            LogUnavailableError: the log can't be opened.
        """
        async with trio.open_nursery() as nursery:
            work = trio.CancelScope()
            await nursery.start(self._hold, work)
            try:
                await self._hear_workers()
                task_status.started()
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True, deadline=clock.current_time() + _DRAIN_SECONDS):
                    await self.presence.leave()
                    self._closing = True
                    while self._sending and self._nursery is not None:
                        await self._sent.park()
                self._closing = True
                work.cancel()

    async def _hold(  # noqa: ASYNC114, ASYNC128  # `run` starts it, and `_work` says that it has
        self, work: trio.CancelScope, *, task_status: Any
    ) -> None:
        """Hold the log open until `work` was cancelled, and all that uses the log has ended."""
        with trio.CancelScope() as guard:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.log.run, self._hint, self._hear_stale)
                guard.shield = True
                with work:
                    await self._work(task_status)
                nursery.cancel_scope.cancel()

    async def _work(self, status: Any) -> None:
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._closing = False
                nursery.start_soon(self._open)
                for _ in range(_READERS):
                    nursery.start_soon(self._read)
                nursery.start_soon(self._sweep)
                status.started()
        finally:
            self._nursery = None
            for tail in (self.control.tail, self.presence.tail):
                self._followers.pop(tail.topic, None)
                tail.close()

    async def _hear_workers(self) -> None:
        """Hear from now on what other workers say; **wait** until that is sure."""
        tails = (self.control.tail, self.presence.tail)
        with trio.move_on_after(self.patience) as scope:
            await insist(self.presence.prepare, self.patience)
            for tail in tails:
                self.follow(tail)
            for tail in tails:
                await tail.until_caught_up()
        if scope.cancelled_caught:
            raise LogUnavailableError("the log does not answer, so other workers can't be heard")
        self._check_open().start_soon(self.presence.run)

    # -- workers ---------------------------------------------------------------------------

    async def delete(self, topic: str) -> None:
        """Forget a topic's events, and end its subscribers on all workers.

        **Waits** for the log.

        Raises:
            LogUnavailableError: the log is away. The events may be forgotten, and subscribers of
                other workers may go on: call it again.
        """
        self._check_open()
        old = await self._epoch(topic)
        await insist(lambda: self.log.delete(topic), self.patience)
        born = await self._epoch(topic)
        # Where it was empty there is no new epoch: then all who are there came before.
        before = None if born == old else born
        self._end_subscribers(topic, before)
        await self.control.send("deleted", topic=topic, before=before)

    async def _epoch(self, topic: str) -> str:
        heads = await insist(lambda: self.log.heads([topic]), self.patience)
        return heads[topic].epochs[-1][0]

    def hear_control(self, what: str, fields: Mapping[str, Any]) -> None:
        """End the subscribers of a topic that was deleted."""
        topic, before = fields.get("topic"), fields.get("before")
        if what == "deleted" and isinstance(topic, str) and isinstance(before, str | None):
            self._end_subscribers(topic, before)

    def miss_control(self) -> None:
        """Do nothing: who follows a topic that was deleted sees its new epoch."""

    def _end_subscribers(self, topic: str, before: str | None) -> None:
        self.pages.forget(topic)
        for follower in self._followers.get(topic, ()):
            if isinstance(follower, Follower):
                follower.end_life(before)

    def statistics(self) -> LogStatistics:
        """Return what happened between this process and the log so far."""
        followers = [one for some in self._followers.values() for one in some]
        return self.counts.statistics(
            queued=sum(publisher.queued for publisher in self._publishers),
            followed=len({one.topic for one in followers if isinstance(one, Follower)}),
            pages_read=self.pages.read,
            pages_shared=self.pages.shared,
            control_sent=self.control.sent,
            control_heard=self.control.heard,
        )

    # -- publishers ------------------------------------------------------------------------

    def publisher(
        self,
        kind: Literal["topic", "run"],
        key: object,
        replay: Replay,
        changed: Callable[[str], None],
        *,
        policy: Policy = Feed.policy,
        from_beginning: bool = False,
    ) -> LogPublisher:
        """Return a publisher whose events are in the log: see `Publisher`."""
        publisher = LogPublisher(
            self,
            name_in_log(kind, key),
            kind,
            key,
            replay,
            changed,
            policy=policy,
            from_beginning=from_beginning,
        )
        self.add(publisher)
        return publisher

    def add(self, publisher: LogPublisher) -> None:
        """Count what `publisher` does, as long as it is there."""
        self._publishers.add(publisher)

    def send(self, work: Callable[[], Awaitable[object]]) -> None:
        """Start the task of a sender, which the end of the log waits for.

        Raises:
            RuntimeError: the log is not open.
        """
        self._check_open().start_soon(self._send, work)
        self._sending += 1

    async def _send(self, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        finally:
            self._sending -= 1
            if not self._sending:
                self._sent.unpark_all()

    def _check_open(self) -> trio.Nursery:
        if self._nursery is None or self._closing:
            raise RuntimeError(
                "the log of this topic is not open: use the topic while its app is served, or "
                "inside `async with Flowstream(log=...)`"
            )
        return self._nursery

    # -- followers -------------------------------------------------------------------------

    def follow(self, follower: LogReader) -> None:
        """Have a follower hear of its topic, until nobody has needed it for a while.

        Raises:
            RuntimeError: the log is not open.
        """
        self._check_open()
        followers = self._followers.setdefault(follower.topic, [])
        if follower not in followers:
            followers.append(follower)
            self._opening.append(follower)
            self._news.unpark_all()

    async def _open(self) -> None:
        """Have followers begin that wait for it, all of them together."""
        backoff = Backoff(RETRY)
        while True:
            while not self._opening:
                await self._news.park()
            some, self._opening = self._opening, []
            names = sorted({follower.topic for follower in some})
            try:
                await self.log.watch(names)
                heads = await self.log.heads(names)
            except LogUnavailableError as error:
                if backoff.failures == 0:
                    logger.error("the log can't be followed yet: %s", error)
                self._opening += some
                await trio.sleep(backoff.fail(0.0))
                continue
            backoff = Backoff(RETRY)
            for follower in some:
                if follower in self._followers.get(follower.topic, ()):
                    follower.begin(heads[follower.topic])

    async def _close(self, follower: LogReader) -> None:
        """Follow no more what nobody needs."""
        topic, followers = follower.topic, self._followers[follower.topic]
        followers.remove(follower)
        self._stale.pop(follower, None)
        follower.close()
        if followers:
            return
        del self._followers[topic]
        await self.log.unwatch([topic])
        if again := self._followers.get(topic):  # meanwhile somebody came
            await self.log.watch([topic])
            for one in again:
                one.mark_stale()

    def mark_stale(self, follower: LogReader) -> None:
        """Have a follower read."""
        self._stale[follower] = None
        self._news.unpark_all()

    def _hint(self, topic: str, before: int, records: Sequence[Record]) -> None:
        for follower in self._followers.get(topic, ()):
            follower.hear(before, records)

    def _hear_stale(self, topic: str | None) -> None:
        topics = list(self._followers) if topic is None else [topic]
        for name in topics:
            for follower in self._followers.get(name, ()):
                follower.mark_stale()

    async def _read(self) -> None:
        """Have stale followers read, one after the other."""
        backoff = Backoff(RETRY)
        while True:
            while not self._stale:
                await self._news.park()
            follower, _ = self._stale.popitem(last=False)
            try:
                await follower.catch_up()
            except LogUnavailableError as error:
                if backoff.failures == 0:
                    logger.error("the log can't be read, and will be: %s", error)
                self._stale[follower] = None
                await trio.sleep(backoff.fail(0.0))
            else:
                backoff = Backoff(RETRY)

    async def _sweep(self) -> None:
        """Look at a part of the topics each second: compare heads, and close what nobody needs."""
        while True:
            await trio.sleep(_SWEEP_SECONDS)
            names = list(islice(self._followers, math.ceil(len(self._followers) / _SWEEP_PARTS)))
            try:
                await self._compare(names)
                await self._close_idle(names)
            except LogUnavailableError:
                pass  # the next sweep will see

    async def _compare(self, names: Sequence[str]) -> None:
        if names:
            for name, head in (await self.log.heads(names)).items():
                if followers := self._followers.get(name):
                    self._followers.move_to_end(name)
                    for follower in followers:
                        follower.compare(head)

    async def _close_idle(self, names: Sequence[str]) -> None:
        now = clock.current_time()
        for name in names:
            for follower in list(self._followers.get(name, ())):
                if now - follower.idle_since >= _IDLE_SECONDS:
                    await self._close(follower)
