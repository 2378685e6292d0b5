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
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable
from operator import attrgetter
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

    missed: int
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

    def __init__(self, bounds: Buffer, policy: Policy, clock: Callable[[], float]) -> None:
        self._max_items = bounds.items
        self._max_bytes = bounds.bytes
        self._max_age = policy.max_age
        self._clock = clock
        self._judge = policy.start()
        self._essential_items = 0
        self._essential_bytes = 0
        self._last_id: str | None = None
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

    def _gap(self, missed: int, before: str | None) -> Gap:
        self.gaps += 1
        return Gap(missed, self._last_id, before)

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


class OrderedQueue(Queue):
    """The queue of every policy that leaves the order alone."""

    def __init__(self, bounds: Buffer, policy: Policy, clock: Callable[[], float]) -> None:
        super().__init__(bounds, policy, clock)
        self._plain: deque[_Stored] = deque()
        self._essential: deque[_Stored] = deque()
        self._taken = 0

    def offer(
        self,
        payload: bytes,
        id: str | None = None,
        *,
        essential: bool = False,
        key: object = None,
        bare: bytes | None = None,
    ) -> Outcome:
        """Offer one item: `Queue.offer`, short-cut for the usual case of room."""
        used = self.bytes + len(payload)
        if (
            self.items < self._max_items
            and used <= self._max_bytes
            and not essential
            and not self._judge.behind
            and self._max_age is None
        ):
            self.offered = seq = self.offered + 1
            self._plain.append((seq, payload, id, 0.0))
            self.items += 1
            self.bytes = used
            return _ADMITTED
        return super().offer(payload, id, essential=essential)

    def _append(
        self,
        payload: bytes,
        id: str | None,
        essential: bool,
        key: object,
        bare: bytes | None,
        size: int,
    ) -> None:
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
            and self._max_age is None
            and plain[-1][0] - plain[0][0] == len(plain) - 1
        ):
            pieces = self._take_run(limit)
        else:
            pieces = self._take_each(limit)
        if not self.items and self._taken < self.offered:
            pieces.append(self._gap(self.offered - self._taken, None))
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
            pieces.append(self._gap(first - self._taken - 1, id))
        if self.bytes <= limit:
            pieces += [entry[1] for entry in plain]
            self._taken, _, self._last_id, _ = plain[-1]
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
        self._taken, _, self._last_id, _ = entries[-1]
        self.items -= count
        self.bytes -= size
        return pieces

    def _take_each(self, limit: int) -> list[bytes | Gap]:
        pieces: list[bytes | Gap] = []
        size = 0
        while self.items:
            plain, essential = self._plain, self._essential
            droppable = bool(plain) and (not essential or plain[0][0] < essential[0][0])
            seq, payload, id, stamp = (plain if droppable else essential)[0]
            if droppable and self._expired(stamp):
                self._evict_oldest()
                continue
            if pieces and size + len(payload) > limit:
                break
            if seq > self._taken + 1:
                pieces.append(self._gap(seq - self._taken - 1, id))
            pieces.append(payload)
            size += len(payload)
            self._taken, self._last_id = seq, id
            self._remove(droppable)
        return pieces

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


class _Keyed:
    """An item of a `KeyedQueue`; its place is the number of the first item in it."""

    __slots__ = ("bare", "fenced", "id", "missed", "payload", "place", "seq", "size", "stamp")

    def __init__(
        self, seq: int, payload: bytes, id: str | None, bare: bytes | None, stamp: float, size: int
    ) -> None:
        self.place = seq
        self.missed = 0
        self.fenced = False
        self.renew(seq, payload, id, bare, stamp, size)

    def renew(
        self, seq: int, payload: bytes, id: str | None, bare: bytes | None, stamp: float, size: int
    ) -> None:
        self.seq = seq
        self.payload = payload
        self.id = id
        self.bare = bare
        self.stamp = stamp
        self.size = size


_place = attrgetter("place")


