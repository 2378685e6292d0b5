"""Calls the scripts of a log: over a connection that may be lost, within the caller's patience.

A call is made again, over the next connection, if it was not made, and also if nobody knows and it
may be made twice: an append has its token, a read changes nothing. What is left at the end of the
patience is an error that says whether the call may have been made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from flowstream._errors import LogUnavailableError
from flowstream.ids._event_id import new_epoch
from flowstream.logs.valkey._conversation import Reply, Word
from flowstream.logs.valkey._server_error import Meaning, ServerError
from flowstream.logs.valkey._valkey_client import ValkeyClient
from flowstream.logs.valkey._valkey_connection import ValkeyConnection, ValkeyTimeouts
from flowstream.logs.valkey._valkey_scripts import script, scripts
from flowstream.logs.valkey._valkey_settings import ValkeySettings

# What all keys begin with. In braces, because a Cluster would then keep all in one place.
PREFIX = "{flowstream}:"
# Seconds before a command is asked again that the server was too busy for.
_PAUSE = 0.02
# Seconds that the server waits for its replicas in one call: it says nothing meanwhile.
_WAIT_SECONDS = 1.0


class ScriptCaller:
    """A connection to the primary, over which scripts are called.

    Args:
        settings: where the servers are.
        patience: seconds that a call waits, if there is no connection.
        never_rolls_back: whether the server is trusted to lose nothing, whatever happens.
        replicas: how many replicas must have what a script wrote.
        ready: awaited with each new connection, when scripts can be called over it.
        pushed: see `ValkeyClient`.
        timeouts: see `ValkeyClient`.

    Attributes:
        client: the connection.
        channel: what the names of the channels begin with.
        patience: see above.
    """

    def __init__(
        self,
        settings: ValkeySettings,
        *,
        patience: float,
        never_rolls_back: bool,
        replicas: int,
        ready: Callable[[ValkeyConnection], Awaitable[None]],
        pushed: Callable[[list[Any]], None],
        timeouts: ValkeyTimeouts | None,
    ) -> None:
        self.patience = patience
        # Channels are not of a database.
        self.channel = f"{PREFIX}{settings.database}:"
        self.client = ValkeyClient(
            settings, ready=self._prepare, pushed=pushed, lost=_do_nothing, timeouts=timeouts
        )
        self._ready = ready
        self._trusted = "1" if never_rolls_back else "0"
        self._replicas = replicas

    async def call(
        self,
        name: str,
        *words: Word,
        ask: bool = False,
        writes: bool = False,
        again: bool = True,
        fits: Callable[[ValkeyConnection], Awaitable[bool]] | None = None,
    ) -> Reply:
        """Call a script and **wait** for what it returns.

        Args:
            name: of the script.
            words: its arguments.
            ask: whether it asks the server who it is.
            writes: whether the replicas must have what it writes.
            again: whether it may be called again if it may have been called.
            fits: tells whether the call may go over this connection; else it waits for another.

        Raises:
            LogUnavailableError: the patience is over, or the server refuses.
            LogFullError: the server has no room.
        """
        maybe = underway = False
        with trio.move_on_after(self.patience):
            while True:
                connection = await self.client.connection()
                if fits is not None and not await fits(connection):
                    continue
                underway = True
                try:
                    return await self._ask(connection, name, words, ask, writes)
                except ServerError as error:
                    underway = False
                    if error.meaning not in (Meaning.ELSEWHERE, Meaning.LATER):
                        raise error.unavailable(connection.where) from error
                    maybe = maybe or error.code == "UNBLOCKED"
                    await trio.sleep(_PAUSE)
                except LogUnavailableError as error:
                    underway = False
                    maybe = maybe or error.maybe
                    if maybe and not again:
                        raise
                    await trio.sleep(_PAUSE if error.maybe else 0)
        away = self.client.away or "the server does not answer"
        raise LogUnavailableError(
            f"the log has not answered for {self.patience:g} s: {away}", maybe=maybe or underway
        )

    async def ask(self, connection: ValkeyConnection, name: str, *words: Word) -> Reply:
        """Call a script over a connection that is being prepared; it asks the server who it is."""
        return await self._ask(connection, name, words, True, False)

    async def _ask(
        self,
        connection: ValkeyConnection,
        name: str,
        words: tuple[Word, ...],
        ask: bool,
        writes: bool,
    ) -> Reply:
        epoch = new_epoch()
        head: tuple[Word, ...] = ("1" if ask else "0", epoch, epoch, self._trusted, self.channel)
        command = ("EVALSHA", script(name).sha, 1, f"{PREFIX}log", *head, *words)
        if not (writes and self._replicas):
            return await connection.call(*command)
        wait = ("WAIT", self._replicas, int(_WAIT_SECONDS * 1000))
        results = await connection.call_many([command, wait])
        for one in results:
            if isinstance(one, ServerError):
                raise one
        reply: Any
        copies: Any
        reply, copies = results
        if copies < self._replicas:
            raise LogUnavailableError(
                f"{connection.where}: {copies} replicas have it in time, and wait_replicas asks "
                f"for {self._replicas}",
                maybe=True,
            )
        return reply

    async def _prepare(self, connection: ValkeyConnection) -> None:
        loaded = await connection.call_many([("SCRIPT", "LOAD", one.text) for one in scripts()])
        for one in loaded:
            if isinstance(one, ServerError):
                raise one
        await self.ask(connection, "adopt", "0")
        await self._ready(connection)


def _do_nothing() -> None:
    """Hear that the connection was lost: the next one is being prepared."""
