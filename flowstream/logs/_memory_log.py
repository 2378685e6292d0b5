"""A log in memory: one process, no disk, the same promises.

It is the plainest log that keeps the interface's contracts, and the one to read first. Nothing here
waits, so nothing can be half done: each call is one step of the event loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import trio

from flowstream._clock import clock
from flowstream.abc import (
    Appended,
    Head,
    Hint,
    LatestPage,
    Lease,
    Log,
    LogEntry,
    Position,
    Record,
    Stale,
)
from flowstream.ids._event_id import new_epoch
from flowstream.limits import Replay
from flowstream.logs._append_arguments import (
    PAGE_NAMES,
    check_append,
    check_limit,
    check_topic,
    check_topics,
)
from flowstream.logs._epochs import Epochs, begin_epoch, is_evidence
from flowstream.logs._lease_rules import Claim, check_beat, check_claim, check_seconds, check_token
from flowstream.logs._log_run import LogRun, not_open
from flowstream.logs._memory_leases import MemoryLeases
from flowstream.logs._memory_topic import MemoryTopic

# Seconds between two looks for topics to forget.
_LOOK_SECONDS = 60.0


class MemoryLog(Log):
    """A log that is kept in memory, and gone when the process ends.

    Opening it again finds what it had. It is for one event loop. Ages count on Trio's clock.
    """

    def __init__(self) -> None:
        self._topics: dict[str, MemoryTopic] = {}
        self._leases = MemoryLeases()
        self._watched: set[str] = set()
        self._epoch = new_epoch()
        self._looked = 0.0
        self._hint: Hint | None = None
        self._stale: Stale | None = None
        self._running = LogRun()

    async def run(  # noqa: ASYNC114  # `open_log` starts it
        self, hint: Hint, stale: Stale, *, task_status: Any = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Hold the log open: see `flowstream.abc.Log.run`."""
        with self._running.hold():
            self._hint, self._stale = hint, stale
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._hint = self._stale = None
                self._watched.clear()

    async def append(
        self,
        topic: str,
        entries: Sequence[LogEntry],
        *,
        keep: Replay,
        token: str,
        fence: int | None = None,
    ) -> list[Appended]:
        """Append all entries or none: see `flowstream.abc.Log.append`."""
        self._begin()
        check_append(topic, entries, keep, token)
        if fence is not None:
            check_token("fence", fence)
        await trio.lowlevel.checkpoint()
        self._begin()
        now = clock.current_time()
        found = self._find(topic, now)
        if fence is not None:
            self._leases.check(topic, fence)
        if not entries:
            return []
        self._look(now)
        return self._append(topic, found, entries, keep, token, now)

    def _append(
        self,
        topic: str,
        found: MemoryTopic | None,
        entries: Sequence[LogEntry],
        keep: Replay,
        token: str,
        now: float,
    ) -> list[Appended]:
        if found is not None:
            keyed = sum(entry.idempotency_key is not None for entry in entries)
            if keyed:
                found.keys.check_room(f"the topic {topic!r}", now, keyed)
        else:
            found = self._topics[topic] = MemoryTopic(((self._epoch, 1),))
        before = found.number
        results, records = found.append(entries, keep, token, now)
        if records and topic in self._watched:
            self._begin()(topic, before, records)
        return results

    async def read(
        self, topic: str, after: Position, limit: int, *, mine: bool = False
    ) -> tuple[Head, bool, list[Record]]:
        """Return what follows `after`: see `flowstream.abc.Log.read`."""
        self._begin()
        check_topic(topic)
        check_limit(limit)
        await trio.lowlevel.checkpoint()
        now = clock.current_time()
        found = self._find(topic, now)
        if found is None:
            return self._unknown(), after == (self._epoch, 0), []
        if mine and is_evidence(found.epochs, found.number, after):
            found.epochs = begin_epoch(found.epochs, found.number)
        return found.read(after, limit, now)

    async def heads(self, topics: Iterable[str]) -> dict[str, Head]:
        """Return each topic's head: see `flowstream.abc.Log.heads`."""
        self._begin()
        names = check_topics(topics)
        await trio.lowlevel.checkpoint()
        now = clock.current_time()
        heads: dict[str, Head] = {}
        for name in names:
            found = self._find(name, now)
            heads[name] = self._unknown() if found is None else found.head(now)
        return heads

    async def watch(self, topics: Iterable[str]) -> None:
        """Have hints of these topics: see `flowstream.abc.Log.watch`."""
        self._begin()
        self._watched.update(check_topics(topics))
        await trio.lowlevel.checkpoint()

    async def unwatch(self, topics: Iterable[str]) -> None:
        """Have no more hints of these topics."""
        self._begin()
        self._watched.difference_update(check_topics(topics))
        await trio.lowlevel.checkpoint()

    async def latest(self, topic: str, cursor: str | None = None) -> LatestPage:
        """Return the newest events by key: see `flowstream.abc.Log.latest`."""
        self._begin()
        check_topic(topic)
        await trio.lowlevel.checkpoint()
        now = clock.current_time()
        found = self._find(topic, now)
        if found is None:
            return LatestPage(self._unknown(), {}, None)
        return LatestPage(found.head(now), *found.latest(cursor or "", now))

    async def topics(
        self, prefix: str = "", cursor: str | None = None
    ) -> tuple[list[str], str | None]:
        """Return names of topics: see `flowstream.abc.Log.topics`."""
        self._begin()
        await trio.lowlevel.checkpoint()
        self._forget_leases(clock.current_time())
        names = sorted(
            name
            for name, topic in self._topics.items()
            if name.startswith(prefix) and name > (cursor or "") and not topic.deleted
        )
        page = names[:PAGE_NAMES]
        return page, page[-1] if len(names) > PAGE_NAMES else None

    async def trim(self, topic: str, keep: Replay | None = None) -> int:
        """Forget what is not kept: see `flowstream.abc.Log.trim`."""
        self._begin()
        check_topic(topic)
        await trio.lowlevel.checkpoint()
        now = clock.current_time()
        found = self._find(topic, now)
        return found.trim(keep, now) if found else 0

    async def delete(self, topic: str) -> None:
        """Forget the topic: see `flowstream.abc.Log.delete`."""
        self._begin()
        check_topic(topic)
        await trio.lowlevel.checkpoint()
        self._leases.forget(topic)
        self._begin_anew(topic, clock.current_time())

    async def claim(
        self, topic: str, owner: str, *, seconds: float, instead: int | None = None
    ) -> Lease:
        """Take the topic's lease, if it has none: see `flowstream.abc.Log.claim`."""
        self._begin()
        check_claim(topic, owner, seconds, instead)
        await trio.lowlevel.checkpoint()
        self._begin()
        now = clock.current_time()
        self._look(now)
        self._find(topic, now)
        lease, claim = self._leases.claim(topic, owner, seconds, instead, now)
        if claim is Claim.ANEW:
            self._begin_anew(topic, now)
        return lease

    async def beat(
        self, owner: str, tokens: Mapping[str, int], *, seconds: float
    ) -> dict[str, Lease | None]:
        """Renew leases: see `flowstream.abc.Log.beat`."""
        self._begin()
        check_beat(owner, tokens, seconds)
        await trio.lowlevel.checkpoint()
        self._begin()
        now = clock.current_time()
        self._forget_leases(now)
        return {
            topic: self._leases.beat(topic, owner, token, seconds, now)
            for topic, token in tokens.items()
        }

    async def end(
        self,
        topic: str,
        fence: int,
        entry: LogEntry,
        *,
        keep: Replay,
        token: str,
        seconds: float,
        lapsed: bool = False,
    ) -> Lease | None:
        """Append the last event and end the lease: see `flowstream.abc.Log.end`."""
        self._begin()
        check_append(topic, [entry], keep, token)
        check_token("fence", fence)
        check_seconds(seconds)
        await trio.lowlevel.checkpoint()
        self._begin()
        now = clock.current_time()
        found = self._find(topic, now)
        if self._leases.may_end(topic, fence, now, lapsed):
            self._append(topic, found, [entry], keep, token, now)
            self._leases.end(topic, seconds, now)
        return self._leases.find(topic, now)

    async def leases(self, topics: Iterable[str]) -> dict[str, Lease | None]:
        """Return each topic's lease: see `flowstream.abc.Log.leases`."""
        self._begin()
        names = check_topics(topics)
        await trio.lowlevel.checkpoint()
        now = clock.current_time()
        self._forget_leases(now)
        return {name: self._leases.find(name, now) for name in names}

    async def aclose(self) -> None:
        """End `run`, and wait until it has returned."""
        await self._running.close()

    def _begin(self) -> Hint:
        if self._hint is None:
            raise not_open()
        return self._hint

    def _unknown(self) -> Head:
        epochs: Epochs = ((self._epoch, 1),)
        return Head(epochs, 0, 1)

    def _look(self, now: float) -> None:
        """Forget topics that have had no events for long, and those whose lease is forgotten."""
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        self._forget_leases(now)
        for name, topic in list(self._topics.items()):
            if topic.is_forgotten(now) and name not in self._leases:
                self._forget(name)

    def _forget_leases(self, now: float) -> None:
        for name in self._leases.gone(now):
            self._forget(name)

    def _forget(self, name: str) -> None:
        self._leases.forget(name)
        found = self._topics.pop(name, None)
        if found is not None:
            # Its numbers are free again, so its epoch must not begin another topic.
            last, _ = found.epochs[-1]
            if self._epoch <= last:
                self._epoch = new_epoch(last)

    def _find(self, name: str, now: float) -> MemoryTopic | None:
        """Return a topic, unless it goes with its lease."""
        if self._leases.is_gone(name, now):
            self._forget(name)
        return self._topics.get(name)

    def _begin_anew(self, name: str, now: float) -> None:
        """Delete what a topic has."""
        found = self._topics.get(name)
        if found is None:
            return
        self._topics[name] = found.reborn(now)
        if name in self._watched and self._stale is not None:
            self._stale(name)
