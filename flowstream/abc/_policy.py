"""Policies: what happens when the buffer of a client is full.

A policy is a value that many streams share. It makes a judge for each of them, which may remember.
"""

from __future__ import annotations

import abc
import enum


class Verdict(enum.Enum):
    """What to do with an item that arrives at a full buffer."""

    WAIT = "wait"
    """The producer waits for room, at most `Policy.timeout` seconds."""
    EVICT_OLDEST = "evict_oldest"
    """Drop the oldest droppable items until the arriving one fits."""
    EVICT_NEWEST = "evict_newest"
    """Drop the newest droppable items until the arriving one fits."""
    REPLACE_NEWEST = "replace_newest"
    """Drop the newest droppable item, if there is one, even if there is room. Then drop the
    oldest ones until the arriving item fits."""
    DROP_ARRIVING = "drop_arriving"
    """Drop the arriving item."""
    DISCONNECT = "disconnect"
    """Disconnect the client, with reason `slow_consumer`."""


class Judge(abc.ABC):
    """A policy at work on one client's buffer."""

    behind: bool = False
    """While true, the buffer asks `arrive` about every item, not only when it is full."""

    @abc.abstractmethod
    def arrive(self, now: float, essential: bool) -> Verdict:
        """Decide on one arrival.

        Args:
            now: seconds on the clock that the stream runs on.
            essential: the item may not be dropped. If the verdict would drop it, or if nothing
                droppable is queued, the producer waits instead. The buffer asks about such
                an item only when it does not fit.
        """

    def drained(self, level: float) -> None:  # noqa: B027  # most judges do not need it
        """Called after the writer took from the buffer; `level` is how full it is, from 0 to 1."""


class Policy(abc.ABC):
    """What happens when a client's buffer is full.

    Any number of streams may share one policy. To write your own, derive from this class and
    return a `Judge` from `start`; nothing else is needed.
    """

    timeout: float | None = None
    """Seconds that a producer waits under `Verdict.WAIT` before the client is disconnected;
    None for as long as the client lives."""

    max_age: float | None = None
    """Seconds after which a queued item is dropped instead of written; None for never."""

    keyed: bool = False
    """Whether an arriving item takes the place of the queued one with the same key."""

    rereads: bool = False
    """Whether a topic's client whose buffer is full reads the rest from the topic's replay, when
    it has room again. Then `Judge.arrive` is not called."""

    @abc.abstractmethod
    def start(self) -> Judge:
        """Return the judge for one client's buffer."""
