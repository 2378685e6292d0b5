"""JSON text sequences: NDJSON with a mark in front of each text.

RFC 7464: a record separator (RS, 0x1E), which JSON does not use, begins each text, and a line feed
ends it. If a text is broken, a reader goes on at the next RS. A reader that starts in the middle of
a stream begins there, too. NDJSON's LF could serve for that only if no value had an LF inside.

The texts are those of `NDJSON`, envelopes and control events included.

The heartbeat is an RS alone. § 2.1: several of them in a row "do not denote empty sequence
elements between them and can be ignored". (Turned down: an LF. It is white space after a text, but
the grammar does not allow it before the first one.)
"""

from __future__ import annotations

from typing import Any

from flowstream.encoders.ndjson import NDJSON

__all__ = ["RS", "JSONSequence"]

RS = b"\x1e"
"""The record separator in front of each text."""


class JSONSequence(NDJSON):
    """A JSON text sequence (``application/json-seq``, RFC 7464): `NDJSON` with marks.

    Args:
        names, encode, big_integers: as `NDJSON` takes them.

    Raises:
        TypeError, ValueError: as `NDJSON` raises them.
    """

    media_type = "application/json-seq"

    def encode(
        self,
        data: Any,
        *,
        id: str | None = None,
        type: str | None = None,
        key: object = None,
        retry: int | None = None,
    ) -> bytes:
        """Return one element: an RS, then what `NDJSON.encode` returns.

        Raises:
            TypeError, UnicodeEncodeError: as `NDJSON.encode` raises them.
            ValueError: if a `msgspec.Raw` in it has an RS, which would end the element.
        """
        return _marked(super().encode(data, id=id, type=type, key=key, retry=retry))

    def heartbeat(self) -> bytes:
        """Return an RS without a text."""
        return RS

    def control(
        self, name: str, body: Any, *, id: str | None = None, retry: int | None = None
    ) -> bytes:
        """Return a control event: an RS, then what `NDJSON.control` returns.

        Raises:
            ValueError: as `NDJSON.control` raises it.
        """
        return _marked(super().control(name, body, id=id, retry=retry))


def _marked(line: bytes) -> bytes:
    # msgspec writes an RS as \u001e. Only a msgspec.Raw, which is copied unchanged, can have one.
    if RS in line:
        raise ValueError("ready-made JSON must not contain a record separator (0x1E)")
    return RS + line
