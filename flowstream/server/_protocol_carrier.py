"""A connection, as its protocol sees it: small interfaces that the connection fills in.

The connection makes its protocol. So the protocol is in a layer below, and can't import the
connection. It uses only what is here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

from flowstream.asgi._carrier import Carrier
from flowstream.server._applications import Applications
from flowstream.server._forwarded import Origin
from flowstream.server._stall_bound import StallBound

# Why streams ended, for their reports (`StreamReport.detail`).
GOING_DOWN = "the server goes down"
LEFT = "the client closed its connection"
RESET = "the client reset its connection"
CLOSED = "the server closed the connection"


class Asked(Protocol):
    """A connection that requests come from."""

    def write(self, data: bytes) -> Awaitable[bool]:
        """Write all of `data`, even if cancelled; return whether the connection can still send.

        It is a checkpoint only if the kernel doesn't take all of it at once.
        """
        ...

    def origin(self, headers: Sequence[tuple[bytes, bytes]]) -> Origin:
        """Return where a request comes from. The names of its headers are in lower case."""
        ...


class ProtocolCarrier(Carrier, Asked, Protocol):
    """A connection, as HTTP/2 sees it. HTTP/1.1 needs only `origin`."""

    @property
    def closing(self) -> bool:
        """Whether the server is shutting down."""
        ...

    def is_writing(self) -> bool:
        """Return whether somebody writes to it now, or waits to."""
        ...

    def turn(self) -> Awaitable[None]:
        """**Wait** for this client's turn, before starting what it asked for."""
        ...

    def stall_bound(self) -> StallBound:
        """Return how long a write may currently make no progress."""
        ...

    def note_progress(self) -> None:
        """Note that the client has read something."""

    def seconds_since_progress(self) -> float:
        """Return how long ago the client last read something, as far as was noted."""
        ...


class PlainCarrier(Asked, Protocol):
    """A connection, as a plain request sees it, which has none of Hypercorn's protocols."""

    app: Any
    config: Any
    context: Any
    state: Any
    """The state of each request: what the lifespan put there, and the connection."""
    server: Any
    """The address that the client connected to."""
    applications: Applications
    """The applications at work on the connection."""

    def pause(self) -> Awaitable[None]:
        """Let others run, if this pass of the event loop has no time left."""
        ...

    async def answered(self, keeps: bool) -> None:
        """Take note that the request is answered, and whether another may follow."""
