"""What an open log in a server has: two connections, the topics it watches, and a sweep.

Appends and hints have one connection. Reads have another, so that large pages don't wait before
hints, and because a server ends a connection that has subscribed and lets much wait. Both must be
to one server: else, in a failover, a process would read from one what it wrote to the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import trio

from flowstream._errors import LogUnavailableError
from flowstream.abc import Hint, Stale
from flowstream.logs._append_arguments import batches
from flowstream.logs.valkey._conversation import Reply, Word
from flowstream.logs.valkey._script_caller import ScriptCaller
from flowstream.logs.valkey._valkey_connection import ValkeyConnection, ValkeyTimeouts
from flowstream.logs.valkey._valkey_settings import ValkeySettings
from flowstream.logs.valkey._valkey_values import read_hint
from flowstream.logs.valkey._valkey_writer import ValkeyWriter

# Seconds between two looks for what is over its time, and whether the server is what it was: one
# that was a replica for a moment keeps its connections.
_SWEEP_SECONDS = 1.0
_SWEEP_TOPICS = 64


class OpenValkey:
    """An open log: it calls scripts, and hears of topics.

    Args:
        settings: where the servers are.
        patience: seconds that a call waits while there is no connection.
        never_rolls_back: see `ValkeyLog`.
        replicas: how many replicas must have what was written.
        timeouts: see `ValkeyClient`.
        hint: see `flowstream.abc.Log.run`.
        stale: see `flowstream.abc.Log.run`.

    Attributes:
        appends: what appends.
    """

    def __init__(
        self,
        settings: ValkeySettings,
        *,
        patience: float,
        never_rolls_back: bool,
        replicas: int,
        timeouts: ValkeyTimeouts | None,
        hint: Hint,
        stale: Stale,
    ) -> None:
        def caller(**callbacks: Any) -> ScriptCaller:
            return ScriptCaller(
                settings,
                patience=patience,
                never_rolls_back=never_rolls_back,
                replicas=replicas,
                timeouts=timeouts,
                **callbacks,
            )

        self._writer = caller(
            ready=self._subscribe,
            pushed=self._hear,
            look=self._sweep,
            look_seconds=_SWEEP_SECONDS,
        )
        self._reader = caller(ready=_be_ready, pushed=_ignore)
        self.appends = ValkeyWriter(self._writer)
        self._channel = self._writer.channel.encode()
        self._watched: set[str] = set()
        self._hint = hint
        self._stale = stale

    async def run(  # noqa: ASYNC114  # `ValkeyLog.run` starts it
        self, *, task_status: Any = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Hold the connections until this is cancelled.

        Raises:
            LogUnavailableError: no connection comes about at the start.
        """
        async with trio.open_nursery() as nursery:
            await nursery.start(self._writer.client.run)
            await nursery.start(self._reader.client.run)
            nursery.start_soon(self.appends.run)
            task_status.started()

    async def write(self, name: str, *words: Word, again: bool = True) -> Reply:
        """Call a script that writes: see `ScriptCaller.call`."""
        return await self._writer.call(name, *words, writes=True, again=again)

    async def read(self, name: str, *words: Word) -> Reply:
        """Call a script that reads."""
        return await self._reader.call(name, *words, fits=self._is_of_the_writer)

    async def watch(self, topics: Sequence[str]) -> None:
        """Hear of these topics; **wait** until the server has confirmed it.

        Raises:
            LogUnavailableError: the server is away. They are heard of once it is back.
        """
        self._watched.update(topics)
        with trio.move_on_after(self._writer.patience):
            while True:
                connection = await self._writer.client.connection()
                try:
                    await self._name(connection, "SUBSCRIBE", topics)
                except LogUnavailableError:
                    continue
                return
        raise LogUnavailableError(f"topics can't be watched: {self._writer.client.away}")

    async def unwatch(self, topics: Sequence[str]) -> None:
        """Hear of these topics no more."""
        self._watched.difference_update(topics)
        with trio.move_on_after(self._writer.patience):
            connection = await self._writer.client.connection()
            with suppress(LogUnavailableError):  # the next one does not subscribe to them
                await self._name(connection, "UNSUBSCRIBE", topics)

    async def _subscribe(self, connection: ValkeyConnection) -> None:
        """Prepare a connection to hear of all watched topics, of which hints may have been lost."""
        await connection.call("SUBSCRIBE", self._channel)
        await self._name(connection, "SUBSCRIBE", sorted(self._watched))
        if self._writer.client.connections:
            self._stale(None)

    async def _name(
        self, connection: ValkeyConnection, command: str, topics: Sequence[str]
    ) -> None:
        for some in batches(topics):
            await connection.call(command, *(self._channel + name.encode() for name in some))

    def _hear(self, push: list[Any]) -> None:
        if len(push) != 3 or push[0] != b"message":
            return
        name = push[1][len(self._channel) :]
        if not name:
            self._stale(None)
            return
        topic = name.decode()
        if topic not in self._watched:
            return
        try:
            news = read_hint(push[2])
        except ValueError:
            news = None  # it is from somebody else
        if news is None:
            self._stale(topic)
        else:
            self._hint(topic, *news)

    async def _is_of_the_writer(self, connection: ValkeyConnection) -> bool:
        """Return whether a connection is to the server that is written to; else give it up."""
        writer = await self._writer.client.connection()
        if connection.info.get("run_id") == writer.info.get("run_id"):
            return True
        connection.give_up("another server is written to")
        await trio.lowlevel.checkpoint()
        return False

    async def _sweep(self, connection: ValkeyConnection) -> None:
        """Delete what is over its time. The script sees whether the server is what it was."""
        swept: Any = _SWEEP_TOPICS
        while swept == _SWEEP_TOPICS:
            swept = await self._writer.ask(connection, "sweep", _SWEEP_TOPICS)


async def _be_ready(connection: ValkeyConnection) -> None:
    """Do nothing: the connection is for reads."""


def _ignore(push: list[Any]) -> None:
    """Hear a push over a connection that has subscribed to nothing."""
