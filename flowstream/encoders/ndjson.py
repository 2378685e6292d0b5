"""NDJSON: one JSON value in each line, for clients that read a response with fetch() or curl.

The format has no place for an envelope, so it is made only when there is something to put
in it: a plain value is written verbatim, which any reader of JSON lines understands, and an
event with an id, a type or a key becomes ``{"type", "id", "data"}``. No automatic ids
therefore: they would put every value of every stream into an envelope.

An empty line is the heartbeat; the NDJSON specification lets readers skip it, and all that
matter do.
"""

from __future__ import annotations

from typing import Any

from flowstream.encoders._controls import ControlEncoder, control_envelope

__all__ = ["NDJSON"]

_LF = 10  # `10 in line` is one memchr; `b"\n" in line` costs four times as much


class NDJSON(ControlEncoder):
    """Newline-delimited JSON (``application/x-ndjson``).

    It writes dataclasses, attrs objects, Structs, pydantic models, mappings, dates, UUIDs, enums,
    paths, arrays of numpy's and more; decimals and fractions as text, bytes in base64, and NaN and
    the infinities as ``null``. A value of the app's that has a ``"type"`` member looks like an
    envelope to a client; where that could be taken for a control event, rename the latter.

    Args:
        names: control events to rename, e.g. ``{"gap": "lost"}``.
        encode: a function for types of the app's own: given such a value, it returns what to write
            in its place, and raises TypeError for any other (as one for `json.dumps` does). It
            is asked about all but `msgspec.Raw`, and plain `str`, `int`, `float`, `bool`, None,
            `list`, `tuple` and `dict`.
        big_integers: ``"string"`` writes whole numbers beyond 2⁵³ - 1 as text, since JavaScript
            would round them.

    Raises:
        TypeError: if `encode` is not a function.
        TypeError, ValueError: if `names` has an unknown key, an unusable name, or the same
            name twice; or if `big_integers` is neither ``"number"`` nor ``"string"``.
    """

    media_type = "application/x-ndjson"

    def encode(
        self,
        data: Any,
        *,
        id: str | None = None,
        type: str | None = None,
        key: object = None,
        retry: int | None = None,
    ) -> bytes:
        """Return one line: `data`, or an envelope if `id`, `type` or `key` is given.

        A `key` is not sent itself, but its events are updates of one thing among others, and
        those are told from plain values by the envelope. `retry` belongs to SSE and is left
        out.

        Raises:
            TypeError: if JSON has no form for something in `data`.
            ValueError: if a text in it has a lone surrogate (it is a `UnicodeEncodeError`).
        """
        if id is None and type is None and key is None:
            return self._line(data)
        envelope: dict[str, Any] = {}
        if type is not None:
            envelope["type"] = type
        if id is not None:
            envelope["id"] = id
        envelope["data"] = data
        return self._line(envelope)

    def heartbeat(self) -> bytes:
        """Return an empty line."""
        return b"\n"

    def control(
        self, name: str, body: Any, *, id: str | None = None, retry: int | None = None
    ) -> bytes:
        """Return the line ``{"type": name, "id": id, "retry": ms, "data": body}``.

        ``"id"`` and ``"retry"`` are there only if they are given.

        Raises:
            ValueError: if `name` is not one of the control events, or `retry` is negative.
        """
        return self._line(control_envelope(self.wire_name(name), body, id=id, retry=retry))

    def _line(self, value: object) -> bytes:
        try:
            line = self._write(value)
        except TypeError:
            line = self._json.rewrite(value)
        # Only msgspec.Raw, which is copied as it is, can bring a line break in here. In JSON it
        # can stand only between two tokens, where a space means the same.
        if _LF in line:
            line = line.replace(b"\n", b" ")
        return line + b"\n"
