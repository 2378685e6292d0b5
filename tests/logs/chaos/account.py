"""What one client got, over all its connections, checked piece by piece."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from typing import Any

from .texts import passes
from .truth import LedgerError, Place, TopicTruth, name_of

_Gap = tuple[Place, Place, int | None]  # what lies between the two was missed


class Account:
    """One client's account.

    Args:
        name: of the client.
        topic: what is known of its topic.
        start: the place from which on it wants everything; None if it comes new.
        filtered: whether it wants only some.
        keeps_up: whether it reads so fast, from a topic that keeps so much, that no gap is excused,
            but that between two epochs.

    Attributes:
        first, last: everything between them is accounted for.
        gaps: what was missed.
    """

    def __init__(
        self, name: str, topic: TopicTruth, start: Place | None, *, filtered: bool, keeps_up: bool
    ) -> None:
        self.name = name
        self.topic = topic
        self.filtered = filtered
        self.keeps_up = keeps_up
        self.first = self.last = start
        self.gaps: list[_Gap] = []
        self.counts: Counter[str] = Counter()
        self._numbers: dict[str, array[int]] = defaultdict(lambda: array("Q"))
        self._pending: int | str | None = ""  # what the last gap said was missed; "" for no gap
        self._lost = False  # it came with a wrong id, and is to be told so
        self._anew = start is None  # it takes the place that it is given
        self._last_id: str | None = None
        self._trace: deque[Any] = deque(maxlen=6)

    def __str__(self) -> str:
        return f"client {self.name} of {self.topic.name}, behind {self.last} ({[*self._trace]})"

    def begin(self, *, came_with: str | None, wrong: bool) -> None:
        """A connection begins."""
        self.counts["connections"] += 1
        self._trace.append(("came with", came_with))
        self._pending = ""
        self._lost = wrong
        self._anew = wrong or self.last is None
        self._last_id = came_with

    def event(self, id: str | None, text: str) -> None:
        """An event has come."""
        self._trace.append(id)
        if id is None:
            raise LedgerError(f"{self} got an event without an id")
        place, name = Place.of(id), name_of(text)
        self.topic.note(place, name)
        if self._lost:
            raise LedgerError(f"{self} got an event in front of the gap that was due")
        if self.filtered and not passes(name):
            raise LedgerError(f"{self} got {name}, which it does not want")
        self._follow_on(place)
        self._last_id = id
        self._numbers[place.epoch].append(place.number)
        self.counts["deliveries"] += 1

    def gap(self, body: dict[str, Any]) -> None:
        """A gap has come."""
        missed, after = body["missed"], body["after"]
        self._trace.append(("gap", missed, after, body["before"]))
        self.counts["gaps"] += 1
        # A log that has lost the end of an epoch can't tell which numbers were in it.
        might_be = self._lost and missed is None and self.topic.rolls_back
        if after is not None and ((self._anew and not might_be) or after != self._last_id):
            raise LedgerError(f"{self} was told of a gap behind {after}")
        if missed is not None and missed <= 0:
            raise LedgerError(f"{self} was told of a gap of {missed}")
        if self._lost:
            if missed is not None:
                raise LedgerError(f"{self} came with a wrong id, and is said to miss {missed}")
            self._lost = False
        elif self.keeps_up and not (missed is None and self.topic.rolls_back):
            raise LedgerError(f"{self} keeps up, and was told of a gap of {missed}")
        if self._pending == "":
            self._pending = missed
        elif self._pending is not None and missed is not None:
            assert isinstance(self._pending, int)
            self._pending += missed
        else:
            self._pending = None

    def snapshot(self, id: str | None, entries: list[dict[str, Any]]) -> None:
        """A snapshot has come."""
        self._trace.append(("snapshot", id))
        self.counts["snapshots"] += 1
        if id is None:
            raise LedgerError(f"{self} got a snapshot without an id")
        place = Place.of(id)
        if self._lost:
            raise LedgerError(f"{self} got a snapshot in front of the gap that was due")
        self.topic.snapshot(place, [(one["key"], name_of(one["data"])) for one in entries])
        self._go_back(place)
        if not self._anew and self.last is not None:
            self._check_snapshot(self.last, place)
        if self.last is not None and self.last < place:
            self.gaps.append((self.last, Place(place.epoch, place.number + 1), None))
        self._arrive(place)
        self._last_id = id

    def _check_snapshot(self, last: Place, place: Place) -> None:
        if place < last:
            if place.epoch != last.epoch or self._pending is not None or not self.topic.rolls_back:
                raise LedgerError(f"{self} got a snapshot of the past, {place}")
            # It was told. Its worker came new to a log that had lost its end, and can't know more.
            self.topic.set_back.append(last)
            self.last = place
            return
        if self._pending == "":
            if place != last:
                raise LedgerError(f"{self} got a snapshot that nothing called for, {place}")
        elif self._pending is not None and not self.filtered:
            due = Place(last.epoch, last.number + int(self._pending))
            if place != due:
                raise LedgerError(f"{self} was told of {self._pending} missed up to {place}")

    def end(self, kind: str, body: Any) -> None:
        """The stream was ended by the server."""
        self._trace.append((kind, body))
        self.counts[f"ended with {kind}"] += 1
        # It may fall behind faster than it can be given the state. It is told, and comes back.
        if kind == "failed" and (body["code"], body["retryable"]) != ("snapshot", True):
            raise LedgerError(f"{self} was told of a failure: {body}")

    def _follow_on(self, place: Place) -> None:
        """Check that `place` is what comes next."""
        went_back = self._go_back(place)
        last, pending = self.last, self._pending
        if self._anew or last is None:
            # It said that it has lost its place, and takes what it is given.
            if last is not None and last < place:
                self.gaps.append((last, place, None))
            self._arrive(place)
            return
        if place <= last:
            raise LedgerError(f"{self} got {place} twice, or out of order")
        if pending != "":
            self.gaps.append((last, place, None if pending is None else int(pending)))
        in_epoch = place.epoch == last.epoch and not went_back
        if self.keeps_up and pending is None and in_epoch:
            raise LedgerError(f"{self} keeps up, and was told of a gap before {place}")
        if not self.filtered:
            missed = 0 if pending == "" else pending
            if place.epoch != last.epoch:
                if missed is not None:
                    raise LedgerError(f"{self} was not told of an end of its epoch at {place}")
            elif missed is not None and place.number != last.number + 1 + int(missed):
                raise LedgerError(f"{self} was told of {missed} missed, and got {place}")
        self._arrive(place)

    def _go_back(self, place: Place) -> bool:
        """Take a place of an earlier epoch, if a split brain excuses that; return whether it did.

        The server that a worker still has does not know the newer epoch of the other one. So the
        client is told that it has lost its place.
        """
        last = self.last
        told = self.topic.splits and self._pending is None
        if not (told and last is not None and place < last and place.epoch != last.epoch):
            return False
        self.counts["went back"] += 1
        self.last = Place(place.epoch, place.number - 1)
        return True

    def _arrive(self, place: Place) -> None:
        if self.first is None:
            self.first = place
        self.last = place if self.last is None else max(self.last, place)
        if self._anew:
            self.last = place
        self._anew = False
        self._pending = ""

    # -- afterwards ------------------------------------------------------------------------

    def received_places(self) -> set[Place]:
        """Return the places of all events that it got."""
        return {
            Place(epoch, number) for epoch, numbers in self._numbers.items() for number in numbers
        }

    def excused(self, place: Place) -> bool:
        """Return whether a place lies in a gap."""
        found = bisect_left(self._gaps_by_end, place, key=lambda gap: gap[1])
        return any(low < place < high for low, high, _ in self._gaps_by_end[found : found + 64])

    def close(self) -> None:
        """Make it ready for `excused`."""
        self._gaps_by_end = sorted(self.gaps, key=lambda gap: gap[1])
