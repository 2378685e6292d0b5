"""Readers: subscribers of a run that are to lose nothing, and are still reading its past.

With ``Block(timeout=...)`` a publisher waits for who has no room. One that is behind has room: it
pulls from the history at its own pace. What must wait for it is the history's own forgetting, or
a client that chose to be waited for would lose what a run makes faster than it reads, merely
because it came a moment after the start.
"""

from __future__ import annotations

import trio

from flowstream.topics._history import History
from flowstream.topics._members import Member


class Readers:
    """Those that are waited for before the history drops what they have yet to read.

    Attributes:
        members: they.
    """

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
        """Wait for it no more."""
        self.members.pop(member, None)
        self._lot.unpark_all()

    def lacking(self, size: int) -> list[Member]:
        """Return those that would lose something if an event of `size` bytes came now."""
        last = self._history.last_dropped_for(size)
        return [member for member in self.members if member.behind and member.number < last]

    async def wait(self, size: int) -> None:
        """**Wait** until none would; who reads nothing for as long as its timeout is given up."""
        since: dict[Member, tuple[int, float]] = {}
        while lacking := self.lacking(size):
            now = trio.current_time()
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
