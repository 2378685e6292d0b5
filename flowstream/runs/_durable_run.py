"""A run in a log, as one worker sees it: the one that owns it, or any other."""

from __future__ import annotations

from typing import Protocol

from flowstream._clock import clock
from flowstream._closing import CloseReason
from flowstream.limits import Replay
from flowstream.runs._log_production import LogProduction
from flowstream.runs._run import Run
from flowstream.runs._run_publisher import RunPublisher
from flowstream.topics._engine import Engine


class RunKeeper(Protocol):
    """What a run in a log asks of those who keep it: see `RunsInLog`."""

    async def stop(self, key: str) -> None:
        """Stop the run on whatever worker it is."""
        ...

    async def wait(self, run: DurableRun) -> CloseReason:
        """Wait until it is over."""
        ...

    def count_changed(self, run: DurableRun) -> None:
        """Hear that a client has come or gone."""


class DurableRun(Run):
    """A run in a log; made by `Runs.claim` and `Runs.open`.

    Args:
        keeper: keeps it.
        engine: connects this process with the log.
        topic: its topic in the log.
        key: its key.
        replay: how much is kept.
        token: the token of its lease.

    Attributes:
        topic, token: the same.
        safe_until: until when this worker has it for sure, if it owns it.
        attended: when somebody was seen to read it, on any worker.
        production: what makes its events, if this worker owns it.
    """

    def __init__(
        self, keeper: RunKeeper, engine: Engine, topic: str, key: str, replay: Replay, token: int
    ) -> None:
        self.topic = topic
        self.token = token
        self.safe_until = 0.0
        self._key = key
        self._keeper = keeper
        self._log_publisher = RunPublisher(engine, topic, key, replay, self._changed)
        self._publisher = self._log_publisher
        self.production: LogProduction | None = None
        self._timer = None
        self._started = self._left = self.attended = clock.current_time()

    @property
    def publisher(self) -> RunPublisher:
        """What appends its events, and what its clients read."""
        return self._log_publisher

    @property
    def left(self) -> float:
        """When a client of this worker came or left last."""
        return self._left

    @property
    def reason(self) -> CloseReason | None:
        """Why it has ended, or is about to, as far as this worker knows; None while it goes on."""
        last = self._log_publisher.follower.last
        if last is not None:
            return last.reason
        production = self.production
        return None if production is None or production.is_lost else production.reason

    async def stop(self) -> None:
        """End it for all clients, and **wait** until its producer has cleaned up, on any worker.

        Raises:
            TooSlowError: see `Runs.stop`.
            LogUnavailableError: the log is away.
        """
        await self._keeper.stop(self._text_key)

    async def wait(self) -> CloseReason:
        """**Wait** until it is over, on whatever worker it is, and return the reason."""
        return await self._keeper.wait(self)

    @property
    def _text_key(self) -> str:
        assert isinstance(self._key, str)
        return self._key

    def _changed(self, event: str) -> None:
        self._left = clock.current_time()
        self._keeper.count_changed(self)
