"""What a stream and its connection know of each other.

flowstream's own server puts its connection into the request's state. A stream that finds it there
needs no task that waits on ``receive()``: the connection calls the stream when the client leaves or
the server shuts down. The stream can also ask the connection to close the socket of a client that
reads nothing. Other servers have no such entry, and streams work without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

import trio

from flowstream._closing import CloseReason, StreamReport
from flowstream.asgi._direct_write import DirectWrite
from flowstream.asgi._request import in_state

STATE_KEY = "flowstream.connection"

ENTRY_KEY = "flowstream.access_entry"

WORKERS_KEY = "flowstream.workers"
"""The key in the state of the lifespan and of each request: how many processes serve the app.

Each of them has its own memory.
"""


class Carried(Protocol):
    """A stream, as its connection knows it."""

    @property
    def stall_timeout(self) -> float | None:
        """Seconds that a write may make no progress; None if its app leaves that to the server.

        It becomes None when the stream has ended: the server then decides about the bytes that are
        still on their way.
        """

    def close(self, reason: CloseReason, detail: str = "") -> None:
        """End gracefully; `detail` is the cause (`StreamReport.detail`)."""

    def abort(self, reason: CloseReason, detail: str = "") -> None:
        """End at once."""


class Carrier(Protocol):
    """A connection, or one HTTP/2 stream of it, as the stream that answers on it knows it."""

    reason: CloseReason | None
    """Why it ended, or None."""
    detail: str
    """The cause of the reason: see `StreamReport.detail`."""

    @property
    def write_timeout(self) -> float:
        """Seconds that a write may make no progress, unless a stream sets its own."""
        ...

    @property
    def nursery(self) -> trio.Nursery:
        """A nursery that outlives every stream it carries, for tasks that a stream waits for."""
        ...

    def attach(self, stream: Carried) -> None:
        """Tell `stream` when the client leaves or takes nothing, and when the server shuts down.

        If that has happened already, tell it before this returns.
        """

    def detach(self, stream: Carried) -> None:
        """Tell `stream` nothing any more."""

    def abort(self, reason: CloseReason, detail: str = "") -> None:
        """Reset the connection, and drop what the client has not taken."""

    def may_bring_more(self, scope: Mapping[str, Any]) -> bool:
        """Return whether ``receive()`` may bring a body. Somebody must read that."""
        ...

    def open_direct_write(self, scope: Mapping[str, Any]) -> DirectWrite:
        """Return the `DirectWrite` of the response to this request, usable or not."""
        ...


class Entry(Protocol):
    """A request's line in the access log, as the stream that answers the request knows it."""

    def begin_stream(self) -> None:
        """Note that a stream answers the request."""

    def end_stream(self, report: StreamReport, direct_bytes: int) -> None:
        """Note how the stream ended, and how many bytes publishers wrote to it directly."""


def entry_of(scope: Mapping[str, Any]) -> Entry | None:
    """Return this request's line in the access log, if there is one."""
    return cast("Entry | None", in_state(scope, ENTRY_KEY))


def carrier_of(scope: Mapping[str, Any]) -> Carrier | None:
    """Return the connection of this request, if flowstream's own server serves it."""
    return cast("Carrier | None", in_state(scope, STATE_KEY))
