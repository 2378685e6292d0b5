"""Framing: how a stream's bytes are framed on the wire.

The server frames what a stream sends through it. A direct write goes past the server, so the
publisher frames the bytes: once for all clients that get the same format in the same framing.

A framing is a value, like an encoder: it has no state, and two that make the same bytes are equal.
A new way to carry streams, such as WebSocket frames, is one more class here.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["HTTP_CHUNKS", "UNFRAMED", "Framing", "HTTPChunks", "Unframed"]


class Framing(abc.ABC):
    """Turns the bytes of encoded events into what goes on the wire."""

    @abc.abstractmethod
    def frame(self, pieces: Sequence[bytes]) -> bytes:
        """Return the bytes to write for `pieces`, one for each event, in this order.

        An empty piece is an event that this client does not get. If all are empty, return ``b""``:
        there is nothing to write.
        """


@dataclass(frozen=True, slots=True)
class HTTPChunks(Framing):
    """The chunks of an HTTP/1.1 body (RFC 9112 § 7.1): one chunk for all pieces."""

    def frame(self, pieces: Sequence[bytes]) -> bytes:
        """Return `pieces` as one chunk; ``b""`` if all are empty: an empty chunk ends the body."""
        joined = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return b"%x\r\n%b\r\n" % (len(joined), joined) if joined else b""


@dataclass(frozen=True, slots=True)
class Unframed(Framing):
    """The bytes without framing: it is added for each client when they are written (HTTP/2)."""

    def frame(self, pieces: Sequence[bytes]) -> bytes:
        """Return `pieces` joined."""
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


HTTP_CHUNKS = HTTPChunks()
UNFRAMED = Unframed()
