"""The queue of a keyed policy: items change places, so holes are counted, not computed.

The methods do what `Queue` says.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable
from operator import attrgetter

from flowstream.abc import Policy
from flowstream.buffer._queue import Gap, Outcome, Queue
from flowstream.limits import Buffer

_ADMITTED = Outcome.ADMITTED


class _Keyed:
    """An item of a `KeyedQueue`. Its place is the number of the first item that was there."""

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
    """The queue of a keyed policy: a newer item takes the place of the older one of its key.

    Items leave out of order, so the numbers do not show the holes. Instead each item counts the
    items that were dropped in its place or just before it.

    An essential item fences off the item that is queued under its key. A newer item must not
    overtake the essential one, so it goes to the end, and not into the older one's place.

    An item's id tells the client: "you have all up to here". While an earlier item is still queued
    or not announced, or a later one has been sent, the id is left out (the `bare` payload is sent).
    """

    __slots__ = ("_carry", "_essential", "_highest", "_in_order", "_keyed", "_last_id")

    def __init__(self, bounds: Buffer, policy: Policy, clock: Callable[[], float]) -> None:
        super().__init__(bounds, policy, clock)
        self._keyed: OrderedDict[object, _Keyed] = OrderedDict()
        self._essential: deque[_Keyed] = deque()
        self._last_id: str | None = None  # of the last item delivered
        self._carry = 0  # dropped items to announce before the next item that is appended
        self._highest = 0  # the highest number that was taken
        self._in_order = False  # whether to keep the order until there is a last id

    def begin_in_order(self) -> None:
        """Put newer items at the end until the client has got an id.

        A client that came back without an id would count as new, and not be told what it missed.
        """
        self._in_order = True

    def offer(
        self,
        payload: bytes,
        id: str | None = None,
        *,
        essential: bool = False,
        key: object = None,
        bare: bytes | None = None,
    ) -> Outcome:
        """Offer one item. It takes the place of the one queued under its key, if there is one."""
        queued = None if essential else self._keyed.get(key)
        ordered = self._in_order and self._last_id is None
        if queued is not None and not (queued.fenced or ordered):
            size = len(payload) + (len(bare) if bare is not None else 0)
            grown = self.bytes - queued.size + size
            # If it is too large for that place, it goes to the end like any other item.
            if grown <= self._max_bytes or self.items == 1:
                self.offered += 1
                self.dropped += 1
                queued.missed += 1
                queued.renew(self.offered, payload, id, bare, self._stamp(), size)
                self.bytes = grown
                return _ADMITTED
        return super().offer(payload, id, essential=essential, key=key, bare=bare)

    @property
    def last_id(self) -> str | None:
        return self._last_id

    def pass_by(self, items: int, id: str | None) -> None:
        self.offered += items
        self._highest = self.offered
        self._last_id = id

    def lose(self, missed: int | None) -> Gap:
        self.dropped += missed or 0
        self.offered += missed or 0
        self._highest = self.offered
        return self._gap(missed, self._last_id, None)

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
            # In its own place no earlier item is left. In an older item's place there may be some.
            last = self.items == 1 and not self._carry
            in_order = entry.seq > self._highest and (entry.seq == entry.place or last)
            bare = None if in_order else entry.bare
            if entry.missed:
                before = entry.id if bare is None else None
                pieces.append(self._gap(entry.missed, self._last_id, before))
            if bare is None:
                pieces.append(entry.payload)
                self._last_id = entry.id
            else:
                pieces.append(bare)
            size += len(entry.payload)
            self._highest = max(self._highest, entry.seq)
            self._remove(entry, droppable)
        if not self.items and self._carry:
            pieces.append(self._gap(self._carry, self._last_id, None))
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
        """Count an evicted item, and let `heir` announce it, or an essential item before `heir`.

        `heir` may come before the hole. To announce a hole early is harmless. If it were announced
        late, the id of an item in between would tell the client that nothing is missing.
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
