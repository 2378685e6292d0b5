"""What Hypercorn's protocols share, with events and an idle task that take less memory.

Each connection has one of both for as long as it lasts, and needs them for a moment.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from flowstream.server._hypercorn import TaskGroup, WorkerContext
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


class IdleTask:
    """The task that ends a connection on which nothing is asked for; at most one at a time."""

    __slots__ = ("_scope",)

    def __init__(self) -> None:
        self._scope: trio.CancelScope | None = None

    async def restart(self, applications: TaskGroup, action: Callable[[], Awaitable[None]]) -> None:
        """Run `action` anew. Does not wait, so that nobody can be cancelled here."""
        await self.stop()
        self._scope = scope = trio.CancelScope()
        applications.spawn(_run, scope, action)

    async def stop(self) -> None:
        """End it, if it runs. Does not wait."""
        scope, self._scope = self._scope, None
        if scope is not None:
            scope.cancel()


async def _run(scope: trio.CancelScope, action: Callable[..., Any]) -> None:
    with scope:
        await action()
