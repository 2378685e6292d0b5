"""What a process pretends: another clock, another boot, a later release, or a planted fault."""

from __future__ import annotations

import ctypes
import json
import random
import signal
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from flowstream import Replay
from flowstream._clock import clock
from flowstream.abc import Appended, Head, Hint, Log, LogEntry, Position, Record, Stale
from flowstream.logs import _log_clock
from flowstream.topics import _envelope

from .plan import Role

_PR_SET_PDEATHSIG = 1


def put_on(role: Role) -> None:
    """Have this process be what its role says. Call it before a log is made."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # it ends with the driver
    file = Path(role.clock)
    began = json.loads(file.read_text())
    since_boot = clock.since_boot

    def wall_time() -> float:
        return time.time() + float(json.loads(file.read_text())["wall"])

    clock.wall_time = wall_time
    clock.since_boot = lambda: since_boot() - float(began["booted"])
    _log_clock.boot_id = lambda: str(began["boot"])
    if role.release > 1:
        _write_a_later_envelope(role.release)


def _write_a_later_envelope(version: int) -> None:
    """Write envelopes with one more field, as a later release may; read both."""
    write, read, fields = _envelope._write, _envelope._read, _envelope._FIELDS

    def write_more(envelope: Sequence[Any]) -> bytes:
        return write((*envelope, "new in this release"))

    def read_more(data: bytes) -> Any:
        found = read(data)
        assert len(found) == fields + (found[0] > 1), found
        return found

    _envelope.VERSION = version
    _envelope._write = write_more
    _envelope._read = read_more


class PlantedLog(Log):
    """A log with a fault, which the ledger must find.

    Args:
        log: a good one.
        fault: ``"acknowledge what was not appended"`` or ``"another body"``.
    """

    def __init__(self, log: Log, fault: str) -> None:
        self._log = log
        self._fault = fault
        self._calls = 0
        self._last = b""

    async def run(self, hint: Hint, stale: Stale, *, task_status: Any) -> None:
        def planted(topic: str, before: int, records: Sequence[Record]) -> None:
            hint(topic, before, self._change(records))

        await self._log.run(planted, stale, task_status=task_status)

    async def append(
        self, topic: str, entries: Sequence[LogEntry], *, keep: Replay, token: str
    ) -> list[Appended]:
        self._calls += 1
        if self._fault == "acknowledge what was not appended" and self._calls % 50 == 0:
            head = (await self._log.heads([topic]))[topic]
            epoch = head.epochs[-1][0]
            return [
                Appended(epoch, head.number + place, False)
                for place, _ in enumerate(entries, start=1)
            ]
        return await self._log.append(topic, entries, keep=keep, token=token)

    async def read(
        self, topic: str, after: Position, limit: int, *, mine: bool = False
    ) -> tuple[Head, bool, list[Record]]:
        head, known, records = await self._log.read(topic, after, limit, mine=mine)
        return head, known, self._change(records)

    def _change(self, records: Sequence[Record]) -> list[Record]:
        """Give some events the body of another one."""
        if self._fault != "another body":
            return list(records)
        changed = []
        for record in records:
            if record.number % 100 == 7 and self._last:
                record = record._replace(data=self._last)
            self._last = record.data
            changed.append(record)
        return changed

    async def heads(self, topics: Iterable[str]) -> dict[str, Head]:
        return await self._log.heads(topics)

    async def watch(self, topics: Iterable[str]) -> None:
        await self._log.watch(topics)

    async def unwatch(self, topics: Iterable[str]) -> None:
        await self._log.unwatch(topics)

    async def latest(self, topic: str, cursor: str | None = None) -> Any:
        return await self._log.latest(topic, cursor)

    async def topics(
        self, prefix: str = "", cursor: str | None = None
    ) -> tuple[list[str], str | None]:
        return await self._log.topics(prefix, cursor)

    async def trim(self, topic: str, keep: Replay | None = None) -> int:
        return await self._log.trim(topic, keep)

    async def delete(self, topic: str) -> None:
        await self._log.delete(topic)

    async def aclose(self) -> None:
        await self._log.aclose()


def planted_in_stream(fault: str, app: Any) -> Any:
    """Return an app whose streams have a fault: "swallow" an event, or send it "twice"."""
    dice = random.Random(13)

    async def planted(scope: Any, receive: Any, send: Any) -> None:
        async def send_planted(message: Any) -> None:
            body = message.get("body", b"")
            if b"id: " in body[:64] and dice.random() < 0.01:
                message = {**message, "body": b"" if fault == "swallow" else body * 2}
            await send(message)

        await app(scope, receive, send_planted if scope["type"] == "http" else send)

    return planted


PLANTED = ("acknowledge what was not appended", "another body", "swallow", "twice")
"""All planted faults. The first is in publisher 0's log, the others in worker 1."""
