"""The queue of all policies that keep the order.

Items wait in two lanes, droppable and essential, each in order. A policy's verdict drops from
either end of the droppable lane in O(1). (In one deque it would have to search for a droppable
item.) Taking items merges the lanes again.

Holes are not recorded. Each item has a sequence number, and `_taken` is the number up to which
everything was delivered or announced. So a hole is a jump between the two, wherever it is and
however many items were dropped there. If the last items are missing, a comparison with the last
number offered shows it.

The methods do what `Queue` says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from flowstream.abc import Policy
from flowstream.buffer._queue import Gap, Outcome, Queue
from flowstream.limits import Buffer

# A global, as in `_queue`.
_ADMITTED = Outcome.ADMITTED


# seq, payload, id, stamp. A plain tuple: a NamedTuple takes 200 ns longer to make.
_Stored = tuple[int, bytes, str | None, float]

# Both lanes of a queue that has had no item yet: an empty deque takes 760 bytes, and most of a
# topic's clients are idle, or are written to directly.
_NOTHING: deque[_Stored] = deque(maxlen=0)


class OrderedQueue(Queue):
    """The queue of every policy that keeps the order.

    Args:
        bounds, policy, clock: as `Queue` takes them.
        prefix: the beginning of automatic ids: the id of an item that is offered without one is
            `prefix` and its number. Only a gap needs the id, so it is made only there. None if
            there are no automatic ids.
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
        self._taken = 0  # up to this number everything was delivered or announced
        self._last: tuple[int, str | None] = (0, None)  # number and id of the last item delivered

    def offer(
        self,
        payload: bytes,
        id: str | None = None,
        *,
        essential: bool = False,
        key: object = None,
        bare: bytes | None = None,
    ) -> Outcome:
        """Offer one item. `key` and `bare` are ignored."""
        if essential:
            return super().offer(payload, id, essential=True)
        return self.offer_plain(payload, id)

    def offer_plain(self, payload: bytes, id: str | None = None) -> Outcome:
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

    @property
    def last_id(self) -> str | None:
        return self._name(*self._last)

    def pass_by(self, items: int, id: str | None) -> None:
        self.offered = self._taken = number = self.offered + items
        self._last = (number, id)

    def lose(self, missed: int | None) -> Gap:
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

        `_take` has compared only the first and the last number, which costs less than a loop.
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
        """Return the id of an item: `id`, or else the automatic id for `seq`."""
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
