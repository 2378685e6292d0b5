"""Fan-out: deliver each published event to every subscriber, in order, at the subscriber's pace.

One task at a time delivers: a publisher, or a system task, which delivers what `publish_nowait`
left and what a cancelled publisher did not finish. It delivers from the history, so events that
were published meanwhile go out too, joined into one write.

There are three ways to a subscriber:

* Its writer waits, and its connection can be written to directly: the bytes, framed once for its
  group, go straight to the socket. No task is woken.
* Otherwise they go into its buffer, under its policy, and its writer is woken
  (`BufferedDelivery`).
* It is *behind*: it reads from the history at its own pace, and gets nothing from here until it
  has caught up. A subscriber that lacks an event is put behind. So a client never has a hole
  that was not announced.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import trio

from flowstream._clock import clock
from flowstream._closing import CloseReason
from flowstream.abc import Encoder
from flowstream.tasks._failure import passes
from flowstream.topics._buffered_delivery import BufferedDelivery
from flowstream.topics._group import Group, size_of
from flowstream.topics._history import History
from flowstream.topics._members import NEVER, Member, Readers, Round
from flowstream.topics._published import Published

# Other tasks run after this many deliveries or seconds, whichever comes first. A delivery is a
# system call of some 7 µs; a hundred of them are most of a millisecond.
_BURST_DELIVERIES = 256
_BURST_SECONDS = 0.001
_STRIDE = 32

# Bytes that are joined into one write: the 16 KiB that Trio sets as TCP_NOTSENT_LOWAT.
_BATCH_BYTES = 16 * 1024
_BATCH_ITEMS = 256


class Fanout:
    """The subscribers of one topic, and the delivery to them.

    Args:
        history: has the published events.
        changed: called with ``"join"`` and ``"leave"``.

    Attributes:
        count: how many subscribers there are.
        direct: events that were written directly, counted once for each subscriber.
        last_change: when `count` last changed.
        groups: the subscribers that get the same bytes, by (encoder, framing); if the encoder is
            one stream's own, by the member.
        readers: the members for which publishers wait while these are behind.
    """

    def __init__(self, history: History, changed: Callable[[str], None]) -> None:
        self._history = history
        self._changed = changed
        self._turn = trio.StrictFIFOLock()
        self._end = 0  # number of the last event of the current batch
        self._burst: Iterator[None] | None = None  # its delivery, up to where it has to wait
        self._buffered = BufferedDelivery()
        self._at_once = False  # `deliver_nowait` runs; a `where=` may publish
        self._waited_for: dict[Member, None] = {}  # members whose policy makes a publisher wait
        self._assisted = False  # a system task delivers
        self.readers: Readers = Readers(history)
        self.count: int = 0
        self.direct: int = 0
        self.last_change: float = -math.inf
        self.groups: dict[object, Group] = {}

    # -- members ---------------------------------------------------------------------------

    def add(
        self, member: Member, encoder: Encoder | None, *, shared: bool, from_beginning: bool
    ) -> Callable[[], None]:
        """Deliver to `member`, too; return a function that ends that.

        Args:
            member: the subscriber.
            encoder: makes its bytes.
            shared: whether others may get the same bytes.
            from_beginning: whether it must get the past, too, as a run's client must.
        """
        framing = member.subscriber.framing
        # A stateful encoder is one stream's own: a group of one.
        key: object = (encoder, framing) if shared else member
        group = self.groups.get(key)
        if group is None:
            group = Group(self._history, encoder, framing, shared=shared)
            self.groups[key] = group
        group.add(member)
        member.joined = self._history.head
        if member.timeout is not None:
            self._waited_for[member] = None
            if from_beginning:
                self.readers.add(member)
        self.count += 1
        self._note_change("join")

        def leave() -> None:
            if not member.gone:
                member.fall_out()
                member.gone = True
                group.remove(member)
                self._waited_for.pop(member, None)
                self.readers.remove(member)
                self.count -= 1
                if not group.members:
                    del self.groups[key]
                self._note_change("leave")

        return leave

    def end(self, reason: CloseReason, detail: str) -> None:
        """End the streams of all subscribers."""
        for member in list(self.members()):
            member.subscriber.close(reason, detail)

    def touch(self) -> None:
        """Set `last_change` to now."""
        self.last_change = clock.current_time()

    def _note_change(self, event: str) -> None:
        self.last_change = clock.current_time()
        self._changed(event)

    def full(self, size: int) -> bool:
        """Return whether a subscriber for which the publisher waits has no room for an event."""
        if self.readers.behind and self.readers.lacking(size):
            return True
        return any(
            not member.behind and not member.queue.has_room(size) for member in self._waited_for
        )

    def members(self) -> list[Member]:
        """Return all members."""
        return [member for group in self.groups.values() for member in group.members]

    @property
    def encoder(self) -> Encoder | None:
        """One of the members' formats, or None."""
        return next((group.encoder for group in self.groups.values() if group.shared), None)

    @property
    def encoders(self) -> set[Encoder | None]:
        """All formats of members; None for one stream's own encoder, and for plain events."""
        return {group.encoder if group.shared else None for group in self.groups.values()}

    @property
    def queued(self) -> int:
        """Events that were put into buffers, counted once for each subscriber."""
        return self._buffered.queued

    # -- delivery --------------------------------------------------------------------------

    async def deliver(self, number: int) -> None:
        """**Wait** until event `number` was delivered, by this task or another.

        If this task is cancelled, the rest is delivered without it.
        """
        try:
            if self._turn.locked():
                await self._turn.acquire()
            else:
                self._turn.acquire_nowait()
            try:
                while self._history.delivered < number:
                    await self._step()
            finally:
                self._turn.release()
        finally:
            if not self._turn.locked():
                self.assist()

    def deliver_nowait(self) -> None:
        """Deliver what was published: now if it takes little time, else in a task that can wait."""
        if self.count <= _BURST_DELIVERIES and not (
            self._turn.locked() or self._buffered.stuck or self._at_once
        ):
            self._at_once = True
            try:
                while self._history.delivered < self._history.head:
                    for _ in self._burst or self._begin():
                        pass  # there are few, so go on
                    self._burst = None
                    if self._buffered.stuck:
                        break
                    self._history.delivered = max(self._history.delivered, self._end)
            finally:
                self._at_once = False
        if not self._at_once:
            self.assist()

    def assist(self) -> None:
        """Start a system task, which can wait, to deliver what is left."""
        if not self._assisted and self._history.delivered < self._history.head:
            self._assisted = True
            try:
                trio.lowlevel.spawn_system_task(
                    self._deliver_rest, name="flowstream topic delivery"
                )
            except RuntimeError:  # the Trio run ends, and all subscribers with it
                self._assisted = False

    async def _deliver_rest(self) -> None:
        try:
            async with self._turn:
                while self._history.delivered < self._history.head:
                    await self._step()
        finally:
            self._assisted = False

    async def _step(self) -> None:
        """Do one step: a burst, a wait for a stuck member, or the end of a batch."""
        if self._burst is not None:
            for _ in self._burst:
                await trio.lowlevel.checkpoint()
            self._burst = None
        elif self._buffered.stuck:
            await self._buffered.wait_for_next()
        elif self._end > self._history.delivered:
            self._history.delivered = self._end
        else:
            self._burst = self._begin()

    def _begin(self) -> Iterator[None]:
        """Begin the next batch: published events that are not delivered yet, up to 16 KiB."""
        history = self._history
        number = max(history.delivered, self._end, history.first - 1)
        batch: list[Published] = []
        size = 0
        for published in history.after(number, _BATCH_ITEMS):
            size += len(published)
            if batch and size > _BATCH_BYTES:
                break
            batch.append(published)
        self._end = batch[-1].number
        return self._deliver(batch)

    def _deliver(self, batch: list[Published]) -> Iterator[None]:
        """Deliver one batch, up to where it has to wait; yield to let other tasks run."""
        number = batch[-1].number
        left = _STRIDE  # deliveries before the clock is read again
        count = 0
        until = clock.perf_counter() + _BURST_SECONDS
        for group in list(self.groups.values()):
            members = group.roster
            data = b""  # for direct writes
            try:
                pieces = group.encode(batch)
            except BaseException as error:  # noqa: ASYNC103  # see `passes`
                if passes(error):
                    raise
                # Theirs alone who want what cannot be encoded.
                pieces = group.encode_each(batch)
            else:
                data = group.frame(pieces)
            # If the batch does not follow that round, no member is in step: see `_hand`.
            in_step = data and group.round.number == number - len(batch)
            before = group.round if in_step else NEVER
            this = group.next_round(batch, pieces)
            handed = 0
            for member in members:
                if (
                    # The usual case, inline for speed: the member is in step, its writer
                    # waits, and the kernel takes the bytes.
                    member.got is before
                    and member.filled.waiting
                    and (direct := member.direct) is not None
                    and direct(data)
                ):
                    member.got = this
                    member.number = number
                else:
                    handed += 1
                    self._hand(member, batch, pieces, data, this)
                left -= 1
                if not left:
                    left = _STRIDE
                    count += _STRIDE
                    if count >= _BURST_DELIVERIES or clock.perf_counter() >= until:
                        yield
                        count = 0
                        until = clock.perf_counter() + _BURST_SECONDS
            self.direct += (len(members) - handed) * len(batch)

    def _hand(
        self,
        member: Member,
        batch: list[Published],
        pieces: list[Any],
        data: bytes,
        this: Round,
    ) -> None:
        """Deliver a batch to one member, in the way that is possible for it."""
        if member.gone or member.behind or member.number >= this.number:
            return
        has = member.number - batch[0].number + 1
        if has < 0:
            # It lacks events before this batch, so it reads from the history.
            member.put_behind()
            return
        if has:  # it came in the middle of this batch
            batch, pieces, data = batch[has:], pieces[has:], b""
        member.fall_out()
        if member.where is None and member.encoder is not None:
            member.direct = member.subscriber.direct
        if data and member.filled.waiting and member.direct is not None and member.direct(data):
            items = len(batch)
            self.direct += items
            member.number = this.number
            member.queue.pass_by(items, this.id)
            member.subscriber.wrote(size_of(pieces), items, this.time)
        else:
            self._buffered.offer(member, batch, pieces)
        if member.number == this.number:
            member.got = member.counted = this
