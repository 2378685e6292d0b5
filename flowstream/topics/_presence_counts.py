"""Counts of subscribers by worker, their sums, and what of these was told to clients.

It is sans-I/O: values in, values out. Times are seconds on the clock of the process.

Each worker says how many subscribers it has in each *place*: a topic, and the presence topic that
is told of it. A worker that says nothing for 15 s is taken for dead, and its counts are dropped.
One worker at a time tells clients: of those that are alive, the one with the smallest id, which is
the oldest. All workers know what it has told. So the next one goes on where it stopped. If it is
dead, what it told last is in doubt, and is told again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TypeAlias

PresencePlace: TypeAlias = tuple[str, str]
"""The presence topic's name in the log, and the topic's own name."""

WORKER_SECONDS = 15.0
"""After so many seconds without a word a worker is taken for dead."""

# Seconds before a dead worker's last word in which it may have told clients without saying so.
_DOUBT_SECONDS = 5.0


class _Heard:
    """What one worker has said."""

    __slots__ = ("counts", "stamp")

    def __init__(self) -> None:
        self.stamp = -math.inf
        self.counts: dict[PresencePlace, int] = {}


class PresenceCounts:
    """The counts of all workers, as one worker knows them.

    Args:
        me: this worker's id.

    Attributes:
        me: the same.
        own: this worker's counts; those of 0 are left out.
        pending: places whose sum is not what clients were told last.
    """

    def __init__(self, me: str) -> None:
        self.me: str = me
        self.own: dict[PresencePlace, int] = {}
        self.pending: dict[PresencePlace, None] = {}
        self._workers: dict[str, _Heard] = {}
        self._totals: dict[PresencePlace, int] = {}
        self._told: dict[PresencePlace, int] = {}
        self._moved: dict[PresencePlace, float] = {}  # when a sum changed, lately
        self._doubted: set[PresencePlace] = set()

    # -- what is said ----------------------------------------------------------------------

    def set_own(self, place: PresencePlace, count: int, now: float) -> None:
        """Note how many subscribers this worker has in a place."""
        self._put(self.own, place, count, now)

    def hear(
        self, worker: str, counts: Mapping[PresencePlace, int], *, all: bool, stamp: float
    ) -> None:
        """Take what a worker said at `stamp`: some of its counts, or all of them."""
        heard = self._workers.setdefault(worker, _Heard())
        if worker == self.me:
            if heard.stamp <= stamp - WORKER_SECONDS:
                # It is heard again. Others may have been cut off as it was.
                for other in self._workers.values():
                    other.stamp = max(other.stamp, stamp)
            heard.stamp = stamp
            return  # `own` is newer
        heard.stamp = max(heard.stamp, stamp)
        if all:
            for place in heard.counts.keys() - counts.keys():
                self._put(heard.counts, place, 0, stamp)
        for place, count in counts.items():
            self._put(heard.counts, place, count, stamp)

    def hear_gone(self, worker: str, now: float) -> None:
        """Drop a worker that has said that it ends."""
        heard = self._workers.pop(worker, None)
        if heard is not None:
            for place in list(heard.counts):
                self._put(heard.counts, place, 0, now)

    def hear_told(self, place: PresencePlace, total: int) -> None:
        """Note what clients were told."""
        if total:
            self._told[place] = total
        else:
            self._told.pop(place, None)
        self._doubted.discard(place)
        self._compare(place)

    def expire(self, now: float) -> None:
        """Drop the workers that are dead.

        Only who is heard itself can tell. A worker that was frozen, or can't reach the log, would
        take all others for dead.
        """
        oldest = now - WORKER_SECONDS
        mine = self._workers.get(self.me)
        if mine is None or mine.stamp <= oldest:
            return
        leader = min(self._workers)
        is_lost = self._workers[leader].stamp <= oldest
        for worker in [id for id, heard in self._workers.items() if heard.stamp <= oldest]:
            self.hear_gone(worker, now)
        doubtful = oldest - _DOUBT_SECONDS
        self._moved = {place: at for place, at in self._moved.items() if at >= doubtful}
        if is_lost:
            self._doubted.update(self._moved)
            for place in self._moved:
                self._compare(place)

    # -- what follows ----------------------------------------------------------------------

    @property
    def in_use(self) -> bool:
        """Whether there is anybody, or something to tell."""
        return bool(self._totals or self.pending)

    @property
    def alive(self) -> int:
        """How many workers were heard lately."""
        return len(self._workers)

    def leads(self, now: float) -> bool:
        """Return whether this worker is the one that tells clients."""
        mine = self._workers.get(self.me)
        if mine is None or mine.stamp <= now - WORKER_SECONDS:
            return False
        return min(self._workers) == self.me

    def total(self, place: PresencePlace) -> int:
        """Return how many subscribers all workers have in a place."""
        return self._totals.get(place, 0)

    def told(self, place: PresencePlace) -> int:
        """Return what clients were told last."""
        return self._told.get(place, 0)

    def own_of(self, places: Iterable[PresencePlace]) -> dict[PresencePlace, int]:
        """Return this worker's counts of these places."""
        return {place: self.own.get(place, 0) for place in places}

    def _put(
        self, counts: dict[PresencePlace, int], place: PresencePlace, count: int, at: float
    ) -> None:
        change = count - counts.get(place, 0)
        if not change:
            return
        total = self._totals.get(place, 0) + change
        self._moved[place] = at
        if count:
            counts[place] = count
        else:
            counts.pop(place, None)
        if total:
            self._totals[place] = total
        else:
            self._totals.pop(place, None)
        self._compare(place)

    def _compare(self, place: PresencePlace) -> None:
        if self.total(place) == self.told(place) and place not in self._doubted:
            self.pending.pop(place, None)
        else:
            self.pending[place] = None
