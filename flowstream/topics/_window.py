"""The window: what one process has of a topic that is in a log.

The log decides what was published, and in which order. The window is a `History` of the newest
events, with their encodings, from which this process's clients are served. It has numbers of its
own, which only grow. The log's numbers may go back, when events were lost and a new epoch begins.
A table of stretches maps one to the other::

    the log     e1  1042 1043 … 1050  e2  1048 1049 …        1049 and 1050 of e1 were lost
    the window      1042 1043 … 1050      1052 1053 …
                    ▲ a stretch           ▲ a stretch; 1051 is the seam

A **seam** is a place at which the window does not follow on itself: events were lost, or trimmed
before they were read. Behind it the window begins anew. Who lacks an event from before it, or reads
over it, reads that from the log itself (`LogCursor`), and is told of the gap there.

The window is small, whatever the topic keeps in the log: see `window_of`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from flowstream.abc import Head, Position
from flowstream.ids._event_id import event_id, parse_event_id
from flowstream.limits import Replay
from flowstream.topics._encodings import Encodings
from flowstream.topics._history import History, Missing
from flowstream.topics._published import Published

# The most that a process keeps of each topic that its clients read.
_WINDOW_ITEMS = 1000
_WINDOW_BYTES = 1 << 20

# Stretches that are remembered: as many as a log remembers epochs.
_STRETCHES = 8


class Stretch(NamedTuple):
    """Numbers of one epoch that follow on each other."""

    start: int
    """The window's number of the place behind which it begins."""
    epoch: str
    """Its epoch."""
    shift: int
    """What to add to the log's number to get the window's."""


class Window(History):
    """The newest events of a topic in a log, as far as this process has them.

    Args:
        replay: what the topic keeps in the log; the window keeps less.
        clock: returns seconds.

    Attributes:
        is_open: whether it follows the log. Until then it has no position.
        opened: the number behind which it has followed the log since it was opened.
    """

    __slots__ = ("_stretches", "is_open", "opened")

    def __init__(self, replay: Replay, clock: Callable[[], float]) -> None:
        super().__init__(window_of(replay), clock)
        self._stretches: list[Stretch] = []
        self.is_open: bool = False
        self.opened: int = 0

    # -- what it has -----------------------------------------------------------------------

    @property
    def position(self) -> Position:
        """The log's position behind its newest event."""
        return self.position_of(self.head)

    @property
    def beginning(self) -> Position:
        """The log's position before all events of the epochs that it knows."""
        first = self._stretches[0]
        return first.epoch, first.start - first.shift

    def position_of(self, number: int) -> Position:
        """Return the log's position behind event `number` of the window."""
        stretch = self._stretches[0]
        for one in self._stretches:
            if one.start > number:
                break
            stretch = one
        return stretch.epoch, number - stretch.shift

    def number_of(self, position: Position) -> int | None:
        """Return the window's number of a position; None if it is of no stretch.

        It may be below that of the oldest event, or above that of the newest.
        """
        end = None
        for stretch in reversed(self._stretches):
            if stretch.epoch == position[0]:
                number = position[1] + stretch.shift
                if number >= stretch.start or stretch is self._stretches[0]:
                    return number if end is None else min(number, end)
            end = stretch.start - 1
        return None

    def start_of(self, epoch: str) -> int | None:
        """Return the number behind which `epoch`, or a later one, begins; None if none has."""
        found = (stretch.start for stretch in self._stretches if stretch.epoch >= epoch)
        return next(found, None)

    def has(self, number: int) -> bool:
        """Return whether it has all events behind `number`."""
        self.trim()
        return self.first - 1 <= number <= self.head

    @property
    def oldest_stamp(self) -> float:
        """When the oldest event was published that may be served."""
        return self._clock() - self.replay.seconds

    def crosses(self, seen: int, number: int) -> bool:
        """Return whether an unknown number of events was lost between two of its numbers."""
        return any(seen < stretch.start <= number for stretch in self._stretches[1:])

    def id_of(self, number: int) -> str:
        """Return the id with which a client comes back that has event `number`, kept or not."""
        if self.first <= number <= self.head:
            return self._kept[number - self.first].id
        return event_id(*self.position_of(number))

    def locate(self, id: str) -> int | Missing:
        """Return the number of the last event that a client says it saw, or that it is missing."""
        position = parse_event_id(id)
        number = None if position is None else self.number_of(position)
        if number is None or number > self.head:
            return Missing(None)
        if not self.has(number):
            return Missing(None if self.crosses(number, self.head) else self.head - number)
        return number

    # -- following the log -----------------------------------------------------------------

    def begin(self, head: Head) -> None:
        """Follow the log from its head on.

        If the head is behind what was here before, the log has lost events. Then the window stays
        where it was, and the next read tells the log.
        """
        epochs = head.epochs
        if not self._stretches:
            self._stretches = [
                Stretch(first - 1 + seams, epoch, seams)
                for seams, (epoch, first) in enumerate(epochs)
            ]
            self._forget_all(head.number + len(epochs) - 1)
        else:
            known = [epoch for epoch, _ in epochs]
            place = known.index(self.epoch) + 1 if self.epoch in known else -1
            for epoch, first in epochs[place:]:
                self._advance((self.epoch, first - 1))
                self.break_off((epoch, first - 1))
            self._advance((self.epoch, head.number))
        self.epoch = self._stretches[-1].epoch
        self.opened = self.head
        self.is_open = True

    def _advance(self, position: Position) -> None:
        """Go on behind `position`, if that is further than here."""
        number = self.number_of(position)
        if number is not None and number > self.head:
            self._forget_all(number)

    def end(self) -> None:
        """Follow the log no more: what it has is no longer the newest."""
        self.is_open = False

    def receive(self, position: Position, published: Published) -> None:
        """Give the log's next event its number, before it is appended.

        Args:
            position: its epoch and number, which must follow on.
            published: the event, with its id.
        """
        assert position == (self.position[0], self.position[1] + 1)
        published.number = self.head + 1

    def skip_to(self, position: Position) -> None:
        """Go on behind `position`, later in the same epoch: what lies between is not to be had."""
        number = self.number_of(position)
        assert number is not None
        assert number > self.head
        self._forget_all(number)

    def break_off(self, position: Position) -> None:
        """Go on behind `position`: an unknown number of events was lost before it."""
        self._forget_all(self.head + 1)
        self._stretches.append(Stretch(self.head, position[0], self.head - position[1]))
        del self._stretches[:-_STRETCHES]
        self.epoch = position[0]

    def _forget_all(self, head: int) -> None:
        """Drop what is kept, and go on behind `head`."""
        self.head = self.delivered = self._sealed = head
        self._kept.clear()
        self._encodings = Encodings()
        self._size = self._loose = 0
        self.first = head + 1


def window_of(replay: Replay) -> Replay:
    """Return what a process keeps of a topic that keeps `replay` in its log."""
    return Replay(
        items=min(replay.items, _WINDOW_ITEMS),
        seconds=replay.seconds,
        bytes=min(replay.bytes, _WINDOW_BYTES),
    )
