"""The writer: appends that wait at the same moment travel together, in one call of a script.

::

    append ──► waiting ──► one EVALSHA ──► the server
    append ◄── each job's own reply ◄──────┘

What an append takes is mostly not the event: a call has to be packed, sent, begun by the server and
answered. So what comes while a call is under way goes into the next one: batches come from load,
never from a timer. An append that finds nothing under way is sent at once, by its own task.

A job has its own result, token, fence and error; one that fails takes no other with it. A task that
is cancelled leaves at once: its job is withdrawn, or its reply is thrown away. Tasks have no
deadline each: all have the same patience, so the oldest is over it first, and one task looks.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import outcome
import trio

from flowstream._clock import clock
from flowstream._errors import LogUnavailableError, copied_error
from flowstream.logs.valkey._conversation import PendingCall, Word
from flowstream.logs.valkey._script_caller import PAUSE, Failure, ScriptCaller
from flowstream.logs.valkey._server_error import Meaning, ServerError
from flowstream.logs.valkey._valkey_connection import ValkeyConnection

# Entries, and bytes of them, in one call; one job at the least. Others wait for the server
# meanwhile.
_BATCH_ENTRIES = 1024
_BATCH_BYTES = 1 << 20
# Calls under way at once: while one's replies are read, the server does the other.
_CALLS = 2
# Appends that are worth a call of their own, when others could be done meanwhile.
_SHARE = 16


class WaitingAppend:
    """One append that waits.

    Args:
        words: for the script.
        entries: how many entries it has.
        size: bytes of them.

    Attributes:
        task: what waits for it; None if it has left.
        due: when it is over the patience.
        asked: whether it is in a call that is under way.
        maybe: whether an earlier call may have done it.
        reason: why the last call failed.
    """

    __slots__ = ("asked", "due", "entries", "maybe", "reason", "size", "task", "words")

    def __init__(self, words: list[Word], entries: int, size: int) -> None:
        self.words = words
        self.entries = entries
        self.size = size
        self.task: trio.lowlevel.Task | None = None
        self.due = 0.0
        self.asked = self.maybe = False
        self.reason = "the server does not answer"


class ValkeyWriter:
    """Appends. Its owner runs `run`.

    Args:
        caller: has the connection to write over.
    """

    def __init__(self, caller: ScriptCaller) -> None:
        self._caller = caller
        self._pending: dict[WaitingAppend, None] = {}  # all that have no answer, oldest first
        self._waiting: dict[
            WaitingAppend, None
        ] = {}  # those that are in no call, the next one first
        self._calls = 0  # under way
        self._rung = False  # whether `_send_all` has been told, and is about to send
        self._bell = trio.Event()
        self._first = trio.Event()  # set when there is something to look after
        self._pause = False
        self._closed = False

    async def append(self, job: WaitingAppend) -> bytes:
        """Append, and **wait** for what the script returns.

        Raises:
            LogUnavailableError: the patience is over, the server refuses, or the log was closed.
            LogFullError: the server has no room.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._closed:
            raise _closed(maybe=False)
        job.task = trio.lowlevel.current_task()
        job.due = clock.current_time() + self._caller.patience
        if not self._pending:
            self._first.set()
        self._pending[job] = self._waiting[job] = None
        try:
            self._send_or_ring()
        except BaseException:
            self._forget(job)
            raise

        def leave(_: object) -> trio.lowlevel.Abort:
            self._forget(job)
            return trio.lowlevel.Abort.SUCCEEDED

        places: bytes = await trio.lowlevel.wait_task_rescheduled(leave)
        return places

    async def run(self) -> None:  # noqa: ASYNC114  # `OpenValkey.run` starts it
        """Send what waits, until this is cancelled; what has no answer then fails."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_all)
                nursery.start_soon(self._look_after)
        finally:
            self._closed = True
            for job in list(self._pending):
                self._give(job, outcome.Error(_closed(maybe=job.maybe or job.asked)))

    async def _send_all(self) -> None:
        while True:
            await self._bell.wait()
            self._bell = trio.Event()
            # Those whose appends were answered just now may append again: have them all in.
            await trio.lowlevel.checkpoint()
            while self._waiting and self._calls < _CALLS:
                if self._pause:
                    self._pause = False
                    await trio.sleep(PAUSE)
                connection = await self._caller.client.connection()
                if connection.full:
                    await connection.wait_for_room()
                self._send(connection)
            self._rung = self._pause = False

    async def _look_after(self) -> None:
        """Give up jobs that are over the patience."""
        while True:
            while not self._pending:
                self._first = trio.Event()
                await self._first.wait()
            await trio.sleep_until(next(iter(self._pending)).due)
            now = clock.current_time()
            while self._pending and (job := next(iter(self._pending))).due <= now:
                error = self._caller.unanswered(job.reason, maybe=job.maybe or job.asked)
                self._give(job, outcome.Error(error))

    def _send_or_ring(self) -> None:
        if self._rung or self._calls >= _CALLS:
            return
        if not self._calls:
            connection = self._caller.client.at_hand
            if connection is not None and not connection.full and not self._pause:
                self._send(connection)
                return
        self._ring()

    def _ring(self) -> None:
        self._rung = True
        self._bell.set()

    def _send(self, connection: ValkeyConnection) -> None:
        """Send what waits, as much of it as goes into a call."""
        batch = self._take()
        if not batch:
            return
        words = [word for job in batch for word in job.words]
        commands = self._caller.commands("append", words, writes=True)
        self._calls += 1
        try:
            connection.post(commands, partial(self._receive, batch, connection))
        except LogUnavailableError as error:
            self._calls -= 1
            self._fail(batch, error, connection)

    def _take(self) -> list[WaitingAppend]:
        share = max(_SHARE, -(-len(self._waiting) // (_CALLS - self._calls)))
        batch: list[WaitingAppend] = []
        entries = size = 0
        for job in self._waiting:
            entries += job.entries
            size += job.size
            if batch and (entries > _BATCH_ENTRIES or size > _BATCH_BYTES or len(batch) == share):
                break
            job.asked = True
            batch.append(job)
        for job in batch:
            del self._waiting[job]
        return batch

    def _receive(
        self, batch: list[WaitingAppend], connection: ValkeyConnection, call: PendingCall
    ) -> None:
        """Give each job of a batch its reply."""
        self._calls -= 1
        try:
            results = connection.results_of(call)
            replies = connection.confirmed(results, self._caller.replicas)
            if not isinstance(replies, list) or len(replies) != len(batch):
                connection.give_up("it does not answer what it was asked")
                raise LogUnavailableError(connection.lost or "", maybe=True)
        except (ServerError, LogUnavailableError) as error:
            self._fail(batch, error, connection)
        else:
            for job, reply in zip(batch, replies, strict=True):
                if isinstance(reply, ServerError):
                    self._fail([job], reply, connection)
                elif job.task is not None:
                    self._give(job, outcome.Value(reply))
        if (self._waiting or len(batch) > 1) and not self._rung:
            self._ring()

    def _fail(
        self,
        jobs: Iterable[WaitingAppend],
        error: ServerError | LogUnavailableError,
        connection: ValkeyConnection,
    ) -> None:
        """Have jobs of a failed call wait for another, or tell their tasks."""
        failure = Failure.of(error, connection.where)
        if isinstance(error, ServerError) and error.meaning is Meaning.ELSEWHERE:
            connection.give_up(error.sentence)
        again: dict[WaitingAppend, None] = {}
        for job in jobs:
            job.asked = False
            job.maybe = job.maybe or failure.error.maybe
            job.reason = str(failure.error)
            if job.task is None:
                continue
            if failure.final:
                self._give(job, outcome.Error(copied_error(failure.error)))
            else:
                again[job] = None
        if again and not self._closed:
            self._pause = self._pause or failure.pause
            self._waiting = again | self._waiting
            if not self._rung:
                self._ring()

    def _give(self, job: WaitingAppend, result: outcome.Outcome[bytes]) -> None:
        task = job.task
        self._forget(job)
        if task is not None:
            trio.lowlevel.reschedule(task, result)

    def _forget(self, job: WaitingAppend) -> None:
        job.task = None
        self._pending.pop(job, None)
        self._waiting.pop(job, None)


def _closed(*, maybe: bool) -> LogUnavailableError:
    return LogUnavailableError("the log was closed", maybe=maybe)
