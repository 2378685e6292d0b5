"""A log in memory: one process, no disk, the same promises.

It is the plainest log that keeps the interface's contracts, and the one to read first. Nothing here
waits, so nothing can be half done: each call is one step of the event loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import trio

from flowstream._clock import clock
from flowstream.abc import (
    Appended,
    Head,
    Hint,
    LatestPage,
    Log,
    LogEntry,
    Position,
    Record,
    Stale,
)
from flowstream.abc._abstract_log import no_leases
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
from flowstream.logs._log_run import LogRun, not_open
from flowstream.logs._memory_topic import MemoryTopic

# Seconds between two looks for topics to forget.
_LOOK_SECONDS = 60.0


class MemoryLog(Log):
    """A log that is kept in memory, and gone when the process ends.

    Opening it again finds what it had. It is for one event loop. Ages count on Trio's clock.
    """

    def __init__(self) -> None:
        self._topics: dict[str, MemoryTopic] = {}
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
        if fence is not None:
            raise no_leases(self)
        self._begin()
        check_append(topic, entries, keep, token)
        await trio.lowlevel.checkpoint()
        hint = self._begin()
        if not entries:
            return []
        now = clock.current_time()
        self._look(now)
        found = self._topics.get(topic)
        if found is not None:
            keyed = sum(entry.idempotency_key is not None for entry in entries)
            if keyed:
                found.keys.check_room(f"the topic {topic!r}", now, keyed)
        else:
            found = self._topics[topic] = MemoryTopic(((self._epoch, 1),))
        before = found.number
        results, records = found.append(entries, keep, token, now)
        if records and topic in self._watched:
            hint(topic, before, records)
        return results

    async def read(
        self, topic: str, after: Position, limit: int, *, mine: bool = False
    ) -> tuple[Head, bool, list[Record]]:
        """Return what follows `after`: see `flowstream.abc.Log.read`."""
        self._begin()
        check_topic(topic)
        check_limit(limit)
        await trio.lowlevel.checkpoint()
        found = self._topics.get(topic)
        if found is None:
            return self._unknown(), after == (self._epoch, 0), []
        if mine and is_evidence(found.epochs, found.number, after):
            found.epochs = begin_epoch(found.epochs, found.number)
        return found.read(after, limit, clock.current_time())

    async def heads(self, topics: Iterable[str]) -> dict[str, Head]:
        """Return each topic's head: see `flowstream.abc.Log.heads`."""
        self._begin()
        names = check_topics(topics)
        await trio.lowlevel.checkpoint()
        now = clock.current_time()
        return {
            name: self._topics[name].head(now) if name in self._topics else self._unknown()
            for name in names
        }

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
        found = self._topics.get(topic)
        if found is None:
            return LatestPage(self._unknown(), {}, None)
        now = clock.current_time()
        return LatestPage(found.head(now), *found.latest(cursor or "", now))

    async def topics(
        self, prefix: str = "", cursor: str | None = None
    ) -> tuple[list[str], str | None]:
        """Return names of topics: see `flowstream.abc.Log.topics`."""
        self._begin()
        await trio.lowlevel.checkpoint()
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
        found = self._topics.get(topic)
        return found.trim(keep, clock.current_time()) if found else 0

    async def delete(self, topic: str) -> None:
        """Forget the topic: see `flowstream.abc.Log.delete`."""
        self._begin()
        check_topic(topic)
        await trio.lowlevel.checkpoint()
        found = self._topics.get(topic)
        if found is None:
            return
        self._topics[topic] = found.reborn(clock.current_time())
        if topic in self._watched and self._stale is not None:
            self._stale(topic)

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
        """Forget topics that have had no events for long."""
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        for name in [name for name, topic in self._topics.items() if topic.is_forgotten(now)]:
            # Its numbers are free again, so its epoch must not begin another topic.
            last, _ = self._topics.pop(name).epochs[-1]
            if self._epoch <= last:
                self._epoch = new_epoch(last)
