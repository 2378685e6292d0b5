"""What the sources put their items into."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest
import trio


async def _for_ever() -> None:
    await trio.sleep_forever()


class Sink:
    """Stands for an outlet: keeps what is sent, and waits when it is told to."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.wanted = 0
        self.reached = trio.Event()
        self.block_at: int | None = None

    async def send(self, item: Any) -> None:
        wait = self.put(item)
        if wait is not None:
            await wait
        await trio.lowlevel.checkpoint()

    def put(self, item: Any) -> Awaitable[None] | None:
        self.items.append(item)
        if len(self.items) == self.wanted:
            self.reached.set()
        if len(self.items) == self.block_at:
            return _for_ever()
        return None

    async def wait_for(self, count: int) -> None:
        """Wait until so many items were sent."""
        if len(self.items) < count:
            self.wanted, self.reached = count, trio.Event()
            await self.reached.wait()


@pytest.fixture
def sink() -> Sink:
    return Sink()
