"""The slow-consumer policies: what each does to a full buffer.

Each policy is a frozen value, named by its effect. Its `Judge` looks at each arriving item and
returns a `Verdict`, which the buffer carries out. A judge holds no events and never waits. The
buffer counts and announces what is dropped, so no policy can forget to.

=================  =====================================================================
policy             at a full buffer
=================  =====================================================================
`Block`            the producer waits (true backpressure)
`DropOldest`       the oldest item is dropped; the client gets the newest items
`DropNewest`       the arriving item is dropped; the client gets the oldest items
`Sample`           only some arrivals are kept, until the buffer is half empty
`Conflate`         the newest item of each key stays, in the key's place in the queue
`Disconnect`       the client is disconnected
`CatchUp`          the client later reads from the replay (topics and runs)
=================  =====================================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field

from flowstream.abc import Judge, Policy, Verdict
from flowstream.limits import check_count, check_positive

__all__ = ["Block", "CatchUp", "Conflate", "Disconnect", "DropNewest", "DropOldest", "Sample"]


class _Always(Judge):
    """The judge of the policies that remember nothing: always the same verdict."""

    def __init__(self, verdict: Verdict, for_essential: Verdict) -> None:
        self._verdict = verdict
        self._for_essential = for_essential

    def arrive(self, now: float, essential: bool) -> Verdict:
        return self._for_essential if essential else self._verdict


_WAIT = _Always(Verdict.WAIT, Verdict.WAIT)
_EVICT_OLDEST = _Always(Verdict.EVICT_OLDEST, Verdict.EVICT_OLDEST)
_DROP_ARRIVING = _Always(Verdict.DROP_ARRIVING, Verdict.EVICT_NEWEST)
_DISCONNECT = _Always(Verdict.DISCONNECT, Verdict.DISCONNECT)


def _check_max_age(max_age: float | None) -> None:
    if max_age is not None:
        check_positive("max_age", max_age, unit="seconds")


@dataclass(frozen=True, slots=True)
class Block(Policy):
    """The producer waits for room: true backpressure, nothing is dropped.

    Args:
        timeout: seconds that one item may wait; then the client is disconnected with reason
            `slow_consumer`. None waits as long as the client lives. (A client that reads
            nothing at all is disconnected by `Limits.stall_timeout`.)

    Raises:
        TypeError, ValueError: if `timeout` is not a number above 0.
    """

    timeout: float | None = None

    def __post_init__(self) -> None:
        if self.timeout is not None:
            check_positive("timeout", self.timeout, unit="seconds")

    def start(self) -> Judge:
        """Return the judge for one client's buffer."""
        return _WAIT


@dataclass(frozen=True, slots=True)
class DropOldest(Policy):
    """Drop the oldest queued item. The default for topics: there the newest matters most.

    Args:
        max_age: seconds after which a queued item is dropped instead of written.

    Raises:
        TypeError, ValueError: if `max_age` is not a number above 0.
    """

    max_age: float | None = None

    def __post_init__(self) -> None:
        _check_max_age(self.max_age)

    def start(self) -> Judge:
        """Return the judge for one client's buffer."""
        return _EVICT_OLDEST


@dataclass(frozen=True, slots=True)
class DropNewest(Policy):
    """Drop the arriving item: first come, first served.

    Args:
        max_age: seconds after which a queued item is dropped instead of written.

    Raises:
        TypeError, ValueError: if `max_age` is not a number above 0.
    """

    max_age: float | None = None

    def __post_init__(self) -> None:
        _check_max_age(self.max_age)

    def start(self) -> Judge:
        """Return the judge for one client's buffer."""
        return _DROP_ARRIVING


@dataclass(frozen=True, slots=True)
class Disconnect(Policy):
    """Disconnect the client, with reason `slow_consumer`: for clients that must not lag."""

    def start(self) -> Judge:
        """Return the judge for one client's buffer."""
        return _DISCONNECT


