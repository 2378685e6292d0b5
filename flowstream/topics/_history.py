"""The events that a topic keeps, and the place where a client left off.

It is sans-I/O; the clock is an argument. Each event has a number. Its id is the one that
`event_id` makes of its epoch and number, unless the app gave it another. The epoch is drawn when
the history is made. So an id from before a restart has another epoch, and is not mistaken for an id
of this history.

Events that are not delivered yet are kept beyond the bounds of the replay, and have their own
bounds. Otherwise a topic without replay could deliver nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from flowstream._event import Event, copied
from flowstream.abc import Encoder
from flowstream.ids._event_id import (
    MAX_ID_LENGTH,
    check_id,
    event_id,
    new_epoch,
    parse_event_id,
)
from flowstream.limits import Replay

# Bounds of undelivered events: room for a burst between two passes of the event loop.
_PENDING_ITEMS = 1024
_PENDING_BYTES = 1 << 20


class Published:
    """One event of a topic, and its encodings so far: one for each format, shared by all."""

    __slots__ = ("_encodings", "event", "number", "size", "stamp", "weight")

    named: ClassVar[bool] = False
    """Whether the app gave it its id."""

    def __init__(self, number: int, event: Event, stamp: float) -> None:
        self.number: int = number
        self.event: Event = event
        self.stamp: float = stamp
        self.size: int = 0
        self.weight: int = 0
        self._encodings: dict[Encoder, bytes] = {}

    @property
    def id(self) -> str:
        """The id with which a client that has this event comes back."""
        id = self.event.id
        assert id is not None
        return id

    def __len__(self) -> int:
        """Return its size in the first format. A buffer that holds the event itself counts it."""
        return self.weight

    def encode(self, encoder: Encoder, *, bare: bool = False) -> bytes:
        """Return its encoding, without its id if `bare`, and don't keep it."""
        event = self.event
        return encoder.encode(
            event.data,
            id=None if bare else event.id,
            type=event.type,
            key=event.key,
            retry=event.retry,
        )

    def bare(self) -> Published:
        """Return it without its id, for a reader inside the program."""
        found = Published(self.number, copied(self.event, id=None), self.stamp)
        found.weight = self.weight
        return found

    def encoded(self, encoder: Encoder) -> bytes:
        """Return its encoding, and keep it for others who need it.

        Raises:
            Exception: what the encoder raises, unless it has encoded the event before.
        """
        found = self._encodings.get(encoder)
        if found is None:
            found = self.encode(encoder)
            self.keep(encoder, found)
        return found

    def kept(self, encoder: Encoder) -> bytes | None:
        """Return its encoding, if one is kept."""
        return self._encodings.get(encoder)

    def keep(self, encoder: Encoder, encoded: bytes) -> None:
        """Keep its encoding."""
        self._encodings[encoder] = encoded
        self.size += len(encoded)
        self.weight = self.weight or self.size


class _Named(Published):
    """An event with an id of the app's own."""

    __slots__ = ()

    named = True


@dataclass(frozen=True, slots=True)
class Missing:
    """A position from which replay can't start."""

    missed: int | None
    """How many events followed it, up to the last one published; None if unknown."""


