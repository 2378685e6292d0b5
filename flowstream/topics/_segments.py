"""Encodings of a topic's events, joined: what a client that catches up is given.

A client that lacks ten thousand events wants their bytes in a row. So the encodings of each format
are kept in segments: up to 64 KiB of bytes, with an index of where each event ends. Many events are
one slice of a segment, which costs one copy, however many events are in it.

The encodings in a segment are the only copy. An event's first encoding stays as long as the event.
Encodings in further formats are spare: they can be made again, and go when there is no room.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from operator import attrgetter

from flowstream.abc import Encoder
from flowstream.buffer._queue import Slice

SEGMENT_BYTES = 1 << 16
"""Bytes of a segment, one event at the least: what the writer writes at a time, at the most."""

SEGMENT_ITEMS = 4096
"""Events of a segment."""

SEGMENT_OVERHEAD = 256
"""Bytes that a segment takes besides its encodings. One that is spare may have a single event."""

_first: Callable[[Segment], int] = attrgetter("first")


class Segment:
    """The encodings of events with adjacent numbers, in one format.

    Args:
        first: number of the first event.
        is_spare: whether they can be made again.

    Attributes:
        first, is_spare: the same.
        next: number of the event after the last one.
    """

    __slots__ = ("_data", "_ends", "first", "is_spare", "next")

    def __init__(self, first: int, *, is_spare: bool) -> None:
        self.first = first
        self.next = first
        self.is_spare = is_spare
        self._data: bytearray | bytes = bytearray()
        self._ends = array("Q")

    @property
    def size(self) -> int:
        """Bytes of the encodings."""
        return len(self._data)

    def takes(self, number: int, size: int, *, oldest: int) -> bool:
        """Return whether an encoding of `size` bytes can be added as that of event `number`.

        Args:
            number: the event's.
            size: the encoding's.
            oldest: number of the oldest event that the topic keeps. If half of the segment is
                older, a new one is begun, so that this one can go soon.
        """
        return (
            number == self.next
            and isinstance(self._data, bytearray)
            and len(self._ends) < SEGMENT_ITEMS
            and len(self._data) + size <= SEGMENT_BYTES
            and 2 * oldest <= self.first + number
        )

    def add(self, encodings: Sequence[bytes]) -> int:
        """Add as many `encodings` as there is room for, at least one; return how many."""
        data = self._data
        assert isinstance(data, bytearray)
        ends = list(accumulate(map(len, encodings), initial=len(data)))
        room = SEGMENT_ITEMS - len(self._ends)
        count = max(min(bisect_right(ends, SEGMENT_BYTES) - 1, room), 1)
        taken = encodings if count == len(encodings) else encodings[:count]
        data += b"".join(taken)
        self._ends.extend(ends[1 : count + 1])
        self.next += count
        return count

    def close(self) -> None:
        """Note that nothing more will be added."""
        self._data = bytes(self._data)

    def slice(self, number: int, limit: int) -> Slice:
        """Return the encodings from event `number` on: at most `limit` bytes, one at the least."""
        ends, index = self._ends, number - self.first
        start = ends[index - 1] if index else 0
        after = max(bisect_right(ends, start + limit, index), index + 1)
        return Slice(after - index, self._cut(start, ends[after - 1]))

    def __getitem__(self, number: int) -> bytes:
        """Return the encoding of event `number`."""
        index = number - self.first
        return self._cut(self._ends[index - 1] if index else 0, self._ends[index])

    def _cut(self, start: int, end: int) -> bytes:
        data = self._data
        if isinstance(data, bytes):
            return data[start:end]
        with memoryview(data) as view:
            return bytes(view[start:end])


class Segments:
    """The joined encodings of a topic's events in one format, oldest first. There may be holes.

    Args:
        encoder: the format.

    Attributes:
        encoder: the same.
        spare: bytes of encodings that can be made again.
    """

    __slots__ = ("_segments", "_spares", "encoder", "spare")

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.spare: int = 0
        self._segments: list[Segment] = []
        self._spares = 0  # segments of these

    @property
    def room(self) -> int:
        """Bytes of memory that `drop_spare` would free."""
        return self.spare + SEGMENT_OVERHEAD * self._spares

    @property
    def is_empty(self) -> bool:
        """Whether it has no encodings."""
        return not self._segments

    @property
    def expires(self) -> int | float:
        """Number of the event before which the first segment can go; infinity if there is none."""
        return self._segments[0].next if self._segments else float("inf")

    def find(self, number: int) -> Segment | None:
        """Return the segment that has event `number`."""
        segments = self._segments
        if not segments:
            return None
        segment = segments[-1]  # the usual case for a client that is nearly live
        if number < segment.first:
            segment = segments[bisect_right(segments, number, key=_first) - 1]
        return segment if segment.first <= number < segment.next else None

    def add(self, number: int, encodings: Sequence[bytes], *, is_spare: bool, oldest: int) -> None:
        """Add the encodings of events from `number` on, which it does not have yet.

        Args:
            number: that of the first event.
            encodings: the events'.
            is_spare: whether they can be made again.
            oldest: number of the oldest event that the topic keeps.
        """
        segments = self._segments
        while encodings:
            at = len(segments)
            if segments and number < segments[-1].first:
                at = bisect_right(segments, number, key=_first)
            segment = segments[at - 1] if at else None
            if (
                segment is None
                or segment.is_spare is not is_spare
                or not segment.takes(number, len(encodings[0]), oldest=oldest)
            ):
                if segment is not None and segment.next == number:
                    segment.close()
                segment = Segment(number, is_spare=is_spare)
                segments.insert(at, segment)
                self._spares += is_spare
            before = segment.size
            count = segment.add(encodings)
            if is_spare:
                self.spare += segment.size - before
            number += count
            encodings = encodings[count:]

    def room_before(self, number: int) -> float:
        """Return how many events there are from `number` to the next segment."""
        at = bisect_right(self._segments, number, key=_first)
        return self._segments[at].first - number if at < len(self._segments) else float("inf")

    def trim(self, oldest: int) -> None:
        """Drop the segments of which every event is older than event `oldest`."""
        segments = self._segments
        count = 0
        while count < len(segments) and segments[count].next <= oldest:
            if segments[count].is_spare:
                self.spare -= segments[count].size
                self._spares -= 1
            count += 1
        del segments[:count]

    def drop_spare(self) -> None:
        """Drop the segments that can be made again."""
        self._segments = [segment for segment in self._segments if not segment.is_spare]
        self.spare = self._spares = 0
