"""A tail: it hears what workers write to one of the log's internal topics.

A topic that clients read has a window, cursors and a fan-out (`Follower`). What workers tell each
other needs none of these: each record goes to a function once, in order, and nothing is kept. Hints
and reads are used as a `Follower` uses them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import trio

from flowstream.abc import Head, Log, Position, Record
from flowstream.topics._log_reader import PAGE_ITEMS, LogReader


class LogTail(LogReader):
    """One internal topic of a log, as this process hears it.

    Args:
        topic: its name in the log.
        log: the log.
        hear: called with each record.
        missed: called when records were lost or trimmed before they were heard.
        stale: called when there is something to read: then `catch_up` is to be called.
        past: whether to hear first what the topic still keeps from before it was opened.

    Attributes:
        position: the log's position behind the last record that was heard; None until it is open.
    """

    is_stale: bool

    def __init__(
        self,
        topic: str,
        log: Log,
        hear: Callable[[Record], None],
        missed: Callable[[], None],
        stale: Callable[[LogReader], None],
        *,
        past: bool = False,
    ) -> None:
        super().__init__(topic, log, stale)
        self.position: Position | None = None
        self._hear = hear
        self._missed = missed
        self._past = past
        self._early = False  # whether a hint came before it was open
        self._caught_up = trio.Event()

    async def until_caught_up(self) -> None:
        """**Wait** until it is open, and has heard what it was behind by then."""
        await self._caught_up.wait()

    def begin(self, head: Head) -> None:
        """Hear the topic from its head on, or from its oldest record. Hints of it come already."""
        behind = self._past and head.first <= head.number
        self.position = _before(head) if behind else (head.epochs[-1][0], head.number)
        if behind or self._early:
            self.mark_stale()
        else:
            self._caught_up.set()
        self._early = False

    def close(self) -> None:
        """Hear no more."""
        self.position = None
        self.is_stale = self._early = False
        self._caught_up = trio.Event()

    def hear(self, before: int, records: Sequence[Record]) -> None:
        """Take a hint: committed records, and the number that they follow on."""
        if self.position is None:
            self._early = True
            return
        if not records:
            return
        epoch, number = self.position
        if (
            before <= number
            and records[0].epoch == records[-1].epoch == epoch
            and not (self.is_stale or self._is_reading)
        ):
            self._take(records)
        else:
            self.mark_stale()

    @property
    def idle_since(self) -> float:
        """Infinity, for it is always needed."""
        return math.inf

    def _place(self) -> Position | None:
        return self.position

    async def catch_up(self) -> None:
        """Read until everything was heard.

        Raises:
            LogUnavailableError: the log can't be read. There is still something to read.
        """
        await super().catch_up()
        self._caught_up.set()

    async def _read(self) -> None:
        at = self.position
        assert at is not None
        head, known, records = await self._log.read(self.topic, at, PAGE_ITEMS, mine=True)
        if self.position is None:
            return
        epoch, first = head.epochs[-1]
        if not known:
            self.position = epoch, first - 1
            if head.number:  # an empty topic was never written to, so nothing is missed
                self._missed()
            if head.number >= first:
                self.is_stale = True
        elif records:
            self._take(records)
            if self.position[1] < head.number or self.position[0] != epoch:
                self.is_stale = True
        elif (epoch, head.number) != at:
            self.position = epoch, head.number
            if head.number > at[1]:
                self._missed()  # they are no longer kept

    def _take(self, records: Sequence[Record]) -> None:
        for record in records:
            assert self.position is not None
            epoch, number = self.position
            if record.epoch == epoch and record.number <= number:
                continue
            if record.number != number + 1:
                self._missed()
            self.position = record.epoch, record.number
            self._hear(record)


def _before(head: Head) -> Position:
    """Return the position before the oldest record that can be read."""
    epoch = head.epochs[0][0]
    for one, first in head.epochs:
        if first <= head.first:
            epoch = one
    return epoch, head.first - 1
