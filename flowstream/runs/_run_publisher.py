"""The publisher of a run that is in a log.

On the worker that owns the run it appends events with the fencing token of the run's lease. On all
workers it lets clients read the run.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from flowstream._closing import CloseReason
from flowstream.abc import Encoder
from flowstream.limits import Replay
from flowstream.policies import CatchUp
from flowstream.runs._run_cursor import RunCursor
from flowstream.runs._run_end import RunEnd
from flowstream.runs._run_follower import RunFollower
from flowstream.sources._feed import Subscriber, Terms
from flowstream.topics._engine import Engine
from flowstream.topics._log_publisher import LogPublisher
from flowstream.topics._sender import Sender


class RunPublisher(LogPublisher):
    """The publisher of a run in a log.

    Args:
        engine: connects this process with the log.
        topic: the run's topic in the log.
        key: the run's key.
        replay: how much is kept.
        changed: called with ``join`` and ``leave``.
    """

    in_log = True

    def __init__(
        self,
        engine: Engine,
        topic: str,
        key: str,
        replay: Replay,
        changed: Callable[[str], None],
    ) -> None:
        super().__init__(
            engine, topic, "run", key, replay, changed, policy=CatchUp(), from_beginning=True
        )
        self._engine = engine
        self._run = RunFollower(
            self._finished,
            topic,
            engine.log,
            self._window,
            self.fanout,
            self._entered,
            engine.mark_stale,
            self._counts,
        )
        self._follower = self._run
        engine.add(self)

    @property
    def follower(self) -> RunFollower:
        """What keeps the run's window in step."""
        return self._run

    def own(self, fence: int, patience: float) -> None:
        """Append from now on as the lease's owner; wait so long while the log is away."""
        self._sender = Sender(
            self._topic,
            self._engine.log,
            self._keep,
            self._engine.send,
            self._committed,
            patience,
            self._counts,
            fence,
        )

    async def flush(self) -> None:
        """**Wait** until everything that was published is in the log.

        Raises:
            LogUnavailableError: the log is away for too long.
            FencedError: somebody else owns the run by now.
        """
        await self._sender.send([])

    async def _wait_until_open(self) -> None:
        """Go on: a new client of a run reads the log from its beginning."""
        await trio.lowlevel.checkpoint()

    def join(self, subscriber: Subscriber, encoder: Encoder | None, terms: Terms) -> RunCursor:
        """Give `subscriber` all events, from the beginning or behind those that it has."""
        self._remember_run()
        self._shared.follow(self._follower)
        cursor = RunCursor(
            self._run,
            self._shared.pages,
            self._window,
            self.fanout,
            subscriber,
            encoder,
            terms,
        )
        if self.ending is not None:
            subscriber.feed_ended(*self.ending)
        return cursor

    def end_readers(self, end: RunEnd) -> None:
        """End the clients of this process, each when it has all events that are here."""
        self.ending = (end.reason, end.error, end.detail)
        for member in self.fanout.members():
            if member.number < self.history.head:
                member.put_behind()
            member.subscriber.feed_ended(*self.ending)

    def _finished(self, end: RunEnd) -> None:
        if self.ending is None or self.ending[0] is not CloseReason.SHUTDOWN:
            self.end_readers(end)
