"""The queue inside a buffer: bounded in items and bytes, exact about what is missing.

It is sans-I/O; the clock is an argument. This module has the common part of both kinds of queue:
bounds, counts, and carrying out a policy's verdict. `OrderedQueue` computes holes from sequence
numbers. `KeyedQueue` counts them, because its items change places.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Callable
from typing import NamedTuple

from flowstream.abc import Policy, Verdict
from flowstream.limits import Buffer


class Outcome(enum.Enum):
    """What happened to an offered item."""

    ADMITTED = enum.auto()
    DROPPED = enum.auto()
    WAIT = enum.auto()
    """The queue is unchanged: offer the item again when there is room."""
    DISCONNECT = enum.auto()
    """The queue is unchanged: disconnect the client."""


class Gap(NamedTuple):
    """A run of items that are not delivered, in its place among those that are."""

    missed: int | None
    after: str | None
    before: str | None


class Slice(NamedTuple):
    """The encodings of many items in a row, as one piece."""

    items: int
    data: bytes


# The hot path reads these a million times a second; a global is cheaper than two attributes.
_ADMITTED, _WAIT = Outcome.ADMITTED, Outcome.WAIT


class Queue(abc.ABC):
    """Bounds, counts and verdicts: the common part of both kinds of queue.

    Args:
        bounds: how many items and bytes it holds.
        policy: decides what happens when it is full.
        clock: returns seconds.

    Attributes:
        items, bytes: how many are queued now.
        offered: sequence number of the last item that was admitted or dropped.
        dropped: how many items were ever dropped.
        gaps: how many gaps `take` has ever returned.
    """

    __slots__ = (
        "_clock",
        "_essential_bytes",
        "_essential_items",
        "_judge",
        "_max_age",
        "_max_bytes",
        "_max_items",
        "bytes",
        "dropped",
        "gaps",
        "items",
        "offered",
    )

    def __init__(self, bounds: Buffer, policy: Policy, clock: Callable[[], float]) -> None:
        self._max_items = bounds.items
        self._max_bytes = bounds.bytes
        self._max_age = policy.max_age
        self._clock = clock
        self._judge = policy.start()
        self._essential_items = 0
        self._essential_bytes = 0
        self.items: int = 0
        self.bytes: int = 0
        self.offered: int = 0
        self.dropped: int = 0
        self.gaps: int = 0

    @property
    def level(self) -> float:
        """How full the queue is, from 0 to 1 (above 1 with one oversized item)."""
        return max(self.items / self._max_items, self.bytes / self._max_bytes)

    def offer(
        self,
        payload: bytes,
        id: str | None = None,
        *,
        essential: bool = False,
        key: object = None,
        bare: bytes | None = None,
    ) -> Outcome:
        """Offer one item. Unless it has to wait, it gets the number `offered` + 1.

        Args:
            payload: the encoded item.
            id: its id, for gaps next to it.
            essential: whether it must not be dropped.
            key: its key, for a keyed policy.
            bare: the same item encoded without its id, for a keyed policy.
        """
        size = len(payload) + (len(bare) if bare is not None else 0)
        if (self._judge.behind and not essential) or not self._fits(size):
            outcome = self._make_room(size, essential, key)
            if outcome is not _ADMITTED:
                return outcome
        self.offered += 1
        self._append(payload, id, essential, key, bare, size)
        return _ADMITTED

    def offer_plain(self, payload: bytes, id: str | None = None) -> Outcome:
        """Offer an item that has no key and may be dropped: a fast `offer`, for busy streams."""
        return self.offer(payload, id)

    def has_room(self, size: int) -> bool:
        """Return whether an item of `size` bytes fits without a verdict."""
        return self._fits(size)

    @abc.abstractmethod
    def pass_by(self, items: int, id: str | None) -> None:
        """Count items that were delivered past the queue while nothing was queued.

        Args:
            items: how many. They get numbers as if they had been offered.
            id: the id of the last one.
        """

    @property
    @abc.abstractmethod
    def last_id(self) -> str | None:
        """The id of the last item that was taken or passed by; None if it had none."""

    def begin_in_order(self) -> None:  # noqa: B027  # others are always in order
        """Deliver everything in order until the client has got an id."""

    @abc.abstractmethod
    def lose(self, missed: int | None) -> Gap:
        """Count items that were lost before they were offered, and return their gap.

        Call it only while nothing is queued.

        Args:
            missed: how many. They get numbers as if they had been offered. None if that is
                unknown: then nothing is counted.
        """

    def take(self, limit: int) -> list[bytes | Gap]:
        """Remove and return the oldest items: at most `limit` bytes, but at least one item.

        Gaps are in their places among them. The list is empty only if there is nothing to deliver
        and nothing to announce.
        """
        pieces = self._take(limit)
        self._judge.drained(self.level)
        return pieces

    def clear(self) -> None:
        """Drop everything that is queued. It is counted as dropped, but not announced."""
        self.dropped += self.items
        self._clear()
        self.items = self.bytes = self._essential_items = self._essential_bytes = 0

    def _fits(self, size: int) -> bool:
        return not self.items or (
            self.items < self._max_items and self.bytes + size <= self._max_bytes
        )

    def _stamp(self) -> float:
        """Return the time to remember with an item, if its age will matter."""
        return 0.0 if self._max_age is None else self._clock()

    def _expired(self, stamp: float) -> bool:
        return self._max_age is not None and self._clock() - stamp > self._max_age

    def _make_room(self, size: int, essential: bool, key: object) -> Outcome:
        verdict = self._judge.arrive(self._clock(), essential)
        if verdict is Verdict.WAIT:
            return _WAIT
        if verdict is Verdict.DISCONNECT:
            return Outcome.DISCONNECT
        if verdict is Verdict.DROP_ARRIVING:
            if essential:
                return _WAIT
            self.offered += 1
            self._drop_arriving()
            return Outcome.DROPPED
        if self._essential_items and (
            self._essential_items >= self._max_items
            or self._essential_bytes + size > self._max_bytes
        ):
            return _WAIT  # evicting all droppable items would not be enough: evict none
        if not essential:
            self._supersede(key)
        if verdict is Verdict.REPLACE_NEWEST and self.items > self._essential_items:
            self._evict_newest()
        evict = self._evict_newest if verdict is Verdict.EVICT_NEWEST else self._evict_oldest
        while not self._fits(size):
            evict()
        return _ADMITTED

    def _supersede(self, key: object) -> None:  # noqa: B027  # only keyed queues do
        """Drop the item queued under `key`, if this queue uses keys."""

    def _gap(self, missed: int | None, after: str | None, before: str | None) -> Gap:
        self.gaps += 1
        return Gap(missed, after, before)

    @abc.abstractmethod
    def _append(
        self,
        payload: bytes,
        id: str | None,
        essential: bool,
        key: object,
        bare: bytes | None,
        size: int,
    ) -> None:
        """Append an item that fits, with the number `offered`."""

    @abc.abstractmethod
    def _take(self, limit: int) -> list[bytes | Gap]: ...

    @abc.abstractmethod
    def _evict_oldest(self) -> None: ...

    @abc.abstractmethod
    def _evict_newest(self) -> None: ...

    @abc.abstractmethod
    def _drop_arriving(self) -> None: ...

    @abc.abstractmethod
    def _clear(self) -> None: ...
