"""The writer: it takes all appends that wait, of all topics, into one transaction.

A commit waits for the disk, and a thousand commits wait a thousand times. So what comes while one
transaction is under way goes into the next one: batches come from load, never from a timer. Topics
are locked in the order of their names, so that transactions never wait for each other in a circle.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import trio

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
from flowstream.logs.postgres._pq_connection import Row

# Appends in one transaction.
_BATCH_APPENDS = 1024


class AppendJob:
    """One append that waits.

    Attributes:
        size: its bytes.
        taken: whether it is in a transaction.
        row: what the server returned.
        error: why it failed.
        done: set when there is a row or an error.
    """

    __slots__ = (
        "done",
        "entries",
        "error",
        "fence",
        "keep",
        "name",
        "row",
        "size",
        "taken",
        "token",
        "topic",
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
        self.taken = False
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
        self._waiting.append(job)
        self._news.set()
        try:
            with trio.move_on_after(self._patience):
                await job.done.wait()
        finally:
            if not job.done.is_set() and not job.taken:
                self._waiting.remove(job)
        if job.error is not None:
            raise copied_error(job.error)
        if job.row is None:
            failure = self._link.failure or self._link.unavailable("it is slow")
            raise LogUnavailableError(*failure.args, maybe=job.taken)
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
                await self._commit(batch)
        finally:
            for job in (*batch, *self._waiting):
                if not job.done.is_set():
                    job.error = LogUnavailableError("the log was closed", maybe=job.taken)
                    job.done.set()
            self._waiting.clear()

    def _take(self) -> list[AppendJob]:
        batch: list[AppendJob] = []
        size = 0
        while self._waiting and len(batch) < _BATCH_APPENDS:
            size += self._waiting[0].size
            if batch and size > APPEND_BYTES:
                break
            job = self._waiting.popleft()
            job.taken = True
            batch.append(job)
        return sorted(batch, key=lambda job: job.name)

    async def _commit(self, batch: Sequence[AppendJob]) -> None:
        try:
            rows = await self._link.call(
                sql.APPEND,
                _parameters(self._lineage, batch),
                patience=self._patience,
                writes=True,
            )
        except LogUnavailableError as error:
            for job in batch:
                job.error = error
                job.done.set()
            return
        for job, row in zip(batch, rows, strict=True):
            job.row = row
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
