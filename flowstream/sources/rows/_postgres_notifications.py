"""The notifications on a channel of Postgres, as they come.

A thread opens and closes the connection. In between the task sleeps until the socket is readable,
and reads without waiting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio
from psycopg import Connection, sql

from flowstream.buffer._outlet import Outlet
from flowstream.sources._source import Source
from flowstream.sources.rows._postgres_connection import connect, interrupt, told_to_the_client
from flowstream.sources.threads._visits import Visited, Visits


class Notifications(Source):
    """The payloads of one channel. Each run opens its own connection.

    Args:
        dsn: the database.
        channel: the channel's name.
        load: turns a payload into an item.
    """

    repeatable = True

    def __init__(self, dsn: str, channel: str, load: Callable[[str], Any]) -> None:
        self._dsn = dsn
        self._channel = channel
        self._load = load

    async def run(self, out: Outlet) -> None:
        """Send the notifications as long as the connection lasts."""
        listening = _Listening(self._dsn, self._channel)
        visits = Visits(listening)
        try:
            connection = await visits.run(listening.open)
            while True:
                for payload in _arrived(connection):
                    try:
                        item = self._load(payload)
                    except Exception as error:  # noqa: BLE001  # who takes the items decides
                        out.reject(error)
                        continue
                    await out.send(item)
                await trio.lowlevel.wait_readable(connection.fileno())
        finally:
            await visits.end()  # noqa: ASYNC102  # shields itself, see _visits.py


def _arrived(connection: Connection[Any]) -> list[str]:
    """Return the notifications that have come, without waiting."""
    with told_to_the_client():
        return [notification.payload for notification in connection.notifies(timeout=0)]


class _Listening(Visited):
    def __init__(self, dsn: str, channel: str) -> None:
        self._dsn = dsn
        self._channel = channel
        self._connection: Connection[Any] | None = None

    def open(self) -> Connection[Any]:
        """Connect and listen."""
        # Without a transaction: notifications are delivered only between transactions.
        connection = self._connection = connect(self._dsn, autocommit=True)
        with told_to_the_client():
            connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
        return connection

    def interrupt(self, attempt: int) -> None:
        if self._connection is not None:
            interrupt(self._connection, attempt)

    def close(self, *, complete: bool) -> None:
        if self._connection is not None:
            self._connection.close()
