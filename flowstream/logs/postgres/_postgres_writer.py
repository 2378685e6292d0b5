"""The writer: it takes all appends that wait, of all topics, into one transaction.

A commit waits for the disk, and a thousand commits wait a thousand times. So what comes while one
transaction is under way goes into the next one: batches come from load, never from a timer. Topics
are locked in the order of their names, so that transactions never wait for each other in a circle.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence

import trio

from flowstream._clock import clock
from flowstream._errors import LogUnavailableError, copied_error
from flowstream.abc import Appended, LogEntry
from flowstream.limits import Replay
from flowstream.logs._append_arguments import APPEND_BYTES
from flowstream.logs._append_results import results_from_text
from flowstream.logs._lease_rules import fenced
from flowstream.logs.postgres import _binary_values as binary
from flowstream.logs.postgres import _statements as sql
from flowstream.logs.postgres._lineage import Lineage
from flowstream.logs.postgres._postgres_link import PostgresLink
from flowstream.logs.postgres._pq_connection import PostgresCall, Row

# Appends in one transaction.
_BATCH_APPENDS = 1024


class AppendJob:
    """One append that waits.

    Attributes:
        size: its bytes.
        call: the transaction that has it; None as long as it waits for one.
        waiting: ends when its time is up.
        row: what the server returned.
        error: why it failed.
        done: set when there is a row or an error.
    """

    __slots__ = (
        "call",
        "done",
        "entries",
        "error",
        "fence",
        "keep",
        "name",
        "row",
        "size",
        "token",
        "topic",
        "waiting",
    )

    def __init__(
        self,
        topic: str,
        entries: Sequence[LogEntry],
        keep: Replay,
        token: str,
        fence: int | None,
        size: int,
    ) -> None:
        self.topic = topic
        self.name = topic.encode()
        self.entries = entries
        self.keep = keep
        self.token = token
        self.fence = fence
        self.size = size
        self.call: PostgresCall | None = None
        self.waiting = trio.CancelScope()
        self.row: Row | None = None
        self.error: Exception | None = None
        self.done = trio.Event()


class PostgresWriter:
    """Appends. Its owner runs `work`.

    Args:
        link: the connection to write over.
        lineage: what is known of the server.
        patience: seconds that an append waits.
        committed: called with each append that was committed, and its row.
    """

    def __init__(
        self,
        link: PostgresLink,
        lineage: Lineage,
        patience: float,
        committed: Callable[[AppendJob, Row], None],
    ) -> None:
        self._link = link
        self._lineage = lineage
        self._patience = patience
        self._committed = committed
        self._waiting: deque[AppendJob] = deque()
        self._news = trio.Event()

    async def append(self, job: AppendJob) -> list[Appended]:
        """Append, and **wait** until it is committed.

        Raises:
            FencedError: the topic has another lease.
            LogUnavailableError: it was not committed in time, or nobody knows.
            LogFullError: the server has no room.
        """
        job.waiting.deadline = clock.current_time() + self._patience
        self._waiting.append(job)
        self._news.set()
        try:
            with job.waiting:
                await job.done.wait()
        finally:
            if not job.done.is_set() and job.call is None:
                self._waiting.remove(job)
        if job.error is not None:
            raise copied_error(job.error)
        if job.row is None:
            failure = None if job.call is None else job.call.failure
            failure = failure or self._link.failure or self._link.unavailable("it is slow")
            # The transaction goes on, for others whose time is not up.
            raise LogUnavailableError(*failure.args, maybe=job.call is not None)
        *_, results, is_fenced, _ = job.row
        if is_fenced:
            raise fenced(job.topic)
        return results_from_text(results)

    async def work(self) -> None:
        """Commit what waits, until this is cancelled."""
        batch: list[AppendJob] = []
        try:
            while True:
                while not self._waiting:
                    self._news = trio.Event()
                    await self._news.wait()
                await self._link.connection()
                batch = self._take()
                if batch:  # else the time of all that waited was up
                    await self._commit(batch)
        finally:
            for job in (*batch, *self._waiting):
                if not job.done.is_set():
                    sent = job.call is not None and job.call.sent
                    job.error = LogUnavailableError("the log was closed", maybe=sent)
                    job.done.set()
            self._waiting.clear()

    def _take(self) -> list[AppendJob]:
        batch: list[AppendJob] = []
        size = 0
        while self._waiting and len(batch) < _BATCH_APPENDS:
            size += self._waiting[0].size
            if batch and size > APPEND_BYTES:
                break
            batch.append(self._waiting.popleft())
        return sorted(batch, key=lambda job: job.name)

    async def _commit(self, batch: Sequence[AppendJob]) -> None:
        name = ""

        def parameters() -> list[bytes | None]:
            nonlocal name
            name = self._lineage.name
            return _parameters(self._lineage, batch)

        call = PostgresCall(sql.APPEND, parameters())
        until = max(job.waiting.deadline for job in batch)
        for job in batch:
            job.call = call
            if job.waiting.deadline == until:  # then its time is that of the transaction
                job.waiting.deadline = math.inf
        try:
            patience = until - clock.current_time()
            rows = await self._link.do(call, patience=patience, writes=True, anew=parameters)
        except LogUnavailableError as error:
            for job in batch:
                job.error = error
                job.done.set()
            return
        for job, row in zip(batch, rows, strict=True):
            job.row = row
            if name == self._lineage.name:  # else another server is used by now
                self._lineage.see(row[-1])
                self._committed(job, row)
            job.done.set()


def _parameters(lineage: Lineage, batch: Sequence[AppendJob]) -> list[bytes | None]:
    entries = [entry for job in batch for entry in job.entries]
    keyed = any(entry.key is not None for entry in entries)
    named = any(entry.idempotency_key is not None for entry in entries)
    return [
        binary.text(lineage.name),
        binary.int8(lineage.wal),
        binary.text_array([job.topic for job in batch]),
        binary.int4_array([len(job.entries) for job in batch]),
        binary.text_array([job.token for job in batch]),
        binary.int8_array([job.keep.items for job in batch]),
        binary.float8_array([job.keep.seconds for job in batch]),
        binary.int8_array([job.keep.bytes for job in batch]),
        binary.int8_array([job.fence for job in batch]),
        binary.bytea_array([entry.data for entry in entries]),
        binary.text_array([entry.key for entry in entries]) if keyed else None,
        binary.text_array([entry.idempotency_key for entry in entries]) if named else None,
        binary.float8_array([entry.idempotency_seconds for entry in entries]) if named else None,
    ]
