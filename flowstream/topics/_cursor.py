"""A subscriber's place in a topic, which moves from the past to the present.

The place is one number. While the subscriber is behind, it pulls the events after that number from
the history, as many as it can take, until there are no more. From then on events are pushed to it.
The same number decides both, without an `await` in between. So there is no queue to overflow, and
no event comes twice or is missed.

A stream that wants all events is given many of them joined (`History.read`). A stream with a filter
is given them one by one.

If the history no longer has what it needs, a gap is announced, a snapshot follows if the topic has
one, and new events go on from there. In a run it goes on with the oldest event that is kept,
because there the client came for the past.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from flowstream._event import Event
from flowstream.abc import Encoder
from flowstream.buffer._queue import Slice
from flowstream.ids._event_id import lost_id
from flowstream.sources._feed import Subscriber, Terms
from flowstream.tasks._failure import passes
from flowstream.topics._fanout import Fanout
from flowstream.topics._history import History, Missing
from flowstream.topics._members import Member
from flowstream.topics._published import Published
from flowstream.topics._snapshots import AsOf, Snapshots, unusable

# Events that are checked, wanted or not, before other tasks run.
_PULL_ITEMS = 256

VAIN_SNAPSHOTS = 3
"""Snapshots in a row for one client after which the history did not reach back to the snapshot.
Then the client is told to come back later."""


class Cursor:
    """One stream's place in a topic.

    Args:
        subscriber: the stream.
        encoder: makes its bytes; None if it gets the events themselves.
        terms: what it asks for.
    """

    def __init__(
        self,
        history: History,
        fanout: Fanout,
        snapshots: Snapshots | None,
        subscriber: Subscriber,
        encoder: Encoder | None,
        terms: Terms,
    ) -> None:
        self._history = history
        self._snapshots = snapshots
        self._controls = terms.controls
        self._seen: int | None = None  # the last event before a loss
        self._lost = False
        self._vain = 0  # snapshots in a row after which the history could not go on
        self._prepared: AsOf | None = None  # the snapshot from `prepare`
        self._from_beginning = terms.from_beginning
        after = terms.after
        self._wants_snapshot = after is None and snapshots is not None
        position = self._locate(after)
        if isinstance(position, Missing):
            self._lost = True
            if position.missed is not None:
                self._seen = history.head - position.missed
            else:
                after = None  # not an id of this topic, so it is not repeated to the client
            position = self._next
        self._shared = encoder is not None and encoder.start() is encoder
        # Whether the bytes of many events are those of each, one after the other.
        join = Encoder.join if encoder is None else type(encoder).join
        self._joins = self._shared and join is Encoder.join
        self._member = Member(subscriber, encoder, position, terms)
        if after is not None:
            subscriber.buffer.queue.pass_by(0, self._member.named(after))
        else:
            subscriber.buffer.queue.begin_in_order()
        self._member.behind = self._lost or self._wants_snapshot or position < history.head
        leave = fanout.add(
            self._member, encoder, shared=self._shared, from_beginning=self._from_beginning
        )
        self.leave: Callable[[], None] = leave if terms.left is None else _both(leave, terms.left)

    def _locate(self, after: str | None) -> int | Missing:
        """Return the number of the last event that the client has, or that it is lost."""
        history = self._history
        if after is not None:
            return history.locate(after)
        if not self._from_beginning:
            return history.head
        history.trim()
        return 0 if history.first == 1 else Missing(history.head)

    @property
    def _next(self) -> int:
        """The event after which a client goes on that has lost some."""
        return self._history.first - 1 if self._from_beginning else self._history.head

    @property
    def behind(self) -> bool:
        """Whether there are events that the stream has to pull."""
        return self._member.behind

    @property
    def waits(self) -> bool:
        """Whether `pull` would wait for a snapshot that the app makes."""
        return (
            (self._lost or self._wants_snapshot)
            and self._snapshots is not None
            and self._snapshots.waits
            and self._prepared is None
        )

    async def prepare(self) -> None:
        """**Wait** for the snapshot, so that `pull` need not wait.

        Raises:
            PublicError: it could not be made.
        """
        assert self._snapshots is not None
        self._prepared = await self._snapshots.get(self._seen or 0)

    def lacks(self) -> int | None:
        """Return how many events the stream still has to pull; None if that is unknown."""
        member, head = self._member, self._history.head
        if not member.behind or (not self._lost and member.number >= head):
            return 0
        if member.where is not None or (self._lost and self._seen is None):
            return None
        return head - (member.number if self._seen is None else self._seen)

    @property
    def position(self) -> str | None:
        """The id that a client comes back with if it has got all events that were passed on.

        None if it has got nothing yet, not even its first snapshot.
        """
        if self._lost:  # the loss is not announced yet, and must not be skipped
            if self._seen is None:
                return lost_id(self._history.epoch)
            return self._history.id_of(self._seen)
        return None if self._wants_snapshot else self._history.id_of(self._member.number)

    def fall_behind(self) -> None:
        """Stop the topic from pushing, until the stream has pulled."""
        self._member.fall_behind()

    def catch_up(self) -> None:
        """Let the topic push again, unless there is something to pull."""
        if not self._lost and not self._wants_snapshot:
            self._settle()

    def tally(self) -> None:
        """Make the stream count what was written directly to its connection."""
        self._member.tally()

    async def pull(self, limit: int) -> list[Any]:
        """Return the next events, up to about `limit` bytes. **Waits** only for a snapshot.

        Call it only while nothing is queued.

        Raises:
            PublicError: the snapshot could not be made.
        """
        member, history = self._member, self._history
        history.trim()
        if not self._lost and not self._wants_snapshot:
            if member.number + 1 >= history.first:
                if self._joins and member.where is None and member.number < history.head:
                    return [self._take_slice(limit)]
                pieces = self._take(history.after(member.number, _PULL_ITEMS), limit)
                if not pieces and member.behind:
                    await trio.lowlevel.checkpoint()  # it wanted none of these
                return pieces
            self._lost = True
            self._seen = member.number
            member.number = self._next
            if self.waits:  # so that the caller sees that the next call waits
                await trio.lowlevel.checkpoint()
                return []
        if self._snapshots is None:
            number = max(member.number, self._next) if self._from_beginning else member.number
            return self._go_on_behind(number, None)
        snapshot, self._prepared = self._prepared, None
        if snapshot is None or not self._reaches(snapshot):
            # There is none, or so much was published after it that the history can't go on there.
            snapshot = await self._snapshots.get(self._seen or 0)
        self._vain = 0 if self._reaches(snapshot) else self._vain + 1
        if self._vain > VAIN_SNAPSHOTS:
            raise unusable("what follows on it is not in the replay, which has to be longer")
        return self._go_on_behind(snapshot.number, snapshot)

    def _take_slice(self, limit: int) -> Slice:
        """Return the next events as one piece, for a stream that wants all of them."""
        member, history = self._member, self._history
        assert member.encoder is not None
        piece = history.read(member.number, limit, member.encoder)
        member.number += piece.items
        member.queue.pass_by(piece.items, member.named(history.id_of(member.number)))
        self._settle()
        return piece

    def _take(self, events: list[Published], limit: int) -> list[Any]:
        """Return those of `events` that the stream wants, one piece for each."""
        member, size = self._member, 0
        pieces: list[Any] = []
        last = None
        for published in events:
            try:
                if member.where is None or member.where(published.event):
                    encoded = self._encoded(published)
                    if pieces and size + len(encoded) > limit:
                        break
                    pieces.append(encoded)
                    size += len(encoded)
                    last = published.id
            except BaseException as error:
                if pieces and not passes(error):
                    break  # these first: the next call raises it again  # noqa: ASYNC104  # see `passes`
                raise
            member.number = published.number
        if last is not None:
            member.queue.pass_by(len(pieces), member.named(last))
        self._settle()
        return pieces

    def _encoded(self, published: Published) -> Any:
        encoder = self._member.encoder
        if encoder is None:
            return published
        if self._shared:
            return self._history.encoded(published, encoder)
        return published.encode(encoder)

    def _go_on_behind(self, number: int, snapshot: AsOf | None) -> list[Any]:
        """Announce the loss, give the snapshot, and go on after event `number`."""
        member = self._member
        pieces: list[Any] = []
        # What may fail comes first: a joined id has the old position until the gap is announced.
        encoded = None if snapshot is None else self._encoded_snapshot(snapshot)
        if self._lost:
            missed = None if self._seen is None else self._missed(self._seen, number)
            if missed != 0:
                # It is unknown how many of them the filter would have passed.
                pieces.append(member.queue.lose(missed if member.where is None else None))
        member.number = number
        if snapshot is not None:
            pieces.append(encoded)
            member.queue.pass_by(1, member.named(snapshot.id))
        self._lost, self._seen = False, None
        self._wants_snapshot = False
        self._settle()
        return pieces

    def _missed(self, seen: int, number: int) -> int | None:
        """Return how many events lie between two; None if that is unknown."""
        return max(number - seen, 0)

    def _reaches(self, snapshot: AsOf) -> bool:
        """Return whether the history still has all that follows a snapshot."""
        return snapshot.number + 1 >= self._history.first

    def _encoded_snapshot(self, snapshot: AsOf) -> Any:
        """Return a snapshot as the stream gets it.

        Raises:
            PublicError: the format cannot carry it.
        """
        encoder, id = self._member.encoder, snapshot.id
        if encoder is None:
            return Published(
                snapshot.number, Event(snapshot.data(None), id=id, type="snapshot"), 0.0
            )

        def encode() -> bytes:
            data = snapshot.data(encoder)
            if self._controls:
                return encoder.control("snapshot", data, id=id)
            return encoder.encode(data, id=id, type="snapshot")

        try:
            return snapshot.encoded((encoder, self._controls), encode) if self._shared else encode()
        except BaseException as error:
            if passes(error):
                raise
            raise unusable("%s", error) from error  # noqa: ASYNC104  # see `passes`

    def _settle(self) -> None:
        """Let the topic push from now on, if nothing is left to pull."""
        member = self._member
        if member.number >= self._history.head:
            member.behind = False
        if member.pulled is not None:
            member.pulled()


def _both(one: Callable[[], None], other: Callable[[], None]) -> Callable[[], None]:
    def call() -> None:
        one()
        other()

    return call