class KeyedQueue(Queue):
    """The queue of a keyed policy: a newer item takes the place of the older of its key.

    Items leave out of order, so holes cannot be read off the numbers: each item carries
    the count of those that went before it in its place or just ahead of it.

    An essential item fences off what is queued under its key: a newer item must not be
    delivered before it, and so goes to the end instead of into the old one's place.

    An item's id tells the client "all up to here". It is withheld (the `bare` payload is
    used) while an earlier item is still queued or unannounced, or a later one already out.
    """

    def __init__(self, bounds: Buffer, policy: Policy, clock: Callable[[], float]) -> None:
        super().__init__(bounds, policy, clock)
        self._keyed: OrderedDict[object, _Keyed] = OrderedDict()
        self._essential: deque[_Keyed] = deque()
        self._carry = 0  # gone, to be announced before the next item that is appended
        self._highest = 0  # the highest number that was taken

    def offer(
        self,
        payload: bytes,
        id: str | None = None,
        *,
        essential: bool = False,
        key: object = None,
        bare: bytes | None = None,
    ) -> Outcome:
        """Offer one item: in the place of its key's queued one if there is one."""
        queued = None if essential else self._keyed.get(key)
        if queued is not None and not queued.fenced:
            size = len(payload) + (len(bare) if bare is not None else 0)
            grown = self.bytes - queued.size + size
            # One that outgrows the buffer in its place goes to the end like any other.
            if grown <= self._max_bytes or self.items == 1:
                self.offered += 1
                self.dropped += 1
                queued.missed += 1
                queued.renew(self.offered, payload, id, bare, self._stamp(), size)
                self.bytes = grown
                return _ADMITTED
        return super().offer(payload, id, essential=essential, key=key, bare=bare)

    def _append(
        self,
        payload: bytes,
        id: str | None,
        essential: bool,
        key: object,
        bare: bytes | None,
        size: int,
    ) -> None:
        if not essential:
            self._supersede(key)
        entry = _Keyed(self.offered, payload, id, bare, self._stamp(), size)
        entry.missed, self._carry = self._carry, 0
        self.items += 1
        self.bytes += size
        if essential:
            self._essential.append(entry)
            self._essential_items += 1
            self._essential_bytes += size
            if (older := self._keyed.get(key)) is not None:
                older.fenced = True
        else:
            self._keyed[key] = entry

    def _take(self, limit: int) -> list[bytes | Gap]:
        pieces: list[bytes | Gap] = []
        size = 0
        while self.items:
            entry, droppable = self._head()
            if droppable and self._expired(entry.stamp):
                self._evict_oldest()
                continue
            if pieces and size + len(entry.payload) > limit:
                break
            # In its first place nothing before it is left; in an older one, others may be.
            last = self.items == 1 and not self._carry
            in_order = entry.seq > self._highest and (entry.seq == entry.place or last)
            bare = None if in_order else entry.bare
            if entry.missed:
                pieces.append(self._gap(entry.missed, entry.id if bare is None else None))
            if bare is None:
                pieces.append(entry.payload)
                self._last_id = entry.id
            else:
                pieces.append(bare)
            size += len(entry.payload)
            self._highest = max(self._highest, entry.seq)
            self._remove(entry, droppable)
        if not self.items and self._carry:
            pieces.append(self._gap(self._carry, None))
            self._carry = 0
        return pieces

    def _head(self) -> tuple[_Keyed, bool]:
        """Return the oldest item and whether it is droppable."""
        essential = self._essential[0] if self._essential else None
        if self._keyed:
            keyed = next(iter(self._keyed.values()))
            if essential is None or keyed.place < essential.place:
                return keyed, True
        assert essential is not None
        return essential, False

    def _remove(self, entry: _Keyed, droppable: bool) -> None:
        if droppable:
            self._keyed.popitem(last=False)
        else:
            self._essential.popleft()
            self._essential_items -= 1
            self._essential_bytes -= entry.size
        self.items -= 1
        self.bytes -= entry.size

    def _supersede(self, key: object) -> None:
        if (entry := self._keyed.pop(key, None)) is not None:
            self._gone(entry, self._first())

    def _evict_oldest(self) -> None:
        entry = self._keyed.popitem(last=False)[1]
        self._gone(entry, self._first())

    def _evict_newest(self) -> None:
        entry = self._keyed.popitem()[1]
        self._gone(entry, None)

    def _first(self) -> _Keyed | None:
        """Return the oldest droppable item."""
        return next(iter(self._keyed.values()), None)

    def _gone(self, entry: _Keyed, heir: _Keyed | None) -> None:
        """Count an item that was evicted, and have `heir` or what follows it announce that.

        `heir` may stand before the hole: announced early is harmless, late would let an
        item between the two tell the client that all up to it is there.
        """
        self.items -= 1
        self.bytes -= entry.size
        self.dropped += 1
        behind = bisect_right(self._essential, entry.place, key=_place)
        if behind < len(self._essential):
            essential = self._essential[behind]
            if heir is None or essential.place < heir.place:
                heir = essential
        if heir is None:
            self._carry += entry.missed + 1
        else:
            heir.missed += entry.missed + 1

    def _drop_arriving(self) -> None:
        self.dropped += 1
        self._carry += 1

    def _clear(self) -> None:
        self._keyed.clear()
        self._essential.clear()
        self._carry = 0


def open_queue(bounds: Buffer, policy: Policy, clock: Callable[[], float]) -> Queue:
    """Return the queue for one client's buffer; `clock` gives seconds."""
    kind = KeyedQueue if policy.keyed else OrderedQueue
    return kind(bounds, policy, clock)
