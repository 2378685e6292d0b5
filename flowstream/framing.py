"""Framing: how a stream's bytes are cut on the wire.

A server frames what a stream sends through it. A direct write goes past the server, so whoever
publishes frames the bytes: once for all clients that get the same format in the same framing.

A framing is a value, like an encoder: it has no state, and compares and hashes by what it makes.
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
        """Return what is written for `pieces`, one for each event, in this order.

        A piece without bytes is an event that this client does not get. If all are so, there is
        nothing to write, and nothing is returned.
        """


@dataclass(frozen=True, slots=True)
class HTTPChunks(Framing):
    """The chunks of an HTTP/1.1 body (RFC 9112 § 7.1): one chunk for all pieces."""

    def frame(self, pieces: Sequence[bytes]) -> bytes:
        """Return `pieces` as one chunk; nothing for no bytes, since that chunk ends the body."""
        joined = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return b"%x\r\n%b\r\n" % (len(joined), joined) if joined else b""


@dataclass(frozen=True, slots=True)
class Unframed(Framing):
    """The bytes alone: whoever writes them frames them for each client, as over HTTP/2."""

    def frame(self, pieces: Sequence[bytes]) -> bytes:
        """Return `pieces` in a row."""
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


HTTP_CHUNKS = HTTPChunks()
UNFRAMED = Unframed()