@dataclass(frozen=True, slots=True)
class Conflate(Policy):
    """Keep the newest item of each `Event.key`, in the place of the one before it.

    A key keeps its place in the queue, so that one busy key can't hold up the others. Items
    without a key share one key, None: a stream without keys keeps only the latest item. A buffer
    that is full of different keys drops the oldest.

    Args:
        max_age: seconds after which a queued item is dropped instead of written.

    Raises:
        TypeError, ValueError: if `max_age` is not a number above 0.
    """

    max_age: float | None = None
    keyed: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        _check_max_age(self.max_age)

    def start(self) -> Judge:
        """Return the judge for one client's buffer."""
        return _EVICT_OLDEST


@dataclass(frozen=True, slots=True)
class Sample(Policy):
    """Keep only some arrivals while the client is behind; a client that keeps up gets everything.

    A client is behind from the moment its buffer is full until it is half empty. In that time
    one arrival in `every` is kept (or the newest of each `interval`), and the oldest queued item
    is dropped for it. The other arrivals are dropped. The last arrival is always delivered.

    Args:
        every: keep one arrival in this many; 2 or more.
        interval: or keep the newest arrival of each interval of this many seconds.
        max_age: seconds after which a queued item is dropped instead of written.

    Raises:
        TypeError: if both or neither of `every` and `interval` are given, or not as numbers.
        ValueError: if `every` is below 2, or `interval` or `max_age` not above 0.
    """

    every: int | None = field(default=None, kw_only=True)
    interval: float | None = field(default=None, kw_only=True)
    max_age: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if (self.every is None) == (self.interval is None):
            raise TypeError("Sample takes either every=n or interval=seconds")
        if self.every is not None:
            check_count("every", self.every, unit="arrivals")
            if self.every == 1:
                raise ValueError("every must be at least 2: one in 1 keeps all, use DropOldest")
        if self.interval is not None:
            check_positive("interval", self.interval, unit="seconds")
        _check_max_age(self.max_age)

    def start(self) -> Judge:
        """Return the judge for one client's buffer."""
        if self.every is not None:
            return _EveryJudge(self.every)
        assert self.interval is not None
        return _IntervalJudge(self.interval)


class _SampleJudge(Judge):
    """Keeps the last arrival as a candidate at the end of the queue.

    The candidate gives way to the next arrival until a sampling point makes it firm; the
    arrival after that evicts the oldest item instead. So the newest arrival is always in
    the queue, whenever the source falls silent, and no timer is needed to deliver it.
    """

    def __init__(self) -> None:
        self.behind = False
        self._candidate = False

    def drained(self, level: float) -> None:
        if level <= 0.5:
            self.behind = False

    def _fall_behind(self) -> bool:
        """Return whether this arrival is the one that found the buffer full."""
        if self.behind:
            return False
        self.behind = True
        self._candidate = False
        return True

    def _verdict(self, *, firm: bool) -> Verdict:
        verdict = Verdict.REPLACE_NEWEST if self._candidate else Verdict.EVICT_OLDEST
        self._candidate = not firm
        return verdict


class _EveryJudge(_SampleJudge):
    def __init__(self, every: int) -> None:
        super().__init__()
        self._every = every
        self._count = 0

    def arrive(self, now: float, essential: bool) -> Verdict:
        if self._fall_behind():
            self._count = 0
        if essential:
            return Verdict.EVICT_OLDEST
        self._count += 1
        firm = self._count == self._every
        if firm:
            self._count = 0
        return self._verdict(firm=firm)


class _IntervalJudge(_SampleJudge):
    def __init__(self, interval: float) -> None:
        super().__init__()
        self._interval = interval
        self._start = 0.0

    def arrive(self, now: float, essential: bool) -> Verdict:
        if self._fall_behind():
            self._start = now
        if essential:
            return Verdict.EVICT_OLDEST
        if now - self._start >= self._interval:
            # The candidate was the newest of the interval that has just ended.
            self._candidate = False
            self._start = now
        return self._verdict(firm=False)


@dataclass(frozen=True, slots=True)
class CatchUp(Policy):
    """Let the client read later, from the replay, the events that have no room in its buffer.

    For topics, and for runs, where it is the default. The publisher never waits. An event that
    leaves the replay before the client has read it is announced as a gap.
    """

    rereads: bool = field(default=True, init=False, repr=False)

    def start(self) -> Judge:
        """Return a judge that is asked only where there is no replay."""
        return _WAIT
