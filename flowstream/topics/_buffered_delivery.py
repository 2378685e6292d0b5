"""Delivery through buffers: to members that can't be written to directly.

An event goes into the member's buffer, under its policy, and wakes its writer. A policy may make
the publisher wait for room. Such a member is *stuck*: it is put aside, so that all others get the
event first. Then the publisher waits for it.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import trio

from flowstream._clock import clock
from flowstream._errors import unencodable
from flowstream.buffer._queue import Outcome
from flowstream.tasks._failure import passes
from flowstream.topics._members import Member
from flowstream.topics._published import Published


class _Stuck:
    """A member whose policy makes the publisher wait, and the events that it has not got yet."""

    __slots__ = ("deadline", "left", "member")

    def __init__(self, member: Member, left: list[tuple[Published, Any]], deadline: float) -> None:
        self.member = member
        self.left = deque(left)
        self.deadline = deadline


class BufferedDelivery:
    """The deliveries of one topic that go through buffers.

    Attributes:
        stuck: the members for which the publisher has to wait.
        queued: events that were put into buffers, counted once for each member.
    """

    def __init__(self) -> None:
        self.stuck: deque[_Stuck] = deque()
        self.queued: int = 0

    def offer(self, member: Member, batch: list[Published], pieces: list[Any]) -> None:
        """Put the events of a batch that a member wants into its buffer, under its policy.

        Args:
            member: the member. It must have all events before the batch.
            batch: the events.
            pieces: each event encoded for this member, or the error if that failed.
        """
        for place, (published, piece) in enumerate(zip(batch, pieces, strict=True)):
            if member.rereads and not (
                isinstance(piece, BaseException) or member.queue.has_room(len(piece))
            ):
                member.put_behind()
                return
            try:
                outcome = self._offer_one(member, published, piece)
            except BaseException as error:  # noqa: ASYNC103  # see `passes`
                if passes(error):
                    raise
                # Theirs alone.
                member.subscriber.fail(error)
                return  # noqa: ASYNC104  # see `passes`
            if outcome is Outcome.ADMITTED or outcome is Outcome.DROPPED:
                # One at a time: the ids of a joined stream's other topics say what it has here.
                member.number = published.number
                continue
            if outcome is Outcome.WAIT and member.timeout is not None:
                left = list(zip(batch, pieces, strict=True))[place:]
                deadline = clock.current_time() + member.timeout
                self.stuck.append(_Stuck(member, left, deadline))
            else:
                member.subscriber.give_up()
            return

    def _offer_one(self, member: Member, published: Published, piece: Any) -> Outcome:
        event = published.event
        if member.where is not None and not member.where(event):
            return Outcome.DROPPED
        if isinstance(piece, BaseException):
            raise unencodable(event.data, piece) from piece
        bare: Any = None
        if member.keyed:
            encoder = member.encoder
            bare = published.encode(encoder, bare=True) if encoder is not None else published.bare()
        id, key = member.named(published.id), event.key
        if member.name is not None:
            key = (member, key)  # a key belongs to its topic
        outcome = member.buffer.offer(piece, id, essential=event.essential, key=key, bare=bare)
        if outcome is Outcome.ADMITTED:
            self.queued += 1
        return outcome

    async def wait_for_next(self) -> None:
        """**Wait** until the first stuck member has got the events that it lacks, or give it up.

        Ends at the deadline of its policy at the latest.
        """
        await self._wait_for(self.stuck[0])
        self.stuck.popleft()

    async def _wait_for(self, stuck: _Stuck) -> None:
        member, left = stuck.member, stuck.left

        def is_due() -> bool:  # it may have read the events by itself
            next_is = bool(left) and left[0][0].number == member.number + 1
            return next_is and not (member.gone or member.behind)

        with trio.move_on_at(stuck.deadline):
            while is_due():
                try:
                    outcome = self._offer_one(member, *left[0])
                except BaseException as error:  # noqa: ASYNC103  # see `passes`
                    if passes(error):
                        raise
                    # Theirs alone.
                    member.subscriber.fail(error)
                    return  # noqa: ASYNC104  # see `passes`
                if outcome is Outcome.WAIT and member.buffer.room.waiting:
                    member.put_behind()  # another topic's publisher waits for this stream
                elif outcome is Outcome.WAIT:
                    await member.buffer.room.wait()
                elif outcome is Outcome.DISCONNECT:
                    break
                else:
                    member.number = left.popleft()[0].number
        if is_due():
            member.subscriber.give_up()
