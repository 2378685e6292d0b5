"""Hypercorn's context of a worker, with events that take less memory.

Each connection keeps some events as long as it lasts, and waits for them only for moments.
"""

from __future__ import annotations

import logging
from typing import Any

from flowstream.server._hypercorn import WorkerContext
from flowstream.tasks._flag import Flag

logger = logging.getLogger("flowstream.server")


class FlagEvent:
    """An event with the methods that Hypercorn's protocols call, made of a `Flag`."""

    __slots__ = ("_flag",)

    def __init__(self) -> None:
        self._flag = Flag()

    async def clear(self) -> None:
        """Unset the event. Tasks that wait for it now are never woken."""
        self._flag = Flag()

    async def set(self) -> None:
        """Set the event, and wake the tasks that wait."""
        self._flag.set()

    async def wait(self) -> None:
        """**Wait** until the event is set."""
        await self._flag.wait()

    def is_set(self) -> bool:
        """Return whether the event is set."""
        return self._flag.is_set()


class Context(WorkerContext):
    """The context that all protocols of one worker share."""

    event_class = FlagEvent

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._said: set[str] = set()

    def say_once(self, message: str) -> None:
        """Log `message` at INFO, but only once, since clients may cause it without end."""
        if message not in self._said:
            self._said.add(message)
            logger.info(message)
