"""A sender: it appends the events of one topic to the log, one append after the other.

What is published while an append is on its way waits, and is the next append, all of it together.
So the order is that of the calls, a retry overtakes nothing, and batches come from load and never
from a timer. A lone event is sent at once.

A caller waits for `patience` seconds at the most. Then its events are withdrawn if they were not
sent; else they may appear. An append of which no answer came is repeated, with the same token, so
it happens once. It is given up when nobody waits for it any more.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial

import trio

from flowstream._clock import chance, clock
from flowstream._errors import FencedError, LogFullError, LogUnavailableError, copied_error
from flowstream.abc import Appended, Log, LogEntry
from flowstream.limits import Replay
from flowstream.tasks._retry import Backoff, Retry
from flowstream.tasks._timers import Timer, start_timer
from flowstream.topics._log_statistics import LogCounts

logger = logging.getLogger("flowstream")

# What may wait for a topic's next append; then publishers wait for room.
_QUEUE_ITEMS = 1024
_QUEUE_BYTES = 1 << 20

PATIENCE = 5.0
"""Seconds that `publish` waits for a log that is away."""

_RETRY = Retry(first=0.05, longest=1.0)

Lost = Callable[[Exception], None]
"""Hears of the failure of events for which nobody waits."""


class Sending:
    """The events of one call, on their way into the log.

    Attributes:
        entries: the events.
        size: their bytes.
        deadline: when the call stops waiting.
        sent: whether an append of them has begun.
        over: whether nobody waits for them any more.
    """

    __slots__ = ("_done", "deadline", "entries", "error", "lost", "over", "results", "sent", "size")

    def __init__(self, entries: Sequence[LogEntry], deadline: float, lost: Lost | None) -> None:
        self.entries = entries
        self.size = sum(len(entry.data) for entry in entries)
        self.deadline = deadline
        self.lost = lost
        self.sent = False
        self.over = False
        self.results: list[Appended] = []
        self.error: Exception | None = None
        self._done = trio.Event()

    async def wait(self) -> list[Appended]:
        """**Wait** until they are committed; return where they are.

        Raises:
            LogUnavailableError: that took too long, or failed.
        """
        try:
            await self._done.wait()
        finally:
            self.over = True
        if self.error is not None:
            raise self.error
        return self.results

    def give_up(self) -> None:
        """Let the caller go on, which has waited long enough."""
        self.over = True
        self.error = self.late()
        self._done.set()

    def late(self) -> LogUnavailableError:
        """Return the error for who has waited long enough."""
        said = "it may have been appended" if self.sent else "it was not appended"
        return LogUnavailableError(
            f"the log has not answered within the patience of its publishers; {said}",
            maybe=self.sent,
        )

    def succeed(self, results: list[Appended]) -> None:
        """Note that they are in the log."""
        self.results = results
        self._done.set()

    def fail(self, error: Exception) -> None:
        """Note that they won't be."""
        self.error = error
        self._done.set()
        if self.lost is not None:
            try:
                self.lost(error)
            except Exception:
                logger.exception("a function that hears of lost events failed")


