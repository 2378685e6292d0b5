"""The queue inside a buffer: bounded in items and bytes, exact about what is missing.

Values in, values out, and a clock that is handed in. Items wait in two lanes, droppable and
essential, each in order; a policy's verdict evicts from either end of the droppable lane in
O(1), and the lanes are merged again as they are taken. (One deque would have to be searched
for something that may go.)

Nothing records the holes. Each item has a sequence number and `taken` is the number up to
which all was delivered or announced, so a hole is a jump between the two, wherever it came
about and however many evictions made it. The lost tail is the same comparison with the
number last offered. Only `KeyedQueue` counts, because there items change places.
"""

from __future__ import annotations

import abc
import enum
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from flowstream.abc import Policy, Verdict
from flowstream.limits import Buffer


class Outcome(enum.Enum):
    """What became of an offered item."""

    ADMITTED = enum.auto()
    DROPPED = enum.auto()
    WAIT = enum.auto()
    """Nothing happened: offer it again when there is room."""
    DISCONNECT = enum.auto()
    """Nothing happened to the queue; the client is to go."""


class Gap(NamedTuple):
    """A run of items that are not delivered, at its place among those that are."""

    missed: int | None
    after: str | None
    before: str | None


# The hot path looks these up a million times a second; a global is cheaper than two
# attributes.
_ADMITTED, _WAIT = Outcome.ADMITTED, Outcome.WAIT


class Queue(abc.ABC):
    """Bounds, counts and verdicts: what both kinds of queue share.

    Attributes:
        items, bytes: what is queued now.
        offered: sequence number of the last item that was admitted or dropped.
        dropped: items that went, ever.
        gaps: runs of them that `take` has met, ever.
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
        self.items = 0
        self.bytes = 0
        self.offered = 0
        self.dropped = 0
        self.gaps = 0

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
        """Offer one item, which takes the number `offered` + 1 unless it has to wait.

        Args:
            payload: the encoded item.
            id: the id it carries, for the gaps beside it.
            essential: it may not be dropped.
            key: what it is about, for a keyed policy.
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
        """Offer an item without a key that may be dropped: `offer`, for the busiest streams."""
        return self.offer(payload, id)

    def has_room(self, size: int) -> bool:
        """Return whether an item of so many bytes fits without a verdict."""
        return self._fits(size)

    @abc.abstractmethod
    def pass_by(self, items: int, id: str | None) -> None:
        """Count items that were delivered past the queue while nothing was queued.

        Args:
            items: how many; they take numbers as if they had been offered.
            id: of the last.
        """

    @abc.abstractmethod
    def lose(self, missed: int | None) -> Gap:
        """Count items that were lost before they were offered, and return their gap.

        To be called while nothing is queued.

        Args:
            missed: how many; they take numbers as if they had been offered. None if that is
                not known: then nothing is counted.
        """

    def take(self, limit: int) -> list[bytes | Gap]:
        """Remove and return the oldest items, of `limit` bytes together, one at the least.

        Gaps stand at their places. The list is empty only if there is nothing to deliver
        and nothing to announce.
        """
        pieces = self._take(limit)
        self._judge.drained(self.level)
        return pieces

    def clear(self) -> None:
        """Drop everything that is queued; what was missed is counted, not announced."""
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
            return _WAIT  # evicting all that may go would not be enough: evict nothing
        if not essential:
            self._supersede(key)
        if verdict is Verdict.REPLACE_NEWEST and self.items > self._essential_items:
            self._evict_newest()
        evict = self._evict_newest if verdict is Verdict.EVICT_NEWEST else self._evict_oldest
        while not self._fits(size):
            evict()
        return _ADMITTED

    def _supersede(self, key: object) -> None:  # noqa: B027  # only keyed queues do
        """Drop what is queued under `key`, if the queue looks at keys."""

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
        """Put an item that fits at the end of its lane, with number `offered`."""

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


# seq, payload, id, stamp. A plain tuple: a NamedTuple takes 200 ns longer to make.
_Stored = tuple[int, bytes, str | None, float]

# The lanes of a queue that nothing was put into yet: an empty deque takes 760 bytes, and most
# of a topic's clients are idle, or are written to directly.
_NOTHING: deque[_Stored] = deque(maxlen=0)


