"""The follower of a run in a log: one that knows the run's last record.

That record is no event. The window ends in front of it, or behind it if it was opened later. When
the window has all events, the readers are told how the run ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flowstream._clock import clock
from flowstream._event import Event
from flowstream.abc import Head, Log, Position, Record
from flowstream.runs._run_end import RunEnd, is_end, unwrap_end
from flowstream.topics._fanout import Fanout
from flowstream.topics._follower import Follower
from flowstream.topics._log_reader import LogReader
from flowstream.topics._log_statistics import LogCounts
from flowstream.topics._published import Published
from flowstream.topics._window import Window


class RunFollower(Follower):
    """A run's topic, as this process follows it.

    Args:
        finished: called once, when the window has all events of a run that has ended.
        topic, log, window, fanout, published, stale, counts: see `Follower`.

    Attributes:
        end: the position of the last record, if it is known.
        last: what that says.
        is_over: whether `finished` was called.
    """

    def __init__(
        self,
        finished: Callable[[RunEnd], None],
        topic: str,
        log: Log,
        window: Window,
        fanout: Fanout,
        published: Callable[[Published], None],
        stale: Callable[[LogReader], None],
        counts: LogCounts,
    ) -> None:
        super().__init__(topic, log, window, fanout, published, stale, counts)
        self._finished = finished
        self.end: Position | None = None
        self.last: RunEnd | None = None
        self.is_over: bool = False

    def learn(self, position: Position, end: RunEnd) -> None:
        """Take the run's last record, whoever has read it."""
        if self.end is None:
            self.end, self.last = position, end
        self._look_whether_over()

    async def until_over(self) -> None:
        """**Wait** until the window has all events of a run whose end is known."""
        while not self.is_over:
            await self._wait()

    def begin(self, head: Head) -> None:
        """Follow the topic from its head on."""
        super().begin(head)
        self._look_whether_over()

    def hear(self, before: int, records: Sequence[Record]) -> None:
        """Take a hint."""
        if not self.is_over:
            super().hear(before, records)

    def mark_stale(self) -> None:
        """Note that there is something to read."""
        if not self.is_over:
            super().mark_stale()

    def compare(self, head: Head) -> None:
        """Take the log's word for how far the topic has come."""
        if not self.is_over:
            super().compare(head)

    def decode(self, record: Record) -> Published | None:
        """Return an event of the log; for the last record one with a `RunEnd`."""
        if not is_end(record.data):
            return super().decode(record)
        return Published(0, Event(unwrap_end(record.data)), clock.current_time() - record.age)

    async def _read(self) -> None:
        await super()._read()
        if self.is_over:
            self.is_stale = False

    def _take(self, records: Sequence[Record]) -> None:
        last = records[-1]
        if not is_end(last.data):
            super()._take(records)
            return
        if len(records) > 1:
            super()._take(records[:-1])
        epoch, number = self.window.position
        if (last.epoch, last.number - 1) > (epoch, number):  # what lies before it is gone
            self._pass_over((last.epoch, last.number - 1))
        self.learn((last.epoch, last.number), unwrap_end(last.data))

    def _look_whether_over(self) -> None:
        if self.is_over or self.end is None or not self.window.is_open:
            return
        epoch, number = self.end
        if self.window.position < (epoch, number - 1):
            self.mark_stale()
            return
        self.is_over, self.is_stale = True, False
        assert self.last is not None
        self._finished(self.last)
        self._change()
