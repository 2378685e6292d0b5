"""A run: one producer for any number of clients, and a clock that runs while there is none.

A `Production`, a task of the app, makes the events. They go into a history, which the clients read.
This module connects the two, and decides how long a run goes on without a reader.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from flowstream._clock import clock
from flowstream._closing import CloseReason
from flowstream._event import Where
from flowstream.abc import Policy
from flowstream.limits import Buffer, Replay
from flowstream.policies import CatchUp
from flowstream.runs._production import Production
from flowstream.sources import Source
from flowstream.sources._feed import HasFeed
from flowstream.tasks._supervised import supervised_nursery
from flowstream.tasks._timers import Timer, start_timer
from flowstream.topics._publisher import Publisher
from flowstream.topics._subscription import SubscriptionManager


@dataclass(frozen=True, slots=True)
class RunStatistics:
    """A moment of one run."""

    key: Hashable
    """The run's key."""
    reason: CloseReason | None
    """Why it has ended, or is about to; None while it goes on."""
    attached: int
    """Streams and subscriptions that read it now."""
    published: int
    """Events so far."""
    replay_items: int
    """Events kept."""
    replay_bytes: int
    """Bytes of their encodings."""
    age: float
    """Seconds since it was started."""
    unattended: float
    """Seconds since anybody read it; 0 while somebody does."""


class Run(HasFeed):
    """A producer at work, to which clients attach; made by `Runs.start`.

    Pass it to `sse()` or the others as often as you like. A new client gets all events from the
    beginning. A client with a ``Last-Event-ID`` goes on after that event. A gap stands for events
    that the replay no longer has. When the run ends, its clients end with its reason: ``end``
    with `completed` or `stopped`, ``failed``, or ``reconnect`` when the app shuts down.

    Each client reads the replay at its own pace (`CatchUp`), unless you give it another policy.
    """

    def __init__(
        self,
        key: Hashable,
        source: Source,
        kept: Replay,
        grace: float,
        cleanup_timeout: float,
        ended: Callable[[Run], None],
        given_up: Callable[[Run], None],
    ) -> None:
        self._key = key
        self._grace = grace
        self._given_up = given_up
        self._publisher = Publisher(
            "run", key, kept, self._changed, policy=CatchUp(), from_beginning=True
        )
        self._production = Production(
            self._publisher.name, source, self._publisher, cleanup_timeout, lambda: ended(self)
        )
        self._started = self._left = clock.current_time()
        self._timer: Timer | None = None

    # -- what an app asks ------------------------------------------------------------------

    @property
    def key(self) -> Hashable:
        """The key that it was started with."""
        return self._key

    @property
    def reason(self) -> CloseReason | None:
        """Why it has ended, or is about to; None while it goes on.

        `completed`, `stopped`, `error`, `client_disconnected` if it was cancelled because
        nobody read it, or `shutdown`.
        """
        return self._production.reason

    @property
    def attached(self) -> int:
        """How many streams and subscriptions read it now."""
        return self._publisher.fanout.count

    async def stop(self) -> None:
        """End it for all clients, and **wait** until its producer has cleaned up.

        Each client gets what is queued, then ``end`` with `stopped`. Does nothing if it is over.
        """
        self._production.stop(CloseReason.STOPPED, "Run.stop()")
        await self._production.over.wait()

    async def wait(self) -> CloseReason:
        """**Wait** until it is over, and return the reason. A task that waits is not a reader."""
        await self._production.over.wait()
        assert self.reason is not None
        return self.reason

    def subscribe(
        self,
        *,
        after: str | None = None,
        where: Where | None = None,
        buffer: int | Buffer = 256,
        policy: Policy | None = None,
    ) -> SubscriptionManager:
        """Attach inside the program: a context manager that gives an iterator of events.

        ``sse(run.subscribe(...))`` streams the run to one client with these arguments.

        Args:
            after: the id of the last event that you have; None for all from the beginning.
            where: events for which it returns false are left out, without a gap.
            buffer: how much may wait.
            policy: what happens when the buffer is full; `CatchUp()` by default.

        Raises:
            TypeError, ValueError: an argument is not what is said above.
            PublicError: from the iterator, at its end, if the run failed.
        """
        return SubscriptionManager(self._publisher, after, where, buffer, policy)

    def statistics(self) -> RunStatistics:
        """Return how it is doing."""
        history, now = self._publisher.history, clock.current_time()
        history.trim()
        return RunStatistics(
            key=self._key,
            reason=self.reason,
            attached=self.attached,
            published=self._publisher.published,
            replay_items=history.items,
            replay_bytes=history.size,
            age=now - self._started,
            unattended=0.0 if self.attached else now - self._left,
        )

    @property
    def epoch(self) -> str:
        """The beginning of its ids. Each run has its own."""
        return self._publisher.history.epoch

    # -- for streams and `Runs` ------------------------------------------------------------

    @property
    def _feed(self) -> Publisher:
        return self._publisher

    def _begin(self) -> None:
        """Start it in the supervised nursery.

        Raises:
            RuntimeError: this Trio run has no such nursery.
        """
        supervised_nursery().start(self._production)
        self._await_somebody()

    def _changed(self, event: str) -> None:
        self._left = clock.current_time()
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        if not self.attached:
            self._await_somebody()

    def _await_somebody(self) -> None:
        if self.reason is None and self._grace < math.inf:
            self._timer = start_timer(clock.current_time() + self._grace, self._give_up)

    def _give_up(self, now: float) -> float:
        if self.reason is None and not self.attached:
            self._given_up(self)
            self._production.stop(CloseReason.CLIENT_DISCONNECTED, "the run was given up")
        return math.inf

    def _leave_alone(self) -> None:
        """Stop watching for readers: the run has ended."""
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