class OrderedQueue(Queue):
    """The queue of every policy that leaves the order alone.

    Args:
        prefix: what the id of an item that is offered without one begins with; its number
            follows. Only a gap has to know it, so it is put together only there. None if
            items without an id have none.
    """

    __slots__ = ("_essential", "_last", "_plain", "_prefix", "_taken", "_unaged")

    def __init__(
        self,
        bounds: Buffer,
        policy: Policy,
        clock: Callable[[], float],
        prefix: str | None = None,
    ) -> None:
        super().__init__(bounds, policy, clock)
        self._plain = _NOTHING
        self._essential = _NOTHING
        self._prefix = prefix
        self._unaged = self._max_age is None
        self._taken = 0  # up to here all was delivered or announced
        self._last: tuple[int, str | None] = (0, None)  # number and id of the last delivered

    def offer(
        self,
        payload: bytes,
        id: str | None = None,
        *,
        essential: bool = False,
        key: object = None,
        bare: bytes | None = None,
    ) -> Outcome:
        """Offer one item; `key` and `bare` mean nothing here, and `bare` is not kept."""
        if essential:
            return super().offer(payload, id, essential=True)
        return self.offer_plain(payload, id)

    def offer_plain(self, payload: bytes, id: str | None = None) -> Outcome:
        """Offer an item that may be dropped, short-cut for the usual case of room."""
        items = self.items
        used = self.bytes + len(payload)
        if (
            items < self._max_items
            and used <= self._max_bytes
            and self._unaged
            and not self._judge.behind
        ):
            self.offered = seq = self.offered + 1
            if self._plain is _NOTHING:
                self._plain = deque()
            self._plain.append((seq, payload, id, 0.0))
            self.items = items + 1
            self.bytes = used
            return _ADMITTED
        return super().offer(payload, id)

    def pass_by(self, items: int, id: str | None) -> None:
        """Count items that were delivered past the queue while nothing was queued."""
        self.offered = self._taken = number = self.offered + items
        self._last = (number, id)

    def lose(self, missed: int | None) -> Gap:
        """Count items that were lost before they were offered, and return their gap."""
        self.dropped += missed or 0
        self.offered = self._taken = self.offered + (missed or 0)
        return self._gap(missed, self._name(*self._last), None)

    def _append(
        self,
        payload: bytes,
        id: str | None,
        essential: bool,
        key: object,
        bare: bytes | None,
        size: int,
    ) -> None:
        if self._essential is _NOTHING:
            self._essential = deque()
        if self._plain is _NOTHING:
            self._plain = deque()
        (self._essential if essential else self._plain).append(
            (self.offered, payload, id, self._stamp())
        )
        self.items += 1
        self.bytes += size
        if essential:
            self._essential_items += 1
            self._essential_bytes += size

    def _take(self, limit: int) -> list[bytes | Gap]:
        plain = self._plain
        if (
            plain
            and not self._essential
            and self._unaged
            and plain[-1][0] - plain[0][0] == len(plain) - 1
        ):
            pieces = self._take_run(limit)
        else:
            pieces = self._take_each(limit)
        if not self.items and self._taken < self.offered:
            pieces.append(self._gap(self.offered - self._taken, self._name(*self._last), None))
            self._taken = self.offered
        return pieces

    def _take_run(self, limit: int) -> list[bytes | Gap]:
        """Take from items that follow each other without a hole: the usual case.

        One look at the ends stands for a look at each, at a fraction of the loop's cost.
        """
        plain = self._plain
        first, _, id, _ = plain[0]
        pieces: list[bytes | Gap] = []
        if first > self._taken + 1:
            pieces.append(self._hole(first, id))
        if self.bytes <= limit:
            pieces += [entry[1] for entry in plain]
            self._note(plain[-1])
            plain.clear()
            self.items = self.bytes = 0
            return pieces
        size = count = 0
        for entry in plain:
            grown = size + len(entry[1])
            if grown > limit and count:
                break
            size = grown
            count += 1
        entries = [plain.popleft() for _ in range(count)]
        pieces += [entry[1] for entry in entries]
        self._note(entries[-1])
        self.items -= count
        self.bytes -= size
        return pieces

    def _take_each(self, limit: int) -> list[bytes | Gap]:
        pieces: list[bytes | Gap] = []
        size = 0
        while self.items:
            plain, essential = self._plain, self._essential
            droppable = bool(plain) and (not essential or plain[0][0] < essential[0][0])
            entry = (plain if droppable else essential)[0]
            seq, payload, id, stamp = entry
            if droppable and self._expired(stamp):
                self._evict_oldest()
                continue
            if pieces and size + len(payload) > limit:
                break
            if seq > self._taken + 1:
                pieces.append(self._hole(seq, id))
            pieces.append(payload)
            size += len(payload)
            self._note(entry)
            self._remove(droppable)
        return pieces

    def _note(self, delivered: _Stored) -> None:
        self._taken = delivered[0]
        self._last = (delivered[0], delivered[2])

    def _hole(self, seq: int, id: str | None) -> Gap:
        """Return the gap in front of the item with this number and id."""
        return self._gap(seq - self._taken - 1, self._name(*self._last), self._name(seq, id))

    def _name(self, seq: int, id: str | None) -> str | None:
        """Return the id of the item that was offered with this one, or without one."""
        if id is None and self._prefix is not None and seq:
            return f"{self._prefix}{seq}"
        return id

    def _remove(self, droppable: bool, *, newest: bool = False) -> None:
        lane = self._plain if droppable else self._essential
        size = len((lane.pop() if newest else lane.popleft())[1])
        self.items -= 1
        self.bytes -= size
        if not droppable:
            self._essential_items -= 1
            self._essential_bytes -= size

    def _evict_oldest(self) -> None:
        self.dropped += 1
        self._remove(droppable=True)

    def _evict_newest(self) -> None:
        self.dropped += 1
        self._remove(droppable=True, newest=True)

    def _drop_arriving(self) -> None:
        self.dropped += 1

    def _clear(self) -> None:
        self._plain.clear()
        self._essential.clear()
        self._taken = self.offered
