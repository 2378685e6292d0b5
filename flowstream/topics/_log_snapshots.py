"""Snapshots of a topic that is in a log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from flowstream.abc import Log, Record
from flowstream.ids._event_id import parse_event_id
from flowstream.topics._follower import Follower
from flowstream.topics._log_reader import insist
from flowstream.topics._published import Published
from flowstream.topics._snapshots import AsOf, FromApp, KeptByKey, LatestByKey


class KeptInLog(KeptByKey):
    """`LatestByKey` of a topic whose newest events by key are kept by its log.

    They are read once. From then on the events that enter the window bring them up to date. If the
    window has a seam, they are read again.

    Args:
        log: the log.
        follower: keeps the topic's window in step.
        bounds: how much is kept.
        name: the topic's name, for the log of the app.
    """

    def __init__(self, log: Log, follower: Follower, bounds: LatestByKey, name: str) -> None:
        super().__init__(follower.window, bounds, name)
        self._log = log
        self._follower = follower
        self._number: int | None = None  # of the last event that is in it; None: to be read
        self._turn = trio.Lock()

    @property
    def waits(self) -> bool:  # type: ignore[override]
        """Whether they have to be read."""
        return self._number != self._follower.window.head

    def published(self, published: Published) -> None:
        """Replace the last event of the same key; behind a seam all are read again."""
        if self._number == published.number - 1:
            self._number = published.number
            super().published(published)

    async def get(self, number: int) -> AsOf:
        """Return a snapshot of the newest events. **Waits** for the log if they have to be read."""
        async with self._turn:
            while self.waits:
                await insist(self._read)
        return await super().get(number)

    async def _read(self) -> None:
        window, topic = self._follower.window, self._follower.topic
        self._number = None
        records: list[Record] = []
        page = await self._log.latest(topic)
        start = page.head.epochs[-1][0], page.head.number
        records += page.records.values()
        while page.cursor is not None:
            page = await self._log.latest(topic, page.cursor)
            if page.head.epochs[-1][0] != start[0]:
                return  # events were lost meanwhile: once more, from the first page
            records += page.records.values()
        number = await self._follower.until(start)
        if number is None or not window.has(number):
            return  # it has gone on: once more
        self.clear()
        for record in sorted(records, key=lambda one: (one.epoch, one.number)):
            published = self._follower.decode(record)
            if published is not None:
                super().published(published)
        for published in window.after(number, window.items):
            super().published(published)
        self._number = window.head


class FromAppInLog(FromApp):
    """The snapshots that an app's function makes of a topic in a log.

    Args:
        follower: keeps the topic's window in step.
        function, timeout: see `FromApp`.
    """

    def __init__(
        self, follower: Follower, function: Callable[[], Awaitable[Any]], timeout: float
    ) -> None:
        super().__init__(follower.window, function, timeout)
        self._follower = follower

    async def _place(self, id: str, at_the_call: int) -> int:
        """Return the number of the last event in the snapshot, as the app says.

        `Topic.position` may be ahead of this process: then **wait** until it has come there.
        """
        window = self._follower.window
        position = parse_event_id(id)
        if position is None:
            return at_the_call
        with trio.move_on_after(self._timeout):
            await self._follower.until(position)
        number = window.number_of(position)
        return at_the_call if number is None or number > window.head else number
