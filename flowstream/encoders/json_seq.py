"""JSON text sequences: NDJSON whose texts also have a mark in front of them.

RFC 7464: each text stands between a record separator (RS, 0x1E), which JSON has no use for,
and a line feed. If a text is broken, a reader goes on at the next RS, and a reader that starts in
the middle of a stream begins there. In NDJSON the LF would do for that only if no value had an LF
inside.

The texts are those that `NDJSON` writes, the envelopes and control events included.

The heartbeat is an RS alone. § 2.1: several of them in a row "do not denote empty sequence
elements between them and can be ignored". (Turned down: an LF, which is white space behind a
text, but stands nowhere in the grammar before the first one.)
"""

from __future__ import annotations

from typing import Any

from flowstream.encoders.ndjson import NDJSON

__all__ = ["RS", "JSONSequence"]

RS = b"\x1e"
"""The record separator that stands in front of each text."""


class JSONSequence(NDJSON):
    """A JSON text sequence (``application/json-seq``, RFC 7464): `NDJSON`, with marks.

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
        """Return one element: what `NDJSON.encode` returns, behind an RS.

        Raises:
            TypeError: if JSON has no form for something in `data`.
            ValueError: if a text in it has a lone surrogate (it is a `UnicodeEncodeError`),
                or if a `msgspec.Raw` in it has an RS, which would end the element.
        """
        return _marked(super().encode(data, id=id, type=type, key=key, retry=retry))

    def heartbeat(self) -> bytes:
        """Return an RS that no text follows."""
        return RS

    def control(
        self, name: str, body: Any, *, id: str | None = None, retry: int | None = None
    ) -> bytes:
        """Return a control event: what `NDJSON.control` returns, behind an RS.

        Raises:
            ValueError: if `name` is not one of the control events, or `retry` is negative.
        """
        return _marked(super().control(name, body, id=id, retry=retry))


def _marked(line: bytes) -> bytes:
    # msgspec writes an RS as \u001e; only a msgspec.Raw, which is copied as it is, can have one.
    if RS in line:
        raise ValueError("ready-made JSON must not contain a record separator (0x1E)")
    return RS + line
