"""A contract of a log: one sentence, and the case that checks it.

A case gets a `LogBench`, which opens the store under test as often as it likes. Each case has a
store of its own. The cases are in the modules beside this one, by what they are about.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import trio

from flowstream.abc import Appended, Head, Log, LogEntry, Record
from flowstream.limits import Replay

OpenStore: TypeAlias = Callable[..., AbstractAsyncContextManager[Log]]
Case: TypeAlias = Callable[["LogBench"], Awaitable[None]]

# Seconds that a case may take, and that it waits for a hint.
CASE_SECONDS = 120.0
HINT_SECONDS = 20.0
# How far a log's clock may be from that of the case: it may count in milliseconds.
CLOCK_SECONDS = 0.002


@dataclass(frozen=True, slots=True)
class LogContract:
    """One sentence, the case that checks it, and whether it opens the store twice at a time."""

    sentence: str
    case: Case
    several: bool


CONTRACTS: dict[str, LogContract] = {}


def contract(sentence: str, *, several: bool = False) -> Callable[[Case], Case]:
    """Have the function check that `sentence` holds."""

    def add(case: Case) -> Case:
        assert sentence not in CONTRACTS
        CONTRACTS[sentence] = LogContract(sentence, case, several)
        return case

    return add


class LogUnderTest:
    """An open log, and short forms of its methods.

    Attributes:
        log: the log.
        heard: records by topic, as hints brought them: each number once.
        befores: what each hint followed on: (topic, number before, first number).
        stale: what was stale.
    """

    def __init__(self, log: Log, bench: LogBench) -> None:
        self.log = log
        self.heard: dict[str, dict[int, Record]] = {}
        self.befores: list[tuple[str, int, int]] = []
        self.stale: list[str | None] = []
        self.changed = trio.Event()
        self._bench = bench

    def hint(self, topic: str, before: int, records: Sequence[Record]) -> None:
        """Hear a hint."""
        if records:
            self.befores.append((topic, before, records[0].number))
        self.heard.setdefault(topic, {}).update({record.number: record for record in records})
        self.changed.set()

    def see_stale(self, topic: str | None) -> None:
        """Hear that something is stale."""
        self.stale.append(topic)
        self.changed.set()

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait until news make the condition true."""
        with trio.fail_after(HINT_SECONDS):
            while not condition():
                self.changed = trio.Event()
                await self.changed.wait()

    async def append(
        self,
        topic: str,
        *data: bytes | LogEntry,
        keep: Replay = Replay(),  # noqa: B008  # a frozen value
        token: str | None = None,
    ) -> list[Appended]:
        """Append data or entries, with a token of its own unless one is given."""
        entries = [one if isinstance(one, LogEntry) else LogEntry(one) for one in data]
        token = self._bench.token() if token is None else token
        return await self.log.append(topic, entries, keep=keep, token=token)

    def token(self) -> str:
        """Return a token that no other append has."""
        return self._bench.token()

    async def head(self, topic: str) -> Head:
        """Return the topic's head."""
        return (await self.log.heads([topic]))[topic]

    async def position(self, topic: str) -> tuple[str, int]:
        """Return the topic's position."""
        head = await self.head(topic)
        return head.epochs[-1][0], head.number

    async def everything(self, topic: str) -> list[Record]:
        """Return all that can be read, page by page."""
        head = await self.head(topic)
        after = head.epochs[0][0], head.epochs[0][1] - 1
        found: list[Record] = []
        while True:
            head, known, records = await self.log.read(topic, after, 1000)
            assert known, after
            if not records:
                return found
            found += records
            after = records[-1].epoch, records[-1].number


class LogBench:
    """Opens the store that a case is about.

    Args:
        open_store: opens the store; it takes `hint` and `stale`.
    """

    def __init__(self, open_store: OpenStore) -> None:
        self._open_store = open_store
        self._tokens = 0

    def token(self) -> str:
        """Return a token that no other append has."""
        self._tokens += 1
        return f"bench-{self._tokens}"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[LogUnderTest]:
        """Open the store for the block."""
        holder: list[LogUnderTest] = []

        def hint(topic: str, before: int, records: Sequence[Record]) -> None:
            if holder:
                holder[0].hint(topic, before, records)

        def stale(topic: str | None) -> None:
            if holder:
                holder[0].see_stale(topic)

        async with self._open_store(hint=hint, stale=stale) as log:
            holder.append(LogUnderTest(log, self))
            yield holder[0]


def numbers(records: Sequence[Record | Appended]) -> list[int]:
    """Return the numbers of records, or of results."""
    return [one.number for one in records]


def ageless(records: Iterable[Record]) -> list[Record]:
    """Return the records as they are whenever they are read."""
    return [record._replace(age=0.0) for record in records]


async def cancelled_after(steps: int, call: Callable[[], Awaitable[object]]) -> bool:
    """Cancel a call after so many steps of the event loop; return whether it had ended."""
    ended = False
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            nonlocal ended
            await call()
            ended = True

        nursery.start_soon(run)
        for _ in range(steps):
            await trio.lowlevel.cancel_shielded_checkpoint()
        nursery.cancel_scope.cancel()
    return ended
