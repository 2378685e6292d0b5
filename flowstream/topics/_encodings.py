"""The encodings that a topic keeps in segments, in all formats, and how many of them.

Each event's first encoding is kept as long as the event. Those in further formats get the room that
is left. If there is none, the format that was least recently read loses its own. So what a client
in one format reads never decides which events others find.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import groupby
from operator import attrgetter

from flowstream.abc import Encoder
from flowstream.topics._published import Published
from flowstream.topics._segments import SEGMENT_OVERHEAD, Segment, Segments

# Formats of which encodings are kept besides each event's first. If an app passes each request
# another function as `encode=`, there are as many formats as requests, and none is needed twice.
_MAX_FORMATS = 8


class Encodings:
    """The encodings of a topic's events that are in segments.

    Attributes:
        expires: number of the event before which some segment can go; infinity if there is none.
        has_spare: whether there may be encodings in further formats.
    """

    __slots__ = ("_formats", "expires", "has_spare")

    def __init__(self) -> None:
        self._formats: dict[Encoder, Segments] = {}  # the least recently read first
        self.expires: float = math.inf
        self.has_spare: bool = False

    @property
    def spare(self) -> int:
        """Bytes of encodings in further formats."""
        return sum(segments.spare for segments in self._formats.values())

    def find(self, encoder: Encoder, number: int) -> bytes | None:
        """Return an event's encoding, if a segment has it."""
        segments = self._formats.get(encoder)
        segment = None if segments is None else segments.find(number)
        return None if segment is None else segment[number]

    def read(self, encoder: Encoder) -> Segments:
        """Return the segments of a format, which is then the most recently read."""
        segments = self._open(encoder)
        self._formats[encoder] = self._formats.pop(encoder)
        return segments

    def _open(self, encoder: Encoder) -> Segments:
        formats = self._formats
        segments = formats.get(encoder)
        if segments is None:
            for other in list(formats.values()) if len(formats) >= _MAX_FORMATS else ():
                other.drop_spare()
                if other.is_empty:
                    del formats[other.encoder]
                    break
            segments = formats[encoder] = Segments(encoder)
        return segments

    def move_in(self, events: Iterable[Published], oldest: int) -> None:
        """Move the first encodings of adjacent events into segments.

        Args:
            events: the events.
            oldest: number of the oldest event that the topic keeps.
        """
        for format, run in groupby(events, attrgetter("format")):
            if format is None:
                continue  # they have no encoding yet
            encodings: list[bytes] = []
            number = 0
            for published in run:
                if published.encoding is not None:
                    encodings.append(published.encoding)
                    published.encoding = None
                    number = published.number
            segments = self._open(format)
            segments.add(number + 1 - len(encodings), encodings, is_spare=False, oldest=oldest)
            self.expires = min(self.expires, segments.expires)

    def fill(
        self, segments: Segments, events: Iterable[Published], limit: int, room: int, oldest: int
    ) -> Segment:
        """Encode adjacent events in a further format, up to `limit` bytes; one at the least.

        Args:
            segments: those of the format.
            events: the events.
            limit: bytes after which no more are encoded.
            room: bytes that all encodings in further formats may take.
            oldest: number of the oldest event that the topic keeps.

        Returns:
            A segment that begins with the first event. It is kept if there is room.

        Raises:
            Exception: what the encoder raises for the first event.
        """
        encodings: list[bytes] = []
        first = size = 0
        for published in events:
            try:
                encodings.append(published.encode(segments.encoder))
            except Exception:
                if not encodings:
                    raise
                break
            first = first or published.number
            size += len(encodings[-1])
            if size >= limit:
                break
        self.keep(segments, first, encodings, room, oldest)
        segment = segments.find(first)
        if segment is None:
            segment = Segment(first, is_spare=True)
            segment.add(encodings)
        return segment

    def keep(
        self, segments: Segments, number: int, encodings: list[bytes], room: int, oldest: int
    ) -> None:
        """Keep encodings of events from `number` on, in a further format, if there is room.

        The arguments are those of `fill`.
        """
        room -= sum(map(len, encodings)) + SEGMENT_OVERHEAD
        if room < 0:
            return
        if self.has_spare:
            self.make_room(room)
        self.has_spare = True
        segments.add(number, encodings, is_spare=True, oldest=oldest)
        self.expires = min(self.expires, segments.expires)

    def make_room(self, room: int) -> None:
        """Drop encodings in further formats until they take `room` bytes; the least read first."""
        left = room - sum(segments.room for segments in self._formats.values())
        if left < 0:
            for segments in self._formats.values():
                left += segments.room
                segments.drop_spare()
                if left >= 0:
                    break
        self.has_spare = any(segments.room for segments in self._formats.values())

    def trim(self, oldest: int) -> None:
        """Drop the segments in which every event is older than event `oldest`."""
        formats = self._formats
        for segments in list(formats.values()):
            segments.trim(oldest)
            if segments.is_empty:
                del formats[segments.encoder]
        self.expires = min((segments.expires for segments in formats.values()), default=math.inf)