class History:
    """The events of a topic that are kept, oldest first.

    Args:
        replay: how many events to keep.
        clock: returns seconds.

    Attributes:
        replay: the same.
        epoch: the beginning of the ids.
        first: number of the oldest event kept; ``head + 1`` if there is none.
        head: number of the last event published, 0 before the first.
        delivered: number of the last event that was handed to all subscribers.
    """

    def __init__(self, replay: Replay, clock: Callable[[], float]) -> None:
        self.replay = replay
        self._clock = clock
        self._kept: deque[Published] = deque()
        self._own_ids: dict[str, int] = {}
        self._repeats: dict[str, deque[int]] = {}  # further events with the same id
        self._size = 0
        self.epoch: str = new_epoch()
        self.first: int = 1
        self.head: int = 0
        self.delivered: int = 0

    @property
    def items(self) -> int:
        """Events kept."""
        return len(self._kept)

    @property
    def size(self) -> int:
        """Bytes of their encodings."""
        return self._size

    def make(self, event: Event, ahead: int = 0) -> Published:
        """Return `event` as the next to be appended, with its id.

        Args:
            event: it gets the id, unless it has one.
            ahead: how many events that were made are appended before it.

        Raises:
            ValueError: it has an id that no app may give (`check_id`).
        """
        number = self.head + 1 + ahead
        if event.id is None:
            event.id = event_id(self.epoch, number)
            return Published(number, event, self._clock())
        check_id(event.id)
        return _Named(number, event, self._clock())

    def append(self, published: Published) -> None:
        """Append an event that `make` returned. At this moment it is published."""
        assert published.number == self.head + 1
        self.head = published.number
        self._kept.append(published)
        self._size += published.size
        if published.named:
            first = self._own_ids.setdefault(published.id, published.number)
            if first != published.number:
                # An id that repeats means the first of these events: a client rather gets an event
                # twice than not at all.
                self._repeats.setdefault(published.id, deque()).append(published.number)
        self.trim()

    def encoded(self, published: Published, encoder: Encoder) -> bytes:
        """Return an event's encoding, and keep it for others if there is room.

        Without room it is made again for each: reading an event in another format must not push
        out the oldest events, which others may want to read.
        """
        encoded = published.kept(encoder)
        if encoded is not None:
            return encoded
        encoded = published.encode(encoder)
        if self._size + len(encoded) <= self.replay.bytes:
            published.keep(encoder, encoded)
            if self.first <= published.number <= self.head:
                self._size += len(encoded)
        return encoded

    def trim(self) -> None:
        """Drop events beyond the bounds. Call it also before reading, since time passes."""
        kept, replay = self._kept, self.replay
        oldest = self._clock() - replay.seconds
        while kept:
            published = kept[0]
            if (
                len(kept) <= replay.items
                and self._size <= replay.bytes
                and published.stamp >= oldest
            ):
                break
            if published.number > self.delivered and (
                (len(kept) <= _PENDING_ITEMS and self._size <= _PENDING_BYTES)
                or published.number == self.head  # one event of any size is kept
            ):
                break
            kept.popleft()
            self._size -= published.size
            if self._own_ids and self._own_ids.get(published.id) == published.number:
                self._forget(published.id)
        self.first = kept[0].number if kept else self.head + 1

    def is_full(self, size: int) -> bool:
        """Return whether an event of `size` bytes would push out one that is not delivered."""
        if self.first <= self.delivered or not self._kept:
            return False
        items, total, replay = len(self._kept) + 1, self._size + size, self.replay
        return not (
            (items <= replay.items and total <= replay.bytes)
            or (items <= _PENDING_ITEMS and total <= _PENDING_BYTES)
        )

    def _forget(self, id: str) -> None:
        """Forget the first event with an id of the app's own."""
        repeats = self._repeats.get(id)
        if repeats is None:
            del self._own_ids[id]
            return
        self._own_ids[id] = repeats.popleft()
        if not repeats:
            del self._repeats[id]

    def last_dropped_for(self, size: int) -> int:
        """Return the number of the last event that an event of `size` bytes would push out."""
        items, total, last = len(self._kept) + 1, self._size + size, self.first - 1
        for published in self._kept:
            if items <= self.replay.items and total <= self.replay.bytes:
                break
            items -= 1
            total -= published.size
            last = published.number
        return last

    def after(self, number: int, limit: int) -> list[Published]:
        """Return the events after number `number`, at most `limit` of them.

        Raises:
            LookupError: the first of them is no longer kept.
        """
        if number + 1 < self.first:
            raise LookupError(f"event {number + 1} is no longer kept")
        start = number + 1 - self.first
        kept = self._kept
        if start == 0 and len(kept) <= limit:
            return list(kept)
        return [kept[index] for index in range(start, min(start + limit, len(kept)))]

    def locate(self, id: str) -> int | Missing:
        """Return the number of the last event that a client says it saw, or that it is missing.

        Raises nothing: the id comes from a client, and may be anything.
        """
        self.trim()
        if len(id) > MAX_ID_LENGTH:
            return Missing(None)
        number = self._own_ids.get(id)
        if number is None:
            parsed = parse_event_id(id)
            if parsed is not None and parsed[0] == self.epoch:
                number = parsed[1]
        if number is None or number > self.head:
            return Missing(None)
        if number + 1 < self.first:
            return Missing(self.head - number)
        return number

    def id_of(self, number: int) -> str:
        """Return the id with which a client comes back that has event `number`, kept or not."""
        if self.first <= number <= self.head:
            return self._kept[number - self.first].id
        return event_id(self.epoch, number)
