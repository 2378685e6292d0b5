"""One event of a topic, with its number and its first encoding.

The first encoding is made before the event is published, so that an event which no format can carry
is not published. It moves into a segment later (`Encodings`).
"""

from __future__ import annotations

from typing import ClassVar

from flowstream._event import Event, copied
from flowstream.abc import Encoder


class Published:
    """One event of a topic.

    Attributes:
        number: its number.
        event: the event.
        stamp: when it was published.
        size: bytes of its first encoding.
        format: the encoder of its first encoding; None if it has none yet.
        encoding: its first encoding; None if it has none yet, or it is in a segment.
    """

    __slots__ = ("encoding", "event", "format", "number", "size", "stamp")

    named: ClassVar[bool] = False
    """Whether the app gave it its id."""

    def __init__(self, number: int, event: Event, stamp: float) -> None:
        self.number: int = number
        self.event: Event = event
        self.stamp: float = stamp
        self.size: int = 0
        self.format: Encoder | None = None
        self.encoding: bytes | None = None

    @property
    def id(self) -> str:
        """The id with which a client that has this event comes back."""
        id = self.event.id
        assert id is not None
        return id

    def __len__(self) -> int:
        """Return its size in the first format. A buffer that holds the event itself counts it."""
        return self.size

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

    def encode_first(self, encoder: Encoder) -> bytes:
        """Encode it in the first format, keep that, and return it.

        Raises:
            Exception: what the encoder raises.
        """
        encoded = self.encoding = self.encode(encoder)
        self.format = encoder
        self.size = len(encoded)
        return encoded

    def bare(self) -> Published:
        """Return it without its id, for a reader inside the program."""
        found = Published(self.number, copied(self.event, id=None), self.stamp)
        found.size = self.size
        return found


class NamedEvent(Published):
    """An event with an id of the app's own."""

    __slots__ = ()

    named = True
