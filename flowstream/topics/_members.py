"""Who is subscribed to a topic: its members.

A delivery to one of ten thousand members is little more than a write to its socket, so it must
touch little here, too: see `Round`.

`Readers` are the members of a run that must lose nothing and are still reading its past. With
``Block(timeout=...)`` a publisher waits for a member that has no room. A member that is behind
has room: it pulls from the history at its own pace. So the history itself must wait before it
forgets what such a member has not read yet. Else a client that came a moment after the start
would lose what a run makes faster than it reads.
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
        number: the last event that it has, or that it has no claim to.
        terms: what it is to get.

    Attributes:
        behind: it pulls what it lacks; nothing is pushed to it.
        gone: it has left.
        got: the last round of its group, if it had its share of that; None if it is out of step.
        counted: the round up to which its stream has counted what was written directly.
        direct: writes to its connection, where that is known to be possible.
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
        self.got: Round | None = None
        self.counted: Round | None = None
        self.direct: Callable[[bytes], bool] | None = None
        self.pulled: Callable[[], object] | None = None

    def named(self, id: str) -> str:
        """Return what it sees of an id of the topic's."""
        return id if self.name is None else self.name(id)

    def tally(self) -> None:
        """Have its stream count what was written directly since the last time."""
        got, counted = self.got, self.counted
        if got is not counted and got is not None and counted is not None:
            self.counted = got
            items = got.number - counted.number
            self.queue.pass_by(items, got.id)
            self.subscriber.wrote(got.bytes - counted.bytes, items, got.time)

    def fall_out(self) -> None:
        """Be out of step with its group."""
        self.tally()
        self.got = self.counted = None

    def fall_behind(self) -> None:
        """Have nothing pushed to it until it was pulled."""
        self.fall_out()
        self.behind = True

    def put_behind(self) -> None:
        """Have its stream read from the history what it lacks, from now on."""
        self.fall_behind()
        self.filled.ring()


class Round:
    """What the members of a group have got that are in step, by the end of one batch.

    A delivery only notes which round it belongs to: that is one word in one object. What a
    stream counts is the difference between two rounds, and it is worked out when somebody
    asks. To touch a stream's own counters each time would cost more than to write to its
    socket: of ten thousand streams nothing is in the processor's cache when their turn comes.

    Attributes:
        number, id: those of the last event.
        bytes: of this and all earlier rounds, as encoded for this group.
        time: when the batch was begun.
    """

    __slots__ = ("bytes", "id", "number", "time")

    def __init__(self, number: int, id: str | None, bytes: int, time: float) -> None:
        self.number: int = number
        self.id: str | None = id
        self.bytes: int = bytes
        self.time: float = time


NEVER = Round(-1, None, 0, 0.0)


class Readers:
    """Members that the history waits for before it drops what they have not read yet."""

    def __init__(self, history: History) -> None:
        self._history = history
        self.members: dict[Member, None] = {}
        self._lot = trio.lowlevel.ParkingLot()

    @property
    def behind(self) -> bool:
        """Whether any of them is still reading the past."""
        return any(member.behind for member in self.members)

    def add(self, member: Member) -> None:
        """Wait for `member` as well, while it is behind."""
        self.members[member] = None
        member.pulled = self._lot.unpark_all

    def remove(self, member: Member) -> None:
        """Stop waiting for it."""
        self.members.pop(member, None)
        self._lot.unpark_all()

    def lacking(self, size: int) -> list[Member]:
        """Return those that would lose something if an event of `size` bytes came now."""
        last = self._history.last_dropped_for(size)
        return [member for member in self.members if member.behind and member.number < last]

    async def wait(self, size: int) -> None:
        """**Wait** until nobody would lose anything to an event of `size` bytes.

        A member that reads nothing for as long as its policy's timeout is disconnected.
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
