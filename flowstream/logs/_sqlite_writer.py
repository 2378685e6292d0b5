"""The one thread of a process that writes to the log's file.

It takes all jobs that wait into one transaction, so a commit's flush is shared by everybody who
waited for the one before: batches come from load, and a lone job is committed at once. A job is a
function of the transaction. If a batch fails for want of room, each of its jobs is tried alone,
since a small one may fit.

Jobs come through a queue without a lock of Python's: tasks that publish at the same time would wait
for it, and for each other.

A task that is cancelled leaves at once. Its job is withdrawn if the thread has not taken it yet;
else it is committed like the others, and its result is dropped.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import outcome
import trio

from flowstream._clock import chance, clock
from flowstream._errors import FencedError, LogFullError, LogUnavailableError, copied_error
from flowstream.logs._bells import Bells
from flowstream.logs._sqlite_faults import fault, is_busy, locked
from flowstream.logs._sqlite_file import SQLiteFile
from flowstream.logs._sqlite_retention import is_due, sweep
from flowstream.logs._sqlite_transaction import KnownTokenError, Transaction

logger = logging.getLogger("flowstream")

T = TypeVar("T")

# Jobs, and bytes of what they append, that go into one transaction; one job at the least.
_BATCH_JOBS = 256
_BATCH_BYTES = 4 << 20
# Seconds between two looks for what is to be deleted.
_SWEEP_SECONDS = 5.0
# Seconds between two tries to get the lock, at the most. They begin with a hundredth of it.
_LOCK_SECONDS = 0.005


class WriteJob:
    """One thing to do in a transaction, for a task that waits."""

    __slots__ = ("size", "task", "work")

    def __init__(self, work: Callable[[Transaction], Any], size: int) -> None:
        self.work = work
        self.size = size
        self.task: trio.lowlevel.Task | None = None


class SQLiteWriter:
    """The writer thread, and its queue.

    Args:
        file: the log's file.
        bells: rung after each commit.
        patience: seconds to wait for the lock.
    """

    def __init__(self, file: SQLiteFile, bells: Bells, patience: float) -> None:
        self._file = file
        self._bells = bells
        self._patience = patience
        self._token = trio.lowlevel.current_trio_token()
        self._waiting: deque[WriteJob] = deque()
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._rung = False  # since the thread last looked at `_waiting`
        self._stopped = False
        self._ending = threading.Event()  # the same, for who waits for the lock
        self._db: sqlite3.Connection | None = None
        self._identity = (0, 0)
        self.seen = 0  # the highest `pos` that this process knows of; the tail counts, too
        self.followed = False  # whether this process's own tail wants to hear of commits

    async def submit(self, work: Callable[[Transaction], T], size: int = 0) -> T:
        """Have the thread do `work`, and **wait** until it is committed.

        Raises:
            LogUnavailableError: it was not committed; or it may have been, see its ``maybe``.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        job = WriteJob(work, size)
        job.task = trio.lowlevel.current_task()
        if self._stopped:
            raise self._ended()
        self._waiting.append(job)
        self._ring()

        def leave(_: object) -> trio.lowlevel.Abort:
            job.task = None
            with suppress(ValueError):  # the thread has taken it
                self._waiting.remove(job)
            return trio.lowlevel.Abort.SUCCEEDED

        result: T = await trio.lowlevel.wait_task_rescheduled(leave)
        return result

    def stop(self) -> None:
        """Have the thread end behind the batch that it is at; jobs that wait fail."""
        self._stopped = True
        self._ending.set()
        self._bell.put(None)
        while self._waiting:
            with suppress(IndexError):  # the thread has taken the last one
                job = self._waiting.popleft()
                self._give([(job, outcome.Error(self._ended()))])

    def _ring(self) -> None:
        if not self._rung:
            self._rung = True
            self._bell.put(None)

    def work(self) -> None:
        """Do all jobs, until `stop`. It is called in the thread."""
        swept = clock.monotonic()
        try:
            while (batch := self._take()) is not None:
                if batch:
                    results = self._do(batch)
                    self._token.run_sync_soon(self._give, results)
                if clock.monotonic() - swept >= _SWEEP_SECONDS:
                    self._sweep()
                    swept = clock.monotonic()
        finally:
            self._disconnect()

    def _take(self) -> list[WriteJob] | None:
        """Wait for jobs, and take a batch of them; None behind `stop`."""
        if not self._waiting and not self._stopped:
            with suppress(queue.Empty):
                self._bell.get(timeout=_SWEEP_SECONDS)
        self._rung = False  # what comes from here on may be too late for this batch
        if self._stopped:
            return None
        batch: list[WriteJob] = []
        room = _BATCH_BYTES
        # A task may withdraw its job, and `stop` all of them, at any moment.
        with suppress(IndexError):
            while len(batch) < _BATCH_JOBS:
                room -= self._waiting[0].size
                if batch and room < 0:
                    break
                batch.append(self._waiting.popleft())
        return batch

    def _do(self, batch: list[WriteJob]) -> list[tuple[WriteJob, outcome.Outcome[Any]]]:
        try:
            return self._commit(batch)
        except Exception as error:  # noqa: BLE001  # it goes to the task whose job it is
            alone = isinstance(error, LogFullError) or not isinstance(error, LogUnavailableError)
            if alone and len(batch) > 1:
                return [result for job in batch for result in self._do([job])]
            return [(job, outcome.Error(copied_error(error))) for job in batch]

    def _commit(
        self, batch: list[WriteJob], *, careful: bool = False
    ) -> list[tuple[WriteJob, outcome.Outcome[Any]]]:
        """Do the jobs in one transaction, or none of them.

        Raises:
            LogUnavailableError: none is done, or perhaps all.
        """
        committing = False
        try:
            tx = self._begin(careful)
            results = [(job, _result(job, tx)) for job in batch]
            tx.finish()
            committing = True
            tx.db.execute("commit")
        except KnownTokenError:
            self._connected().execute("rollback")
            return self._commit(batch, careful=True)
        except sqlite3.Error as error:
            self._disconnect()  # rolls back, and whatever is wrong with it goes with it
            raise fault(self._file.path, error, committing=committing) from error
        except BaseException:
            self._disconnect()
            raise
        self.seen = max(self.seen, tx.pos)
        self._bells.ring(own=self.followed)
        return results

    def _begin(self, careful: bool) -> Transaction:
        file = self._file
        while True:
            db = self._connected()
            self._lock(db)
            tx = Transaction(db, file.clock, self.seen, careful=careful)
            unsynced = file.clock.boot if file.synchronous == "NORMAL" else ""
            if tx.unsynced == unsynced:
                return tx
            tx.mark(unsynced)
            if not unsynced:
                return tx  # its commit flushes all that came before
            # The mark must be on the disk before anything that may be lost.
            db.execute("rollback")
            db.execute("pragma synchronous=full")
            self._lock(db)
            tx = Transaction(db, file.clock, self.seen)
            tx.mark(unsynced)
            tx.finish()
            db.execute("commit")
            db.execute(f"pragma synchronous={file.synchronous}")

    def _lock(self, db: sqlite3.Connection) -> None:
        """Begin a transaction that may write; wait while another connection does.

        SQLite's own wait grows to 100 ms a step, which is dear where processes publish in turns.
        """
        until = clock.monotonic() + self._patience
        step = _LOCK_SECONDS / 100
        while True:
            try:
                db.execute("begin immediate")
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
                if clock.monotonic() >= until:
                    raise locked(self._file.path, self._patience) from error
                if self._ending.is_set():
                    raise self._ended() from error
            else:
                return
            self._ending.wait(chance.uniform(step / 2, step))
            step = min(_LOCK_SECONDS, step * 1.5)

    def _connected(self) -> sqlite3.Connection:
        identity = self._file.identity()
        if self._db is not None and identity != self._identity:
            self._disconnect()
        if self._db is None:
            self._db = self._file.connect(self._patience)
            self._db.execute("pragma busy_timeout=0")  # `_lock` waits by itself
            self._identity = identity
        return self._db

    def _disconnect(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            try:
                db.close()
            except sqlite3.Error:
                logger.warning("%s was not closed as it should be", self._file.path)

    def _sweep(self) -> None:
        try:
            db = self._connected()
            (anchor,) = db.execute("select anchor from log").fetchone()
            if is_due(db, anchor + self._file.clock.since_boot()):
                self._commit([WriteJob(sweep, 0)])
        except (LogUnavailableError, sqlite3.Error) as error:
            self._disconnect()
            logger.info("%s could not be swept, and will be: %s", self._file.path, error)

    def _give(self, results: list[tuple[WriteJob, outcome.Outcome[Any]]]) -> None:
        """Wake the tasks whose jobs are done. It is called in the event loop."""
        for job, result in results:
            task, job.task = job.task, None
            if task is not None:
                trio.lowlevel.reschedule(task, result)

    def _ended(self) -> LogUnavailableError:
        return LogUnavailableError(f"{self._file.path} was closed before this was appended")


def _result(job: WriteJob, tx: Transaction) -> outcome.Outcome[Any]:
    try:
        return outcome.Value(job.work(tx))
    except FencedError as error:  # it has changed nothing, so the others need not be done again
        return outcome.Error(error)
