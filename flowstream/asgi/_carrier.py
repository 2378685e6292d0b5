"""What a stream and its connection know of each other.

flowstream's own server puts its connection into the request's state. A stream that finds it there
needs no task that waits on ``receive()``: the connection calls it when the client leaves or the
server shuts down. And it can ask the connection to close the socket of a client that reads nothing.
Under other servers there is no such entry, and streams work without it.
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
"""Where the lifespan's and each request's state say how many processes serve the app: what it
keeps in memory is split between them."""


class Carried(Protocol):
    """A stream, as its connection knows it."""

    @property
    def stall_timeout(self) -> float | None:
        """Seconds that a write may make no progress; None if its app leaves that to the server.

        It may change: a stream that was ended leaves what is still on its way to the server.
        """

    def close(self, reason: CloseReason, detail: str = "") -> None:
        """End gracefully, for this reason and cause (`StreamReport.detail`)."""

    def abort(self, reason: CloseReason, detail: str = "") -> None:
        """End at once."""


class Carrier(Protocol):
    """A connection, or one HTTP/2 stream of it, as the response on it knows it."""

    reason: CloseReason | None
    """Why it ended, or None."""
    detail: str
    """The cause of that: see `StreamReport.detail`."""

    @property
    def write_timeout(self) -> float:
        """Seconds that a write may make no progress where no stream says otherwise."""
        ...

    @property
    def nursery(self) -> trio.Nursery:
        """The nursery that outlives whatever it carries: for tasks that their stream waits for."""
        ...

    def attach(self, stream: Carried) -> None:
        """Tell `stream` when the client leaves or takes nothing, and of a shutdown.

        If that has happened already it is told before this returns.
        """

    def detach(self, stream: Carried) -> None:
        """Tell `stream` nothing more."""

    def abort(self, reason: CloseReason, detail: str = "") -> None:
        """Reset it, dropping what the client has not taken."""

    def may_bring_more(self, scope: Mapping[str, Any]) -> bool:
        """Return whether ``receive()`` may bring a body, which somebody must then drain."""
        ...

    def open_direct_write(self, scope: Mapping[str, Any]) -> DirectWrite:
        """Return the direct writes to the response to this request, possible or not."""
        ...


class Entry(Protocol):
    """The line of a request in the access log, as the stream that answers it knows it."""

    def begin_stream(self) -> None:
        """Hear that a stream answers the request."""

    def end_stream(self, report: StreamReport, direct_bytes: int) -> None:
        """Hear how it ended, and what publishers have written to its connection directly."""


def entry_of(scope: Mapping[str, Any]) -> Entry | None:
    """Return this request's line in the access log, if there is one."""
    return cast("Entry | None", in_state(scope, ENTRY_KEY))


def carrier_of(scope: Mapping[str, Any]) -> Carrier | None:
    """Return what carries this request, if flowstream's own server serves it."""
    return cast("Carrier | None", in_state(scope, STATE_KEY))
