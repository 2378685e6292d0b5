"""The members of a topic: its subscribers.

A delivery to one of ten thousand members costs little more than the write to its socket. So it must
touch little memory here: see `Round`.

`Readers` are the members of a run that must lose nothing, and still read its past. With
``Block(timeout=...)`` a publisher waits for a member that has no room. A member that is behind
always has room, since it pulls from the history at its own pace. So the history must wait before it
drops an event that such a member has not read. Otherwise a client that comes a moment after the
start would lose events, if the run makes them faster than the client reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from flowstream._clock import clock
from flowstream.abc import Encoder
from flowstream.buffer._event_buffer import Doorbell, EventBuffer
from flowstream.buffer._queue import Queue
from flowstream.sources._feed import Subscriber, Terms
from flowstream.topics._history import History


class Member:
    """One subscriber, as the fan-out sees it.

    Args:
        subscriber: where events go.
        encoder: makes its bytes; None if it gets the events themselves.
        number: the last event that it has, or does not ask for.
        terms: what it asks for.

    Attributes:
        behind: whether it pulls the events that it lacks. If so, nothing is pushed to it.
        gone: whether it has left.
        joined: number of the topic's newest event when it came.
        got: the last round of its group, if it got that; None if it is out of step.
        counted: its stream has counted the direct writes up to this round.
        direct: writes to its connection, if that is known to be possible.
        pulled: called when it has pulled something; None if nobody waits for that.
    """

    __slots__ = (
        "behind",
        "buffer",
        "counted",
        "direct",
        "encoder",
        "filled",
        "gone",
        "got",
        "joined",
        "keyed",
        "name",
        "number",
        "pulled",
        "queue",
        "rereads",
        "subscriber",
        "timeout",
        "where",
    )

    def __init__(
        self, subscriber: Subscriber, encoder: Encoder | None, number: int, terms: Terms
    ) -> None:
        self.subscriber: Subscriber = subscriber
        self.name: Callable[[str], str] | None = terms.name
        self.encoder: Encoder | None = encoder
        self.buffer: EventBuffer = subscriber.buffer
        self.queue: Queue = subscriber.buffer.queue
        self.filled: Doorbell = subscriber.buffer.filled
        self.number: int = number
        self.where: Callable[[Any], object] | None = terms.where
        self.keyed: bool = terms.policy.keyed
        self.timeout: float | None = terms.policy.timeout
        self.rereads: bool = terms.policy.rereads
        self.behind: bool = False
        self.gone: bool = False
        self.joined: int = number
        self.got: Round | None = None
        self.counted: Round | None = None
        self.direct: Callable[[bytes], bool] | None = None
        self.pulled: Callable[[], object] | None = None

    def named(self, id: str) -> str:
        """Return the id that its client sees for an id of the topic."""
        return id if self.name is None else self.name(id)

    def tally(self) -> None:
        """Make its stream count the direct writes since the last time."""
        got, counted = self.got, self.counted
        if got is not counted and got is not None and counted is not None:
            self.counted = got
            items = got.number - counted.number
            self.queue.pass_by(items, got.id)
            self.subscriber.wrote(got.bytes - counted.bytes, items, got.time)

    def fall_out(self) -> None:
        """Note that it is out of step with its group."""
        self.tally()
        self.got = self.counted = None

    def fall_behind(self) -> None:
        """Push nothing to it until it has pulled."""
        self.fall_out()
        self.behind = True

    def put_behind(self) -> None:
        """From now on let its stream read the events that it lacks from the history."""
        self.fall_behind()
        self.filled.ring()


class Round:
    """What each member of a group that is in step has got, at the end of one batch.

    A delivery only notes its round: one word in one object. A stream's counts are the difference
    between two rounds, computed when somebody asks. Updating a stream's own counters each time
    would cost more than writing to its socket: of ten thousand streams none is still in the
    processor's cache when it is written to again.

    Attributes:
        number, id: those of the last event.
        bytes: bytes of this and all earlier rounds, in this group's encoding.
        time: when the batch began.
    """

    __slots__ = ("bytes", "id", "number", "time")

    def __init__(self, number: int, id: str | None, bytes: int, time: float) -> None:
        self.number: int = number
        self.id: str | None = id
        self.bytes: int = bytes
        self.time: float = time


NEVER = Round(-1, None, 0, 0.0)


class Readers:
    """Members for which the history waits, before it drops events that they have not read."""

    def __init__(self, history: History) -> None:
        self._history = history
        self.members: dict[Member, None] = {}
        self._lot = trio.lowlevel.ParkingLot()

    @property
    def behind(self) -> bool:
        """Whether any of them is still reading the past."""
        return any(member.behind for member in self.members)

    def add(self, member: Member) -> None:
        """Wait for `member`, too, while it is behind."""
        self.members[member] = None
        member.pulled = self._lot.unpark_all

    def remove(self, member: Member) -> None:
        """Stop waiting for a member."""
        self.members.pop(member, None)
        self._lot.unpark_all()

    def lacking(self, size: int) -> list[Member]:
        """Return the members that would lose events if one of `size` bytes came now."""
        last = self._history.last_dropped_for(size)
        return [member for member in self.members if member.behind and member.number < last]

    async def wait(self, size: int) -> None:
        """**Wait** until no member would lose events to one of `size` bytes.

        Disconnects a member that reads nothing until its policy's timeout.
        """
        since: dict[Member, tuple[int, float]] = {}
        while lacking := self.lacking(size):
            now = clock.current_time()
            for member in lacking:
                if member not in since or since[member][0] != member.number:
                    since[member] = member.number, now
            until = {member: since[member][1] + (member.timeout or 0.0) for member in lacking}
            for member, deadline in until.items():
                if deadline <= now:
                    self.remove(member)
                    member.subscriber.give_up()
            with trio.move_on_at(min(until.values())):
                await self._lot.park()
