"""Compress with gzip for clients that ask for it, so that each write can be read at once.

The compressor is flushed at every write (a "sync flush" of zlib). Without that, the last rows would
wait for the next ones. A flush costs five bytes; when there is much data, writes are large and
flushes few.

A gzip stream ends with its length and a checksum. A stream that is cut has no such end. So a client
that only unpacks what it got also sees that something is missing.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["Gzip", "accepts_gzip", "gzip_headers", "is_gzip"]

Headers = list[tuple[bytes, bytes]]

# The level of the gzip program. Level 1 takes half the time, but its output for a table is a third
# larger.
_LEVEL = 6
_GZIP = 16 + zlib.MAX_WBITS

# RFC 9110 § 12.4.2.
_WEIGHT = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\Z")


class Gzip:
    """One client's stream of gzip. It takes some 270 KB of memory."""

    __slots__ = ("_deflate",)

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)

    def compress(self, data: bytes) -> bytes:
        """Return bytes from which the client can read all of `data` at once."""
        return self._deflate.compress(data) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        """Return the end of the stream, which proves to the client that it is complete."""
        return self._deflate.flush()


def accepts_gzip(scope: Mapping[str, Any]) -> bool:
    """Return whether the client asks for gzip (RFC 9110 § 12.5.3).

    A client that names no encoding, or that prefers the plain body, gets the plain body.
    """
    weights: dict[str, float] = {}
    for name, value in scope.get("headers", ()):
        if bytes(name).lower() == b"accept-encoding":
            for part in bytes(value).decode("latin-1").lower().split(","):
                coding, _, parameter = part.partition(";")
                weights[coding.strip()] = _weight(parameter)
    gzip = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0)))
    return gzip > 0 and gzip >= weights.get("identity", 0.0)


def _weight(parameter: str) -> float:
    """Return the weight of a coding, from 0 to 1; 0 if it can't be parsed."""
    if not parameter.strip():
        return 1.0
    name, _, value = parameter.partition("=")
    weight = value.strip()
    return float(weight) if name.strip() == "q" and _WEIGHT.match(weight) else 0.0


def gzip_headers(headers: Headers) -> Headers | None:
    """Return `headers` for the same response in gzip; None if the response can't be compressed.

    It can't be compressed if it is encoded already. Nor can a range be: it counts the bytes of the
    plain file.
    """
    if any(name in (b"content-encoding", b"content-range") for name, _ in headers):
        return None
    kept = [
        (name, _weak(value) if name == b"etag" else value)
        for name, value in headers
        if name not in (b"content-length", b"accept-ranges")
    ]
    return [*kept, (b"content-encoding", b"gzip")]


def is_gzip(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether `headers` are those of a response in gzip."""
    return (b"content-encoding", b"gzip") in headers


def _weak(etag: bytes) -> bytes:
    """Return `etag` as a weak one, which does not promise the same bytes (RFC 9110 § 8.8.1)."""
    return etag if etag.startswith(b"W/") else b"W/" + etag
