"""Calls the scripts of a log: over a connection that may be lost, within the caller's patience.

A call is made again, over the next connection, if it was not made, and also if nobody knows and it
may be made twice: an append has its token, a read changes nothing. What is left at the end of the
patience is an error that says whether the call may have been made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
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
PAUSE = 0.02
# Seconds that the server waits for its replicas in one call: it says nothing meanwhile.
_WAIT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that failed, and what is to be done about it.

    Attributes:
        error: what the caller is told, if this is the end of it.
        final: whether it will not work soon, either.
        pause: whether to wait a moment before it is tried again.
    """

    error: LogUnavailableError
    final: bool
    pause: bool

    @classmethod
    def of(cls, error: ServerError | LogUnavailableError, where: str) -> Failure:
        """Sort what a connection raised.

        Args:
            error: what it raised.
            where: the server's address.
        """
        if isinstance(error, ServerError):
            cause, told = error, error.unavailable(where)
            told.__cause__ = error
        elif isinstance(error.__cause__, ServerError):  # WAIT failed
            cause, told = error.__cause__, error
        else:
            return cls(error, False, error.maybe)
        return cls(told, cause.meaning not in (Meaning.ELSEWHERE, Meaning.LATER), True)


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
        client: more arguments of it.

    Attributes:
        client: the connection.
        channel: what the names of the channels begin with.
        patience: see above.
        replicas: see above.
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
        **client: Any,
    ) -> None:
        self.patience = patience
        # Channels are not of a database.
        self.channel = f"{PREFIX}{settings.database}:"
        self.client = ValkeyClient(
            settings,
            ready=self._prepare,
            pushed=pushed,
            lost=_do_nothing,
            timeouts=timeouts,
            **client,
        )
        self._ready = ready
        self._trusted = "1" if never_rolls_back else "0"
        self.replicas = replicas

    async def call(
        self,
        name: str,
        *words: Word,
        writes: bool = False,
        again: bool = True,
        fits: Callable[[ValkeyConnection], Awaitable[bool]] | None = None,
    ) -> Reply:
        """Call a script and **wait** for what it returns.

        Args:
            name: of the script.
            words: its arguments.
            writes: whether the replicas must have what it writes.
            again: whether it may be called again if it may have been called.
            fits: tells whether the call may go over this connection; else it waits for another.

        Raises:
            LogUnavailableError: the patience is over, or the server refuses.
            LogFullError: the server has no room.
        """
        maybe = underway = False
        reason = "the server does not answer"
        with trio.move_on_after(self.patience):
            while True:
                connection = await self.client.connection()
                if fits is not None and not await fits(connection):
                    continue
                underway = True
                try:
                    return await self._ask(connection, name, words, writes=writes)
                except (ServerError, LogUnavailableError) as error:
                    underway = False
                    failure = Failure.of(error, connection.where)
                    maybe = maybe or failure.error.maybe
                    if failure.final or (maybe and not again):
                        raise failure.error  # noqa: B904  # it has its cause
                    reason = str(failure.error)
                    await trio.sleep(PAUSE if failure.pause else 0)
        raise self.unanswered(reason, maybe=maybe or underway)

    async def ask(self, connection: ValkeyConnection, name: str, *words: Word) -> Reply:
        """Call a script over this connection, once; it asks the server who it is.

        Raises:
            ServerError, LogUnavailableError: see `ValkeyConnection.call`.
        """
        return await self._ask(connection, name, words, ask=True)

    def commands(
        self, name: str, words: Sequence[Word], *, ask: bool = False, writes: bool = False
    ) -> list[Sequence[Word]]:
        """Return the commands that call a script, for `ValkeyConnection`; see `call`."""
        epoch = new_epoch()
        head = ("1" if ask else "0", epoch, epoch, self._trusted, self.channel)
        one = ("EVALSHA", script(name).sha, 1, f"{PREFIX}log", *head, *words)
        if writes and self.replicas:
            return [one, ("WAIT", self.replicas, int(_WAIT_SECONDS * 1000))]
        return [one]

    def unanswered(self, reason: str, *, maybe: bool) -> LogUnavailableError:
        """Return the error at the end of the patience.

        Args:
            reason: why the last try failed.
            maybe: whether the call may have been made.
        """
        why = self.client.away or reason
        return LogUnavailableError(
            f"the log has not answered for {self.patience:g} s: {why}", maybe=maybe
        )

    async def _ask(
        self,
        connection: ValkeyConnection,
        name: str,
        words: tuple[Word, ...],
        *,
        ask: bool = False,
        writes: bool = False,
    ) -> Reply:
        commands = self.commands(name, words, ask=ask, writes=writes)
        results = await connection.call_many(commands)
        return connection.confirmed(results, self.replicas if writes else 0)

    async def _prepare(self, connection: ValkeyConnection) -> None:
        loaded = await connection.call_many([("SCRIPT", "LOAD", one.text) for one in scripts()])
        for one in loaded:
            if isinstance(one, ServerError):
                raise one
        await self.ask(connection, "adopt", "0")
        await self._ready(connection)


def _do_nothing() -> None:
    """Hear that the connection was lost: the next one is being prepared."""
