"""The records of runs in a log: their leases, their events, their ends."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TypeVar

from flowstream._closing import CloseReason
from flowstream._event import Event
from flowstream.abc import Lease, Log, LogEntry, Position
from flowstream.ids._event_id import event_id
from flowstream.runs._log_runs_options import LogRunsOptions
from flowstream.runs._run_end import RunEnd, is_end, no_longer_kept, unwrap_end, wrap_end
from flowstream.topics._envelope import UnknownEnvelopeError, unwrap
from flowstream.topics._log_reader import PAGE_ITEMS, insist

logger = logging.getLogger("flowstream")

T = TypeVar("T")

# The shortest lease, in seconds: it lapses at once.
AT_ONCE = 0.001


class RunRecords:
    """The runs of one name, as a log has them. Each method **waits** for the log.

    Args:
        log: the log.
        owner: who this worker is.
        options: what `Runs` was given.
        patience: seconds that a call waits while the log is away; then LogUnavailableError.
    """

    def __init__(self, log: Log, owner: str, options: LogRunsOptions, patience: float) -> None:
        self._log = log
        self._owner = owner
        self._options = options
        self._patience = patience

    async def claim(self, topic: str, instead: int | None = None) -> Lease:
        """Take the lease of a run, if it has none; return the one that it has."""
        seconds = self._options.lease
        return await self._insist(
            partial(self._log.claim, topic, self._owner, seconds=seconds, instead=instead)
        )

    async def lease(self, topic: str) -> Lease | None:
        """Return the lease of a run."""
        return (await self.leases([topic]))[topic]

    async def leases(self, topics: Iterable[str]) -> dict[str, Lease | None]:
        """Return the leases of runs."""
        return await self._insist(partial(self._log.leases, list(topics)))

    async def let_go(self, topic: str, token: int) -> None:
        """Have the lease of a run of this worker lapse at once."""
        await self._log.beat(self._owner, {topic: token}, seconds=AT_ONCE)

    async def end(
        self,
        topic: str,
        token: int,
        end: RunEnd,
        seconds: float | None = None,
        *,
        lapsed: bool = False,
        patience: float | None = None,
    ) -> Lease | None:
        """End a run; return its lease.

        Args:
            topic: its topic.
            token: the token of its lease.
            end: what its readers are told.
            seconds: for how long it is kept; None for `Runs.keep`.
            lapsed: only if its lease has lapsed.
            patience: seconds to wait while the log is away; None for those of the others.

        Raises:
            FencedError: its lease is another one.
        """
        call = partial(
            self._log.end,
            topic,
            token,
            LogEntry(wrap_end(end)),
            keep=self._options.replay,
            token=f"end {token}",
            seconds=self._options.keep if seconds is None else seconds,
            lapsed=lapsed,
        )
        return await insist(call, self._patience if patience is None else patience)

    async def read_end(self, topic: str) -> tuple[Position, RunEnd]:
        """Return the place of the last record of a run that has ended, and what it says."""
        head = (await self._insist(partial(self._log.heads, [topic])))[topic]
        epoch = head.epochs[-1][0]
        place = epoch, head.number - 1
        _, _, records = await self._insist(partial(self._log.read, topic, place, 1))
        if records and is_end(records[-1].data):
            last = records[-1]
            return (last.epoch, last.number), unwrap_end(last.data)
        end = RunEnd(CloseReason.ERROR, no_longer_kept(), "run: it is no longer kept")
        return (epoch, head.number + 1), end

    async def read_events(self, topic: str) -> list[Event]:
        """Return all events of a run that are kept; wait for the log as long as it takes."""
        head = (await insist(partial(self._log.heads, [topic])))[topic]
        place = head.epochs[0][0], head.epochs[0][1] - 1
        events: list[Event] = []
        while True:
            _, _, records = await insist(partial(self._log.read, topic, place, PAGE_ITEMS))
            for record in records:
                place = record.epoch, record.number
                try:
                    events.append(unwrap(record.data, event_id(*place)))
                except UnknownEnvelopeError as error:
                    logger.error("an event of a run can't be read, and is left out: %s", error)
            if not records:
                return events

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        return await insist(call, self._patience)
