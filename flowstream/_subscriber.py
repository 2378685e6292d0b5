"""A subscriber's place in a topic, and how it gets from the past to the present.

Where it left off is one number. While it is behind it pulls: what the history has after that
number, as much as it can take, until there is nothing more; from then on events are pushed.
Between the two there is no queue to overflow and no moment in which an event could come
twice or not at all: both are decided by the same number, without an `await` in between.

Where the history no longer has what it needs, the hole is announced at its place, a snapshot
follows if the topic has one, and the present goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from flowstream._event import Event
from flowstream._fanout import Fanout, Member
from flowstream._history import History, Missing, Published
from flowstream._snapshots import AsOf, Snapshots
from flowstream.abc import Encoder, Policy
from flowstream.sources._feed import Sink

# Events that are looked at in one go, wanted or not, before others run.
_PULL_ITEMS = 256


class Subscriber:
    """One stream's place in a topic.

    Args:
        sink: the stream.
        encoder: makes its bytes; None if it gets the events themselves.
        after: the id that its client saw last, or None for a client that is new.
        controls: whether a snapshot goes as a control event, or as an event of the app's.
    """

    def __init__(
        self,
        history: History,
        fanout: Fanout,
        snapshots: Snapshots | None,
        sink: Sink,
        encoder: Encoder | None,
        *,
        policy: Policy,
        after: str | None,
        where: Callable[[Any], object] | None,
        controls: bool,
        name: Callable[[str], str] | None = None,
    ) -> None:
        self._history = history
        self._snapshots = snapshots
        self._encoder = encoder
        self._controls = controls
        self._where = where
        self._seen: int | None = None  # the last event that a client has that lost some
        self._lost = False
        self._lost_after: str | None = None
        self._wants_snapshot = after is None and snapshots is not None
        position: int | Missing = history.head if after is None else history.locate(after)
        if isinstance(position, Missing):
            self._lost = True
            if position.missed is not None:
                self._seen = history.head - position.missed
                self._lost_after = after  # an id of ours may be repeated to the client
            position = history.head
        self._shared = encoder is not None and encoder.start() is encoder
        self._member = Member(sink, encoder, position, policy, where, name)
        self._member.behind = self._lost or self._wants_snapshot or position < history.head
        self.leave = fanout.add(self._member, encoder, shared=self._shared)

    @property
    def behind(self) -> bool:
        """Whether there are events that the stream has to pull."""
        return self._member.behind

    @property
    def position(self) -> str | None:
        """The id that a client would come back with, if it has got all that was handed on.

        None if that is nothing yet, not even its first snapshot.
        """
        if self._lost:  # what was lost is not announced yet, and must not be passed over
            if self._seen is None:
                return f"{self._history.epoch}.lost"
            return self._history.id_of(self._seen)
        return None if self._wants_snapshot else self._history.id_of(self._member.number)

    def fall_behind(self) -> None:
        """Have nothing pushed until it was pulled."""
        self._member.fall_behind()

    def tally(self) -> None:
        """Have the stream count what was written directly to its connection."""
        self._member.tally()

    async def pull(self, limit: int) -> list[Any]:
        """Return what follows, up to about `limit` bytes; **waits** only for a snapshot.

        To be called while nothing is queued.

        Raises:
            PublicError: the snapshot could not be made.
        """
        member, history = self._member, self._history
        history.trim()
        if not self._lost and not self._wants_snapshot:
            try:
                events = history.after(member.number, _PULL_ITEMS)
            except LookupError:
                self._lost = True
                self._seen = member.number
                self._lost_after = history.id_of(member.number)
                member.queue.dropped += history.head - member.number
                member.number = history.head
            else:
                pieces = self._take(events, limit)
                if not pieces and member.behind:
                    await trio.lowlevel.checkpoint()  # it wants none of so many
                return pieces
        if self._snapshots is None:
            return self._go_on_behind(member.number, None)
        snapshot = await self._snapshots.get(self._seen or 0)
        return self._go_on_behind(snapshot.number, snapshot)

    def _take(self, events: list[Published], limit: int) -> list[Any]:
        member, size = self._member, 0
        pieces: list[Any] = []
        for published in events:
            if self._where is None or self._where(published.event):
                frame = self._frame(published)
                if pieces and size + len(frame) > limit:
                    break
                pieces.append(frame)
                size += len(frame)
            member.number = published.number
        if pieces:
            member.queue.pass_by(len(pieces), self._id(member.number))
        self._settle()
        return pieces

    def _frame(self, published: Published) -> Any:
        if self._encoder is None:
            return published
        if self._shared:
            return self._history.frame(published, self._encoder)
        return published.encode(self._encoder)

    def _go_on_behind(self, number: int, snapshot: AsOf | None) -> list[Any]:
        """Announce what is lost, give the snapshot, and go on behind event `number`."""
        member = self._member
        pieces: list[Any] = []
        if self._lost:
            missed = None if self._seen is None else max(number - self._seen, 0)
            if missed is None or missed:
                after = None if self._lost_after is None else self._named(self._lost_after)
                gap = member.queue.lose(missed or 0, after)
                if missed is None or self._where is not None:
                    gap = gap._replace(missed=None)  # which of them it wanted is not known
                pieces.append(gap)
        member.number = number
        if snapshot is not None:
            pieces.append(self._snapshot_frame(snapshot, self._history.id_of(number)))
            member.queue.pass_by(1, self._id(number))
        self._lost, self._seen, self._lost_after = False, None, None
        self._wants_snapshot = False
        self._settle()
        return pieces

    def _snapshot_frame(self, snapshot: AsOf, id: str) -> Any:
        if self._encoder is None:
            return Published(snapshot.number, Event(snapshot.data, id=id, type="snapshot"), 0.0)
        if self._controls:
            return self._encoder.control("snapshot", snapshot.data, id=id)
        return self._encoder.encode(snapshot.data, id=id, type="snapshot")

    def _id(self, number: int) -> str:
        """Return the id of a position, as the client sees it."""
        return self._named(self._history.id_of(number))

    def _named(self, id: str) -> str:
        return id if self._member.name is None else self._member.name(id)

    def _settle(self) -> None:
        """Be pushed to from now on, if nothing is left to pull."""
        if self._member.number >= self._history.head:
            self._member.behind = False
