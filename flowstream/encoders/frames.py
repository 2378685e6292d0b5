"""Frames: length-prefixed binary frames, for audio, images, protobuf and Arrow.

::

    frame     = length kind body        length: big-endian, counts kind and body
              | zero-length             a heartbeat: nothing but a length of 0

    kind "B"    the body is the item: unchanged bytes
    kind "J"    the body is the item as JSON
    kind "E"    the body is ``{"type", "id"}`` of the item in the next frame, as JSON
    kind "C"    the body is one of flowstream's own events, in `NDJSON`'s JSON

The length comes first, so that every network library that splits length-prefixed frames can split
these. The kind byte marks control events: without it a client could not tell an ``end`` from an
item that looks like one, and a stream that was cut between two frames would look complete. The
kinds are letters, so that a hex dump can be read.

Values that are not bytes are sent as JSON, since a browser reads JSON without a library. An app
that wants MessagePack passes bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowstream._event import check_field
from flowstream.encoders._controls import ControlEncoder, control_envelope
from flowstream.encoders._json import BigIntegers, Encode

__all__ = ["BYTES", "CONTROL", "ENVELOPE", "JSON", "PREFIXES", "Frames"]

BYTES, JSON, ENVELOPE, CONTROL = b"B", b"J", b"E", b"C"

PREFIXES = (2, 4, 8)
"""The sizes of a length, in bytes. One byte would be too short for some control events."""


class Frames(ControlEncoder):
    """Length-prefixed binary frames (``application/vnd.flowstream.frames``).

    Bytes are sent unchanged, anything else as the JSON that `NDJSON` writes. A frame in front of
    the item has its id and type; its key and retry are not sent. A client reads the frames with
    `flowstream.decoders.FramesDecoder`, or by the table on top of this file.

    Args:
        prefix: bytes of each length: 2, 4 or 8. It bounds the size of an item: with 4,
            the default, to 4 GiB.
        media_type: the value of ``Content-Type``; by default one that names the prefix.
        names, encode, big_integers: as `NDJSON` takes them.

    Raises:
        ValueError: if `prefix` is not one of the three, or `media_type` is not ASCII text.
        TypeError, ValueError: for the other arguments, as `NDJSON` raises them.
    """

    def __init__(
        self,
        *,
        prefix: int = 4,
        media_type: str | None = None,
        names: Mapping[str, str] = {},
        encode: Encode | None = None,
        big_integers: BigIntegers = "number",
    ) -> None:
        super().__init__(names=names, encode=encode, big_integers=big_integers)
        if prefix not in PREFIXES or isinstance(prefix, bool):
            raise ValueError(f"prefix must be 2, 4 or 8 bytes, not {prefix!r}")
        if media_type is None:
            media_type = f"application/vnd.flowstream.frames; prefix={prefix}"
        elif not check_field("media_type", media_type) or not media_type.isascii():
            raise ValueError(f"media_type must be ASCII and not empty: {media_type!r}")
        self.media_type = media_type
        self._prefix = prefix
        self._longest = (1 << 8 * prefix) - 1

    def encode(
        self,
        data: Any,
        *,
        id: str | None = None,
        type: str | None = None,
        key: object = None,
        retry: int | None = None,
    ) -> bytes:
        """Return the frame of one item, after the frame of its envelope if it has one.

        Raises:
            TypeError, UnicodeEncodeError: if `data` is not bytes, as `NDJSON.encode` raises them.
            ValueError: if it is too long for the prefix.
        """
        if isinstance(data, (bytes, bytearray, memoryview)):
            frame = self._frame(BYTES, bytes(data))
        else:
            frame = self._frame(JSON, self._to_json(data))
        if id is None and type is None:
            return frame
        envelope = {"type": type, "id": id}
        given = {name: value for name, value in envelope.items() if value is not None}
        return self._frame(ENVELOPE, self._to_json(given)) + frame

    def heartbeat(self) -> bytes:
        """Return a length of 0."""
        return bytes(self._prefix)

    def control(
        self, name: str, body: Any, *, id: str | None = None, retry: int | None = None
    ) -> bytes:
        """Return a control frame: ``{"type": name, "id": id, "retry": ms, "data": body}``.

        Raises:
            ValueError: if `name` is not one of the control events, `retry` is negative, or
                the frame is too long for the prefix.
        """
        envelope = control_envelope(self.wire_name(name), body, id=id, retry=retry)
        return self._frame(CONTROL, self._to_json(envelope))

    def _to_json(self, value: object) -> bytes:
        try:
            return self._write(value)
        except TypeError:
            return self._json.rewrite(value)

    def _frame(self, kind: bytes, body: bytes) -> bytes:
        length = 1 + len(body)
        if length > self._longest:
            raise ValueError(f"{len(body)} bytes are too long for a length of {self._prefix} bytes")
        return b"".join((length.to_bytes(self._prefix, "big"), kind, body))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Frames) or type(other) is not type(self):
            return NotImplemented
        same = (self._prefix, self.media_type) == (other._prefix, other.media_type)
        return same and self._wire_names == other._wire_names and self._json == other._json

    def __hash__(self) -> int:
        return hash((self._hash, self._prefix, self.media_type))

    def __repr__(self) -> str:
        given = {"prefix": self._prefix, "media_type": self.media_type, **self._json.options()}
        return f"Frames({', '.join(f'{name}={value!r}' for name, value in given.items())})"
