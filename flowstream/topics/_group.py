"""A group: the members of a topic that get the same bytes.

They have the encoder and the framing in common. So a batch of events is encoded once for each
format, and framed once for each way that it goes over the wire.
"""

from __future__ import annotations

from typing import Any

from flowstream._clock import clock
from flowstream.abc import Encoder
from flowstream.framing import Framing
from flowstream.tasks._failure import passes
from flowstream.topics._history import History
from flowstream.topics._members import Member, Round
from flowstream.topics._published import Published


class Group:
    """The subscribers that get the same bytes.

    Args:
        history: keeps encodings for all who need them.
        encoder: makes the bytes; None if the members get the events themselves.
        framing: frames the bytes for direct writes; None if there are no direct writes.
        shared: whether others may need the same encodings, so that they are kept.

    Attributes:
        round: the last round that began.
    """

    def __init__(
        self, history: History, encoder: Encoder | None, framing: Framing | None, *, shared: bool
    ) -> None:
        self._history = history
        self._framing = framing
        self.encoder = encoder
        self.shared = shared
        self.members: dict[Member, None] = {}
        self.round = Round(0, None, 0, 0.0)
        self._roster: tuple[Member, ...] | None = None

    def add(self, member: Member) -> None:
        """Add a member."""
        self.members[member] = None
        self._roster = None

    def remove(self, member: Member) -> None:
        """Remove a member."""
        del self.members[member]
        self._roster = None

    @property
    def roster(self) -> tuple[Member, ...]:
        """The current members, for a loop during which some come and go."""
        if self._roster is None:
            self._roster = tuple(self.members)
        return self._roster

    def encode(self, batch: list[Published]) -> list[Any]:
        """Return a piece for each event of a batch: its bytes, or the event itself.

        Raises:
            Exception: what the encoder raises.
        """
        encoder = self.encoder
        if encoder is None:
            return batch
        if self.shared:
            return [self._history.encoded(published, encoder) for published in batch]
        # The encoder is one member's own and may remember events: give it no other ones.
        (member,) = self.members or (None,)
        if member is None or member.behind:
            return [b""] * len(batch)
        where = member.where
        return [
            published.encode(encoder) if where is None or where(published.event) else b""
            for published in batch
        ]

    def encode_each(self, batch: list[Published]) -> list[Any]:
        """Return a piece for each event of a batch, or the error for one that has none."""
        pieces: list[Any] = []
        for published in batch:
            try:
                pieces += self.encode([published])
            except BaseException as error:  # noqa: ASYNC103  # see `passes`
                if passes(error):
                    raise
                # Raised later, for each member that wants the event.
                pieces.append(error)
        return pieces

    def frame(self, pieces: list[Any]) -> bytes:
        """Return the bytes of direct writes for the pieces of a batch; b"" if there are none."""
        if self._framing is None or self.encoder is None:
            return b""
        return self._framing.frame(pieces)

    def next_round(self, batch: list[Published], pieces: list[Any]) -> Round:
        """Begin the round in which the members get a batch, and return it."""
        size, id = self.round.bytes + size_of(pieces), batch[-1].id
        if not self.shared:
            for member in self.members:  # the only one, perhaps with its own names for ids
                id = member.named(id)
        self.round = Round(batch[-1].number, id, size, clock.current_time())
        return self.round


def size_of(pieces: list[Any]) -> int:
    """Return the bytes of all pieces; an error counts as none."""
    return sum(len(piece) for piece in pieces if not isinstance(piece, BaseException))
