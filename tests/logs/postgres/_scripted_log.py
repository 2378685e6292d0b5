"""A Postgres that has a log, in this process: it keeps events, and fails as a test says.

It speaks for the functions of the schema as far as an app's topics need them. So a test can have it
refuse, hang and come back at a certain statement, on a clock that does not run by itself.
"""

from __future__ import annotations

import re
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import trio
from _scripted_postgres import Peer, RefuseError, Session, scripted_postgres

from flowstream.logs.postgres._schema import VERSION

_Row: TypeAlias = tuple[Any, ...]


class ScriptedLog:
    """What the server does. A function of the schema is named without the schema.

    Attributes:
        version: of its schema.
        read_only: whether it says so to who connects.
        faults: {function: errors that the next calls of it raise, before they do anything; None for
            a call that raises none}.
        after: {function: the same, after they did it: the answer is lost}.
        stalls_at: the function at which it stops to answer anything.
        stalls: whether it answers nothing.
        peer: where it is.
    """

    peer: Peer

    def __init__(self) -> None:
        self.version = VERSION
        self.read_only = False
        self.faults: dict[str, list[RefuseError | None]] = {}
        self.after: dict[str, list[Exception]] = {}
        self.stalls_at = ""
        self.stalls = False
        self._topics: dict[str, list[bytes]] = {}
        self._done: dict[str, _Row] = {}  # by token

    async def come_back(self) -> None:
        """Answer again, on new connections."""
        self.stalls_at, self.stalls = "", False
        await self.hang_up()

    async def hang_up(self) -> None:
        """Close all connections."""
        for session in self.peer.sessions:
            await session.stream.aclose()
        self.peer.sessions.clear()

    @property
    def asked(self) -> list[str]:
        """The functions that were called, in order."""
        return [_function(sql) for sql in self.peer.asked]

    async def answer(self, session: Session, sql: str, params: list[bytes | None]) -> list[_Row]:
        """Answer a statement."""
        function = _function(sql)
        self.stalls = self.stalls or function == self.stalls_at
        if self.stalls:
            await trio.sleep_forever()
        if self.faults.get(function) and (fault := self.faults[function].pop(0)) is not None:
            raise fault
        rows = list(getattr(self, f"_{function}")(params))
        if self.after.get(function):
            raise self.after[function].pop(0)
        return rows

    def _pg_backend_pid(self, params: Any) -> Iterable[_Row]:
        yield (self.peer.process,)

    def _hello(self, params: Any) -> Iterable[_Row]:
        yield self.version, "lineage", 1, "e", self.read_only

    def _append(self, params: list[Any]) -> Iterable[_Row]:
        _, _, topics, counts, tokens, *_, data, _, _, _ = params
        entries = _array(data)
        for name, count, token in zip(_array(topics), _array(counts), _array(tokens), strict=True):
            (number,) = struct.unpack("!i", count)
            some, entries = entries[:number], entries[number:]
            yield self._append_one(name.decode(), some, token.decode())

    def _append_one(self, topic: str, data: list[bytes], token: str) -> _Row:
        if token not in self._done:
            events = self._topics.setdefault(topic, [])
            first = len(events) + 1
            events += data
            results = f"e:{first}:0:{len(data)}"
            self._done[token] = (self._id(topic), "e:1", first, len(data), results, False, 1)
        return self._done[token]

    def _id(self, topic: str) -> int:
        return list(self._topics).index(topic) + 1

    def _heads(self, params: list[Any]) -> Iterable[_Row]:
        for name in map(bytes.decode, _array(params[0])):
            if name in self._topics:
                yield name, "e:1", len(self._topics[name]), 1, True
        yield None, "e:1", 0, 1, True

    def _read(self, params: list[Any]) -> Iterable[_Row]:
        name, epoch = params[0].decode(), params[1].decode()
        (after,) = struct.unpack("!q", params[2])
        events = self._topics.get(name, [])
        yield 1, "e:1", len(events), 1, True, 1, None, None, None
        if epoch == "e":
            for number, data in enumerate(events[after:], after + 1):
                yield 1, "e:1", len(events), 1, True, 1, number, 0.0, data

    def _ids(self, params: list[Any]) -> Iterable[_Row]:
        for name in map(bytes.decode, _array(params[0])):
            if name in self._topics:
                yield self._id(name), name, "e:1", len(self._topics[name])

    def _latest(self, params: list[Any]) -> Iterable[_Row]:
        yield 1, "e:1", 0, 1, None, None, None, None, None, False, True

    def _beat(self, params: Any) -> Iterable[_Row]:
        return ()

    def _leases(self, params: Any) -> Iterable[_Row]:
        return ()

    def _claim(self, params: list[Any]) -> Iterable[_Row]:
        yield params[0].decode(), params[1].decode(), 1, 60.0, False

    def _maintain(self, params: Any) -> Iterable[_Row]:
        yield (0,)

    def _notify(self, params: Any) -> Iterable[_Row]:
        yield (None,)

    def _listen(self, params: Any) -> Iterable[_Row]:
        return ()

    def _select(self, params: Any) -> Iterable[_Row]:
        yield (1,)


@asynccontextmanager
async def scripted_log() -> AsyncIterator[ScriptedLog]:
    """Serve such a log on loopback for the block."""
    log = ScriptedLog()
    async with scripted_postgres(log.answer) as peer:
        log.peer = peer
        yield log


def _function(sql: str) -> str:
    """Return the function that a statement calls, or its first word."""
    found = re.search(r"(?:flowstream|pg_catalog)\.(\w+)\(", sql)
    name = sql.split()[0] if found is None else found[1]
    return {"pg_notify": "notify"}.get(name, name)


def _array(param: bytes) -> list[bytes]:
    """Return the values of an array without nulls."""
    if not struct.unpack_from("!i", param)[0]:
        return []
    values, at = [], 20
    while at < len(param):
        (size,) = struct.unpack_from("!i", param, at)
        values.append(param[at + 4 : at + 4 + size])
        at += 4 + size
    return values