class Sender:
    """The events of one topic on their way into the log.

    Args:
        topic: its name in the log.
        log: the log.
        keep: how much the topic keeps.
        start: starts a task that outlives the caller.
        committed: called with the events of an append, and where they are, before their callers
            go on; None if nobody else has to know.
        patience: seconds that a call waits.
        counts: counts what happens; by default its own.
        fence: the token of the topic's lease, if it is a run's.

    Attributes:
        counts: the same.
    """

    def __init__(
        self,
        topic: str,
        log: Log,
        keep: Replay,
        start: Callable[[Callable[[], Awaitable[object]]], None],
        committed: Callable[[Sequence[LogEntry], Sequence[Appended]], None] | None = None,
        patience: float = PATIENCE,
        counts: LogCounts | None = None,
        fence: int | None = None,
    ) -> None:
        self._append_all = partial(log.append, topic, keep=keep)
        if fence is not None:  # a log without leases need not know the argument
            self._append_all = partial(self._append_all, fence=fence)
        self._start = start
        self._committed = committed
        self._patience = patience
        self._waiting: deque[Sending] = deque()
        self._refused: deque[Sending] = deque()  # in a batch; each is tried alone
        self._items = 0
        self._size = 0
        self._room = trio.lowlevel.ParkingLot()
        self._working = False
        self._sent: list[Sending] = []  # those of the append that is on its way
        self._timer: Timer | None = None
        self.counts = counts or LogCounts()

    @property
    def retries(self) -> int:
        """Appends that were repeated so far."""
        return self.counts["retries"]

    @property
    def lost(self) -> int:
        """Events so far for which nobody waited, and which are not in the log."""
        return self.counts["lost"]

    @property
    def queued(self) -> int:
        """Events that wait for the next append."""
        return self._items

    async def send(self, entries: Sequence[LogEntry]) -> list[Appended]:
        """Append these together; **wait** until they are committed, and return where they are.

        Raises:
            LogUnavailableError: they are not in the log, or may be: see its ``maybe``.
            RuntimeError: the log is closed.
        """
        deadline = clock.current_time() + self._patience
        sending = Sending(entries, deadline, None)
        if not self._has_room(sending):
            with trio.move_on_at(deadline):
                while not self._has_room(sending):
                    await self._room.park()
            if not self._has_room(sending):
                raise sending.late()
        self._add(sending)
        try:
            return await sending.wait()
        except LogUnavailableError as error:
            if error.maybe:
                self.counts.add(unsure=len(entries))
            raise
        finally:
            if not sending.sent:
                self._withdraw(sending)

    def send_soon(self, entry: LogEntry, lost: Lost) -> None:
        """Append this one some time; `lost` hears if that fails.

        Raises:
            trio.WouldBlock: too many wait.
            RuntimeError: the log is closed.
        """
        sending = Sending([entry], clock.current_time() + self._patience, lost)
        if not self._has_room(sending):
            raise trio.WouldBlock
        self._add(sending)

    # -- the queue -------------------------------------------------------------------------

    def _has_room(self, sending: Sending) -> bool:
        return not self._items or (
            self._items + len(sending.entries) <= _QUEUE_ITEMS
            and self._size + sending.size <= _QUEUE_BYTES
        )

    def _add(self, sending: Sending) -> None:
        if not self._working:
            self._start(self._work)
            self._working = True
        if self._timer is None:
            self._timer = start_timer(sending.deadline, self._look)
        self._waiting.append(sending)
        self._items += len(sending.entries)
        self._size += sending.size

    def _look(self, now: float) -> float:
        """Let callers go on whose patience has ended; return when the next one's does.

        A timer for each topic costs less than a cancel scope for each event.
        """
        until = math.inf
        for sending in (*self._sent, *self._refused, *self._waiting):
            if sending.lost is None and not sending.over:
                if sending.deadline <= now:
                    sending.give_up()
                else:
                    until = min(until, sending.deadline)
        if until == math.inf:
            self._timer = None
        return until

    def _withdraw(self, sending: Sending) -> None:
        with suppress(ValueError):  # it was taken
            self._waiting.remove(sending)
            self._count_out(sending)

    def _count_out(self, sending: Sending) -> None:
        self._items -= len(sending.entries)
        self._size -= sending.size
        self._room.unpark_all()

    def _take(self) -> list[Sending]:
        batch = list(self._waiting)
        self._waiting.clear()
        for sending in batch:
            self._count_out(sending)
        return [sending for sending in batch if not sending.over]

    # -- the appends -----------------------------------------------------------------------

    async def _work(self) -> None:
        try:
            while self._refused or self._waiting:
                if batch := self._next():
                    self._sent = batch
                    await self._append(batch)
                    self._sent = []
        finally:
            self._working = False
            self._sent = []
            if self._timer is not None:
                self._timer.stop()
                self._timer = None
            for sending in [*self._refused, *self._take()]:
                self._lose(sending, self._closed(maybe=False))
            self._refused.clear()

    def _next(self) -> list[Sending]:
        if self._refused:
            sending = self._refused.popleft()
            return [] if sending.over else [sending]
        return self._take()

    async def _append(self, batch: list[Sending]) -> None:
        """Append a batch; if it is refused as a whole, have each call's events tried alone."""
        try:
            results = await self._try(batch)
        except trio.Cancelled:
            for sending in batch:
                self._lose(sending, self._closed(maybe=sending.sent))
            raise
        except Exception as error:  # noqa: BLE001  # whatever a log raises, the callers get
            if len(batch) > 1 and _is_refusal(error):
                for sending in batch:
                    sending.sent = False
                self._refused += batch
            else:
                self.counts.add(refused=1)
                for sending in batch:
                    self._lose(sending, copied_error(error))
            return
        entries = [entry for sending in batch for entry in sending.entries]
        if entries:
            duplicates = sum(one.duplicate for one in results)
            self.counts.add(appends=1, appended=len(results) - duplicates, duplicates=duplicates)
            if self._committed is not None:
                self._committed(entries, results)
        place = 0
        for sending in batch:
            end = place + len(sending.entries)
            sending.succeed(results[place:end])
            place = end

    async def _try(self, batch: list[Sending]) -> list[Appended]:
        """Append a batch, again and again while the log is away and somebody waits.

        As long as no try may have succeeded, those whose callers have left are left out of the
        next. After that it is always the same append, with the same token.
        """
        backoff = Backoff(_RETRY)
        token = chance.token_hex(12)
        maybe = False
        while True:
            if not maybe:
                batch[:] = [sending for sending in batch if not sending.over]
                if not batch:
                    return []
            for sending in batch:
                sending.sent = True
            entries = [entry for sending in batch for entry in sending.entries]
            try:
                return await self._append_all(entries, token=token)
            except Exception as error:
                if isinstance(error, FencedError) or (not maybe and _is_refusal(error)):
                    raise
                if not isinstance(error, LogUnavailableError):
                    # An earlier try may have succeeded, so this one proves nothing.
                    raise LogUnavailableError(*error.args, maybe=True) from error
                maybe = maybe or error.maybe
                for sending in batch:
                    sending.sent = maybe
                until = max((one.deadline for one in batch if not one.over), default=-math.inf)
                wait = backoff.fail(0.0)
                if clock.current_time() + wait >= until:
                    raise LogUnavailableError(*error.args, maybe=maybe) from error
                self.counts.add(retries=1)
                await trio.sleep(wait)

    def _lose(self, sending: Sending, error: Exception) -> None:
        if sending.lost is not None:
            self.counts.add(lost=len(sending.entries))
        sending.fail(error)

    def _closed(self, *, maybe: bool) -> LogUnavailableError:
        return LogUnavailableError("the log was closed while events were on their way", maybe=maybe)


def _is_refusal(error: Exception) -> bool:
    """Return whether a log that could be reached took none of a batch."""
    return isinstance(error, LogFullError) or not isinstance(error, LogUnavailableError)
