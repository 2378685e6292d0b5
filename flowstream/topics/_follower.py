"""A follower: it keeps one window in step with its topic in the log.

News come as hints, which may be lost, late or double. One that follows on goes into the window.
Any other one says only that there is something to read::

    closed ──► opening ──► in step ◄──────────────┐
      ▲                      │ a hint that does not follow on, or a head that is ahead
      │                    stale ──► read ────────┘
      └── nobody subscribes any more

What it reads is from one moment of the log. So there a hole is a hole: events that were trimmed,
or lost with the end of an epoch. It becomes a seam of the window.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

import trio

from flowstream._clock import clock
from flowstream._closing import CloseReason
from flowstream.abc import Head, Log, Position, Record
from flowstream.ids._event_id import event_id
from flowstream.tasks._failure import passes
from flowstream.topics._envelope import UnknownEnvelopeError, unwrap
from flowstream.topics._fanout import Fanout
from flowstream.topics._log_reader import PAGE_ITEMS, LogReader
from flowstream.topics._log_statistics import LogCounts
from flowstream.topics._published import Published
from flowstream.topics._window import Window

logger = logging.getLogger("flowstream")

_NOTHING: Position = ("", -1)

# Events that are pushed to subscribers at once: half a default buffer. If there are more, each
# pulls them at its own pace. Else many would lose some whenever the log had been away for a while.
_PUSHED = 128
# Deliveries for which no task is started.
_DELIVERIES = 256
# Seconds that the next page waits for subscribers to be handed the last one.
_DELIVERY_SECONDS = 1.0


class Follower(LogReader):
    """One topic of a log, as this process follows it.

    Args:
        topic: its name in the log.
        log: the log.
        window: where its events go.
        fanout: delivers them.
        published: called with each event that enters the window.
        stale: called when there is something to read: then `catch_up` is to be called.
        counts: counts what happens; by default its own.

    Attributes:
        window: the same.
        counts: what happened to it so far.
    """

    def __init__(
        self,
        topic: str,
        log: Log,
        window: Window,
        fanout: Fanout,
        published: Callable[[Published], None],
        stale: Callable[[LogReader], None],
        counts: LogCounts | None = None,
    ) -> None:
        super().__init__(topic, log, stale)
        self.window = window
        self.counts = counts or LogCounts()
        self.fanout = fanout
        self._published = published
        self._changed: trio.Event | None = None  # while somebody waits
        self._heard: Position = _NOTHING  # the newest event of which it heard before it began
        self._warned = False

    # -- opening and closing ---------------------------------------------------------------

    def begin(self, head: Head) -> None:
        """Follow the topic from its head on. The log sends hints of it already."""
        if self.window.is_open:
            self.compare(head)  # two wanted it opened
            return
        self.window.begin(head)
        self._change()
        newest = max(self._heard, (head.epochs[-1][0], head.number))
        if newest != self.window.position:
            self.mark_stale()

    async def until_open(self) -> None:
        """**Wait** until the window is open."""
        while not self.window.is_open:
            await self._wait()

    async def until(self, position: Position) -> int | None:
        """**Wait** until the window has come to `position`; return its number there.

        If it has not, it reads at once, since somebody has seen that the log is further.

        None if the window is closed, or has gone on without it.
        """
        is_told = False
        while self.window.is_open:
            number = self.window.number_of(position)
            if number is not None and number <= self.window.head:
                return number
            if number is None and position[0] <= self.window.position[0]:
                return None
            if not is_told:
                is_told = True
                self.mark_stale()
            await self._wait()
        return None

    @property
    def seams(self) -> int:
        """Places at which events were missing, so far."""
        return self.counts["trimmed_seams"] + self.counts["lost_seams"]

    @property
    def idle_since(self) -> float:
        """When the last subscriber left; infinity while there are any."""
        return math.inf if self.fanout.count else self.fanout.last_change

    def end_life(self, before: str | None) -> None:
        """End the subscribers of a topic that was deleted.

        Args:
            before: the epoch of its next life. Who came in that life stays. None: nobody stays.
        """
        start = None if before is None else self.window.start_of(before)
        if before is not None and not self.window.is_open:
            return  # they are about to come, into the new life
        for member in list(self.fanout.members()):
            if start is None or member.joined < start:
                member.subscriber.close(CloseReason.STOPPED, "Topic.delete()")

    def close(self) -> None:
        """Follow the topic no more."""
        self.window.end()
        self.is_stale = False
        self._heard = _NOTHING
        self._change()

    async def _wait(self) -> None:
        if self._changed is None:
            self._changed = trio.Event()
        await self._changed.wait()

    def _change(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    # -- news ------------------------------------------------------------------------------

    def hear(self, before: int, records: Sequence[Record]) -> None:
        """Take a hint: committed events, and the number that they follow on."""
        if not records:
            return
        if not self.window.is_open:
            self._heard = max(self._heard, (records[-1].epoch, records[-1].number))
        elif self._follows_on(before, records):
            self.counts.add(fitting_hints=1)
            self._take(records)
            self._hand_out(len(records))
        else:
            self.counts.add(other_hints=1)
            self.mark_stale()

    def _follows_on(self, before: int, records: Sequence[Record]) -> bool:
        """Return whether a hint has all that comes next, and perhaps some of what is here."""
        epoch, number = self.window.position
        return before <= number and all(
            record.epoch == epoch and record.number == before + place
            for place, record in enumerate(records, 1)
        )

    def _place(self) -> Position | None:
        return self.window.position if self.window.is_open else None

    async def _read(self) -> None:
        """Read once."""
        window = self.window
        at = window.position
        head, known, records = await self._log.read(self.topic, at, PAGE_ITEMS, mine=True)
        self.counts.add(reads=1)
        if not window.is_open:
            return
        if window.position[0] != at[0]:
            self.is_stale = True  # it was closed and opened meanwhile
            return
        epoch, first = head.epochs[-1]
        if not known:
            self._break_off((epoch, max(first - 1, head.number - PAGE_ITEMS)))
        elif records:
            self._take(records)
        elif at == window.position and at != (epoch, head.number):
            self._pass_over((epoch, head.number))  # they are no longer kept, or lost
        if window.position[0] != epoch or window.position[1] < head.number:
            self.is_stale = True
        self._change()
        with trio.move_on_after(_DELIVERY_SECONDS):
            await self.fanout.deliver(window.head)

    # -- the window ------------------------------------------------------------------------

    def _take(self, records: Sequence[Record]) -> None:
        """Put what is new of these into the window; where one is missing, make a seam."""
        window = self.window
        for record in records:
            epoch, number = window.position
            if record.epoch == epoch and record.number <= number:
                continue
            if record.epoch != epoch or record.number != number + 1:
                self._pass_over((record.epoch, record.number - 1))
            published = self.decode(record)
            if published is None:
                self.counts.add(unreadable=1)
                self._pass_over((record.epoch, record.number))
                continue
            window.receive((record.epoch, record.number), published)
            self._encode(published)
            window.append(published)
            self._published(published)
        self._change()
        if len(records) > _PUSHED:
            self._put_all_behind()

    def decode(self, record: Record) -> Published | None:
        """Return an event of the log; None if this release can't read it."""
        try:
            event = unwrap(record.data, event_id(record.epoch, record.number))
        except UnknownEnvelopeError as error:
            if not self._warned:
                self._warned = True
                logger.error(
                    "an event of the topic %r in the log can't be read, and its subscribers are "
                    "told of a gap: %s. Does a newer release write to this log?",
                    self.topic,
                    error,
                )
            return None
        published = Published(0, event, clock.current_time() - record.age)
        published.size = len(record.data)
        return published

    def _encode(self, published: Published) -> None:
        """Encode an event in a format of the subscribers, which they will want."""
        encoder = self.fanout.encoder
        try:
            if encoder is not None:
                published.encode_first(encoder)
        except BaseException as error:  # noqa: ASYNC103  # see `passes`
            if passes(error):
                raise
            # Theirs alone who want it in that format.

    def _pass_over(self, position: Position) -> None:
        """Go on behind `position`; what lies before it is not to be had here."""
        if position[0] == self.window.position[0]:
            self.counts.add(trimmed_seams=1)
            self._leave_out(lambda: self.window.skip_to(position))
        else:
            self._break_off(position)

    def _break_off(self, position: Position) -> None:
        self.counts.add(lost_seams=1)
        self._leave_out(lambda: self.window.break_off(position))

    def _leave_out(self, make_seam: Callable[[], None]) -> None:
        make_seam()
        self._put_all_behind()

    def _put_all_behind(self) -> None:
        for member in self.fanout.members():
            member.put_behind()

    def _hand_out(self, events: int) -> None:
        if not self.fanout.count:
            self.window.delivered = self.window.head
        elif events * self.fanout.count <= _DELIVERIES:
            self.fanout.deliver_nowait()
        else:
            self.fanout.assist()
