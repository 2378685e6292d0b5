"""A connection, as the HTTP that is spoken on it knows it.

The connection makes what speaks on it, so that is below the connection and imports nothing of it.
Here is all that it uses.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

from flowstream.asgi._carrier import Carrier
from flowstream.server._applications import Applications
from flowstream.server._forwarded import Origin
from flowstream.server._stall_bound import StallBound

# What ended streams, for their reports (`StreamReport.detail`).
GOING_DOWN = "the server goes down"
LEFT = "the client closed its connection"
RESET = "the client reset its connection"
CLOSED = "the server closed the connection"


class Asked(Protocol):
    """A connection on which a client asks for something."""

    def write(self, data: bytes) -> Awaitable[bool]:
        """Write all of `data`, whoever is cancelled; return whether the client is there.

        There is a checkpoint only if the kernel doesn't take it at once.
        """
        ...

    def origin(self, headers: Sequence[tuple[bytes, bytes]]) -> Origin:
        """Return where a request with these headers, whose names are in lower case, comes from."""
        ...


class ProtocolCarrier(Carrier, Asked, Protocol):
    """What HTTP/2 knows of its connection; HTTP/1.1 needs `origin` alone."""

    @property
    def closing(self) -> bool:
        """Whether the server is shutting down."""
        ...

    async def turn(self) -> None:
        """**Wait** for the turn to do something that the client has asked for."""

    def stall_bound(self) -> StallBound:
        """Return how long a write may make no progress now."""
        ...

    def note_progress(self) -> None:
        """Note that the client has taken something."""

    def seconds_since_progress(self) -> float:
        """Return how long ago the client last took something, as far as was noted."""
        ...


class PlainCarrier(Asked, Protocol):
    """What a plain request, which Hypercorn's protocols do not see, knows of its connection."""

    app: Any
    config: Any
    context: Any
    state: Any
    """Of each request: what the lifespan has put there, and the connection."""
    server: Any
    """The address that the client has connected to."""
    applications: Applications
    """Those at work on it."""

    async def answered(self, keeps: bool) -> None:
        """Hear that the request is answered, and whether another may come after it."""
