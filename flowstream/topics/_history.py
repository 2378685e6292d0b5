"""The events that a topic keeps, and the place where a client left off.

It is sans-I/O; the clock is an argument. Each event has a number. Its id is the one that
`event_id` makes of its epoch and number, unless the app gave it another. The epoch is drawn when
the history is made. So an id from before a restart has another epoch, and is not mistaken for an id
of this history.

Events that are not delivered yet are kept beyond the bounds of the replay, and have their own
bounds. Otherwise a topic without replay could deliver nothing.

An event's encodings are first kept with the event. When there are 64 KiB of them, or a client reads
the past, they move into segments (`Segments`), in which many events are one slice. Which events are
kept depends on their first encodings alone, not on who reads them in which format.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from flowstream._event import Event
from flowstream.abc import Encoder
from flowstream.buffer._queue import Slice
from flowstream.ids._event_id import (
    MAX_ID_LENGTH,
    check_id,
    event_id,
    new_epoch,
    parse_event_id,
)
from flowstream.limits import Replay
from flowstream.topics._encodings import Encodings
from flowstream.topics._published import NamedEvent, Published
from flowstream.topics._segments import SEGMENT_BYTES, SEGMENT_ITEMS, Segment, Segments

# Bounds of undelivered events: room for a burst between two passes of the event loop.
_PENDING_ITEMS = 1024
_PENDING_BYTES = 1 << 20

# Events that are encoded in a further format at a time.
_FILL_ITEMS = 256


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

    __slots__ = (
        "_born",
        "_clock",
        "_encodings",
        "_kept",
        "_loose",
        "_own_ids",
        "_repeats",
        "_sealed",
        "_size",
        "delivered",
        "epoch",
        "first",
        "head",
        "replay",
    )

    def __init__(self, replay: Replay, clock: Callable[[], float]) -> None:
        self.replay: Replay = replay
        self._clock = clock
        self._kept: deque[Published] = deque()
        self._own_ids: dict[str, int] = {}
        self._repeats: dict[str, deque[int]] = {}  # further events with the same id
        self._size = 0  # bytes of the first encodings
        self._loose = 0  # bytes of those published since some were last moved into segments
        self._sealed = 0  # number of the last event that was
        self._encodings = Encodings()
        self._born = 0  # number of the last event before its epoch
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
        return self._size + self._encodings.spare

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
        return NamedEvent(number, event, self._clock())

    def append(self, published: Published) -> None:
        """Append an event that `make` returned. At this moment it is published."""
        assert published.number == self.head + 1
        self.head = published.number
        self._kept.append(published)
        self._size += published.size
        self._loose += published.size
        if self._loose >= SEGMENT_BYTES:
            self._seal(self.delivered)
        if published.named:
            first = self._own_ids.setdefault(published.id, published.number)
            if first != published.number:
                # An id that repeats means the first of these events: a client rather gets an event
                # twice than not at all.
                self._repeats.setdefault(published.id, deque()).append(published.number)
        self.trim()
        if self._encodings.has_spare:
            self._encodings.make_room(self.replay.bytes - self._size)

    def encoded(self, published: Published, encoder: Encoder) -> bytes:
        """Return an event's encoding, and keep it for others if there is room.

        Reading an event in another format never pushes out the oldest events, which others may want
        to read.

        Raises:
            Exception: what the encoder raises.
        """
        if published.format is encoder and published.encoding is not None:
            return published.encoding  # the usual case
        if published.format == encoder and published.encoding is not None:
            return published.encoding
        encoded = self._encodings.find(encoder, published.number)
        if encoded is not None:
            return encoded
        is_kept = self.first <= published.number <= self.head
        if published.format is None:
            size = published.size
            encoded = published.encode_first(encoder)
            self._size += published.size - size if is_kept else 0
        else:
            encoded = published.encode(encoder)
            if is_kept:
                encodings, room = self._encodings, self.replay.bytes - self._size
                segments = encodings.read(encoder)
                encodings.keep(segments, published.number, [encoded], room, self.first)
        return encoded

    def read(self, number: int, limit: int, encoder: Encoder) -> Slice:
        """Return the encodings of the events after event `number`, joined.

        They are at most `limit` bytes, but one event at the least. There must be one.

        Raises:
            LookupError: the first of them is no longer kept.
            Exception: what the encoder raises for the first of them.
        """
        if number + 1 < self.first:
            raise LookupError(f"event {number + 1} is no longer kept")
        segments = self._encodings.read(encoder)
        parts: list[bytes] = []
        items = size = 0
        while number + items < self.head and size < limit:
            after = number + items + 1
            if after > self._sealed:
                self._seal(self.head)
            try:
                segment = segments.find(after) or self._fill(segments, after, limit - size)
            except Exception:
                if parts:
                    break  # these first: the next call raises it again
                raise
            piece = segment.slice(after, limit - size)
            # Rather end with a segment than begin another that has to be cut: a read that begins
            # with a segment needs no copy of it.
            if parts and (
                after + piece.items < segment.next
                or size + len(piece.data) > limit
                or items + piece.items > SEGMENT_ITEMS
            ):
                break
            parts.append(piece.data)
            items += piece.items
            size += len(piece.data)
        return Slice(items, parts[0] if len(parts) == 1 else b"".join(parts))

    def _fill(self, segments: Segments, number: int, limit: int) -> Segment:
        """Encode events from `number` on in a further format, and return the first segment."""
        # Not beyond those in segments: a later one may have been encoded first in this format.
        count = min(_FILL_ITEMS, segments.room_before(number), self._sealed + 1 - number)
        events = self.after(number - 1, int(count))
        room = self.replay.bytes - self._size
        return self._encodings.fill(segments, events, limit, room, self.first)

    def _seal(self, number: int) -> None:
        """Move the first encodings up to event `number` into segments."""
        self._loose = 0
        start = max(self._sealed + 1, self.first)
        if start <= number:
            self._sealed = number
            kept, first = self._kept, self.first
            events = [kept[index] for index in range(start - first, number - first + 1)]
            self._encodings.move_in(events, first)

    def begin_anew(self) -> None:
        """Forget all events. What is appended next has a new epoch; numbers go on."""
        self._kept.clear()
        self._own_ids.clear()
        self._repeats.clear()
        self._size = self._loose = 0
        self._sealed = self.head
        self._encodings = Encodings()
        self.delivered = self._born = self.head
        self.first = self.head + 1
        self.epoch = new_epoch(self.epoch)

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
        if self.first >= self._encodings.expires:
            self._encodings.trim(self.first)

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
        if number is None or not self._born <= number <= self.head:
            return Missing(None)
        if number + 1 < self.first:
            return Missing(self.head - number)
        return number

    def id_of(self, number: int) -> str:
        """Return the id with which a client comes back that has event `number`, kept or not."""
        if self._own_ids and self.first <= number <= self.head:
            return self._kept[number - self.first].id
        return event_id(self.epoch, number)
