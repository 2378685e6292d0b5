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
from flowstream.topics._history import History, Published
from flowstream.topics._members import Member, Round


class Group:
    """The subscribers that get the same bytes.

    Args:
        history: keeps what is encoded for all who get it.
        encoder: makes the bytes; None if the members get the events themselves.
        framing: makes of them what is written directly; None if nobody is written to directly.
        shared: whether others may get the same, so that it is worth keeping.

    Attributes:
        round: the last that was begun.
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
        """The members that are there now, for a loop during which some come and go."""
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
        # One member's own, whose encoder may remember what it is given: nothing but that.
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
                # Raised for who wants it.
                pieces.append(error)
        return pieces

    def frame(self, pieces: list[Any]) -> bytes:
        """Return what is written directly for the pieces of a batch; b"" if nothing is."""
        if self._framing is None or self.encoder is None:
            return b""
        return self._framing.frame(pieces)

    def next_round(self, batch: list[Published], pieces: list[Any]) -> Round:
        """Begin the round in which the members get a batch, and return it."""
        size, id = self.round.bytes + size_of(pieces), batch[-1].id
        if not self.shared:
            for member in self.members:  # one, with names of its own for ids perhaps
                id = member.named(id)
        self.round = Round(batch[-1].number, id, size, clock.current_time())
        return self.round


def size_of(pieces: list[Any]) -> int:
    """Return the bytes of all pieces; an error in the place of one has none."""
    return sum(len(piece) for piece in pieces if not isinstance(piece, BaseException))
