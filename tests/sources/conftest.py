"""What the sources put their items into."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from flowstream.abc import Encoder, Judge, Policy, Verdict
from flowstream.buffer._buffer_outlet import BufferOutlet
from flowstream.buffer._event_buffer import EventBuffer
from flowstream.limits import Buffer
from flowstream.sources._relay import Relay


class KeepingOutlet(BufferOutlet):
    """An outlet that keeps the items it is given, and waits or refuses when it is told to."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.block_at: int | None = None
        self.refuses = False
        self._wanted = 0
        self._reached = trio.Event()
        policy = _Told(self)
        buffer = EventBuffer(Buffer(items=4), policy)
        super().__init__(buffer, _Keeps(self), timeout=None, keyed=False, give_up=self.close)

    async def wait_for(self, count: int) -> None:
        """Wait until so many items were sent."""
        if len(self.items) < count:
            self._wanted, self._reached = count, trio.Event()
            await self._reached.wait()

    def keep(self, item: Any) -> None:
        if self.refuses:
            raise ValueError("refused")
        self.items.append(item)
        if len(self.items) == self._wanted:
            self._reached.set()


class _Keeps(Encoder):
    def __init__(self, outlet: KeepingOutlet) -> None:
        self._outlet = outlet

    def encode(self, data: Any, **envelope: Any) -> bytes:
        self._outlet.keep(data)
        return b"item"


class _Judges(Judge):
    behind = True

    def __init__(self, outlet: KeepingOutlet) -> None:
        self._outlet = outlet

    def arrive(self, now: float, essential: bool) -> Verdict:
        full = len(self._outlet.items) == self._outlet.block_at
        return Verdict.WAIT if full else Verdict.EVICT_OLDEST


class _Told(Policy):
    def __init__(self, outlet: KeepingOutlet) -> None:
        self._outlet = outlet

    def start(self) -> Judge:
        return _Judges(self._outlet)


@pytest.fixture
def outlet() -> KeepingOutlet:
    return KeepingOutlet()


@pytest.fixture(scope="session")
def new_outlet() -> type[KeepingOutlet]:
    """For a test that needs several, or one in a Trio run of its own."""
    return KeepingOutlet


class Kept(list[Any]):
    """Items as they were sent, events whole, and when each came."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []
        self.outlet = Relay(self._keep, _no_statistics, self._keep_nowait)

    async def _keep(self, item: Any) -> None:
        await trio.lowlevel.checkpoint()
        self._keep_nowait(item)

    def _keep_nowait(self, item: Any) -> None:
        self.append(item)
        self.times.append(trio.current_time())


def _no_statistics() -> Any:
    raise NotImplementedError


@pytest.fixture
def kept() -> Kept:
    """Items that a source has sent to ``kept.outlet``."""
    return Kept()


@pytest.fixture(scope="session")
def postgres(postgres_server: str) -> str:
    """Give the DSN of a Postgres server, as a superuser; one for all tests."""
    return postgres_server
