"""Pages of a log, for clients that are further back than the window.

After a deploy a thousand clients come back at once, each at a place of its own, a little apart.
Pages begin at multiples of their size, so that all share them: a page is read once, its events are
decoded once, and encoded once for the first format. Pages that many use are kept for a moment.

A page may be shorter than that, because its events are large, or the topic goes no further. Who has
read it goes on with the page that begins where it ends, and shares that one, too.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import trio

from flowstream._clock import clock
from flowstream.abc import Encoder, Head, Log, Position, Record
from flowstream.topics._log_reader import PAGE_ITEMS
from flowstream.topics._published import Published

# Bytes of pages that are kept, as the log has them, for all topics.
_PAGES_BYTES = 8 << 20

# Seconds that a page is kept. Later it might hold events that have expired.
_PAGE_SECONDS = 2.0

Decode = Callable[[Record], Published | None]


class LogEvent(NamedTuple):
    """One event of a page."""

    position: Position
    """Its place in the log."""
    published: Published | None
    """The event; None if this release can't read it."""


@dataclass(frozen=True, slots=True)
class LogPage:
    """What follows a position of the log."""

    head: Head
    """How far the topic has come."""
    known: bool
    """Whether the log knows the position."""
    events: tuple[LogEvent, ...]
    """What follows, oldest first."""

    @property
    def end(self) -> Position:
        """The position of the topic's newest event."""
        return self.head.epochs[-1][0], self.head.number

    def from_place(self, place: int) -> LogPage:
        """Return the page without its first `place` events."""
        return LogPage(self.head, self.known, self.events[place:])

    def behind(self, position: Position) -> LogPage | None:
        """Return the part of the page that follows `position`; None if the page can't tell."""
        epoch, number = position
        if not self.known:
            return None if any(one == epoch for one, _ in self.head.epochs) else self
        for place, (at, _) in enumerate(self.events):
            if at[0] == epoch and at[1] <= number:
                continue
            if at[0] != epoch and number > self._last_of(epoch):
                return None  # the log cuts it to where the next epoch begins
            return self.from_place(place)
        return None

    def _last_of(self, epoch: str) -> float:
        """Return the last number of an epoch; infinity for the newest one."""
        epochs = [one for one, _ in self.head.epochs]
        after = self.head.epochs[epochs.index(epoch) + 1 :]
        return after[0][1] - 1 if after else math.inf


class _ComingPage:
    """A page that is being read, and those who wait for it."""

    __slots__ = ("landed", "page")

    def __init__(self) -> None:
        self.landed = trio.Event()
        self.page: LogPage | None = None


class LogPages:
    """The pages of one log that this process has read lately.

    Args:
        log: the log.

    Attributes:
        read, shared: how many pages were read, and how many were there already.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._pages: OrderedDict[tuple[str, Position], tuple[LogPage, int, float]] = OrderedDict()
        self._size = 0
        self._flights: dict[tuple[str, Position], _ComingPage] = {}
        self._forgotten = 0  # calls of `forget`
        self.read: int = 0
        self.shared: int = 0

    async def after(
        self, topic: str, position: Position, decode: Decode, *, goes_on: bool = False
    ) -> LogPage:
        """Return some of what follows `position`. **Waits** for the log if it is not there.

        Args:
            topic: its name in the log.
            position: where a client is.
            decode: makes an event of a record.
            goes_on: whether it has come to the end of a page. Others will come there, too.

        Raises:
            LogUnavailableError: the log can't be read.
        """
        epoch, number = position
        start = epoch, number - number % PAGE_ITEMS
        if start == position or (goes_on and (topic, start) not in self._pages):
            return await self._at(topic, position, decode)
        page = await self._at(topic, start, decode)
        # Its epoch may begin in the middle of such a page, or the page may end before it.
        return page.behind(position) or await self._at(topic, position, decode)

    async def _at(self, topic: str, start: Position, decode: Decode) -> LogPage:
        """Return the page that begins behind `start`."""
        key = topic, start
        while True:
            self._expire()
            flight = self._flights.get(key)
            if key in self._pages:
                self.shared += 1
                return self._pages[key][0]
            if flight is None:
                return await self._fetch(key, decode)
            await flight.landed.wait()
            if flight.page is not None:  # else its reader failed, or has left
                self.shared += 1
                return flight.page

    def forget(self, topic: str) -> None:
        """Keep no page of a topic that was deleted, nor one that is on its way."""
        self._forgotten += 1
        for key in [key for key in self._pages if key[0] == topic]:
            self._size -= self._pages.pop(key)[1]

    async def _fetch(self, key: tuple[str, Position], decode: Decode) -> LogPage:
        topic, start = key
        flight = self._flights[key] = _ComingPage()
        forgotten = self._forgotten
        try:
            head, known, records = await self._log.read(topic, start, PAGE_ITEMS)
            self.read += 1
            events = (LogEvent((record.epoch, record.number), decode(record)) for record in records)
            page = flight.page = LogPage(head, known, tuple(events))
        finally:
            del self._flights[key]
            flight.landed.set()
        if records and forgotten == self._forgotten:  # else there may be others the next time
            size = sum(len(record.data) for record in records)
            self._pages[key] = page, size, clock.current_time()
            self._size += size
            self._expire()
        return page

    def _expire(self) -> None:
        oldest = clock.current_time() - _PAGE_SECONDS
        while self._pages:
            _, size, since = next(iter(self._pages.values()))
            if since > oldest and self._size <= _PAGES_BYTES:
                break
            self._pages.popitem(last=False)
            self._size -= size


def encoded_once(published: Published, encoder: Encoder) -> bytes:
    """Return the encoding of a page's event; keep it if it is the first one."""
    if published.format is None:
        return published.encode_first(encoder)
    if published.format == encoder and published.encoding is not None:
        return published.encoding
    return published.encode(encoder)
