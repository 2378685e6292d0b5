"""Flag: a `trio.Event` that takes next to no memory until somebody waits for it.

Each stream and each connection has several flags that are only asked whether they are set. A
`trio.Event` takes 300 bytes, most of them for the set of its waiters.
"""

from __future__ import annotations

import trio


class Flag:
    """Says whether something has happened."""

    __slots__ = ("_event", "_happened")

    def __init__(self) -> None:
        self._happened = False
        self._event: trio.Event | None = None  # while somebody waits

    def is_set(self) -> bool:
        """Return whether it has happened."""
        return self._happened

    def set(self) -> None:
        """Note that it has happened, and wake all tasks that wait."""
        self._happened = True
        event, self._event = self._event, None
        if event is not None:
            event.set()

    async def wait(self) -> None:
        """**Wait** until it has happened. If it has already, only pass a checkpoint."""
        if self._happened:
            await trio.lowlevel.checkpoint()
            return
        if self._event is None:
            self._event = trio.Event()
        await self._event.wait()
