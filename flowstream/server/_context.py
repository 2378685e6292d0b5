"""What Hypercorn's protocols share, with events that take less memory.

Each connection has some for as long as it lasts, and waits for them for a moment.
"""

from __future__ import annotations

import logging
from typing import Any

from flowstream.server._hypercorn import WorkerContext
from flowstream.tasks._flag import Flag

logger = logging.getLogger("flowstream.server")


class FlagEvent:
    """An event as Hypercorn's protocols use it, made of a `Flag`."""

    __slots__ = ("_flag",)

    def __init__(self) -> None:
        self._flag = Flag()

    async def clear(self) -> None:
        """Take it back. Who waits is not woken any more."""
        self._flag = Flag()

    async def set(self) -> None:
        """Let it happen."""
        self._flag.set()

    async def wait(self) -> None:
        """Wait until it happens."""
        await self._flag.wait()

    def is_set(self) -> bool:
        """Return whether it has happened."""
        return self._flag.is_set()


class Context(WorkerContext):
    """What is shared by all protocols of one worker."""

    event_class = FlagEvent

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._said: set[str] = set()

    def say_once(self, message: str) -> None:
        """Log `message` at INFO, the first time only: clients may cause it without end."""
        if message not in self._said:
            self._said.add(message)
            logger.info(message)
