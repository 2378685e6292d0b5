"""NDJSON: one JSON value in each line, for clients that read a response with fetch() or curl.

A plain value is written as it is, and any reader of JSON lines understands it. An event with an
id, a type or a key becomes the envelope ``{"type", "id", "data"}``, since the format itself has no
place for these. So there are no automatic ids: they would put every value into an envelope.

The heartbeat is an empty line. The NDJSON specification lets readers skip it, and all common ones
do.
"""

from __future__ import annotations

from typing import Any

from flowstream.encoders._controls import ControlEncoder, control_envelope

__all__ = ["NDJSON"]

_LF = 10  # `10 in line` is one memchr; `b"\n" in line` costs four times as much


class NDJSON(ControlEncoder):
    """Newline-delimited JSON (``application/x-ndjson``).

    It writes dataclasses, attrs objects, Structs, pydantic models, mappings, dates, UUIDs, enums,
    paths, numpy's arrays and more; decimals and fractions as text, bytes in base64, and NaN and
    the infinities as ``null``. To a client, an app's value with a ``"type"`` member looks like an
    envelope. If it could be taken for a control event, rename that control event.

    Args:
        names: control events to rename, e.g. ``{"gap": "lost"}``.
        encode: a function for the app's own types. It gets a value, and returns what to write in
            its place, or raises TypeError (as the one for `json.dumps` does). It is called for
            everything but `msgspec.Raw`, and plain `str`, `int`, `float`, `bool`, None, `list`,
            `tuple` and `dict`.
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

        A `key` itself is not sent. Its events are updates of one thing among others, and the
        envelope tells them from plain values. `retry` belongs to SSE, and is left out.

        Raises:
            TypeError: if JSON has no form for something in `data`.
            UnicodeEncodeError: if a text in it has a lone surrogate.
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

        ``"id"`` and ``"retry"`` are left out if they are None.

        Raises:
            ValueError: if `name` is not one of the control events, or `retry` is negative.
        """
        return self._line(control_envelope(self.wire_name(name), body, id=id, retry=retry))

    def _line(self, value: object) -> bytes:
        try:
            line = self._write(value)
        except TypeError:
            line = self._json.rewrite(value)
        # Only msgspec.Raw, which is copied unchanged, can have a line break. In JSON a line break
        # can only be between two tokens, where a space means the same.
        if _LF in line:
            line = line.replace(b"\n", b" ")
        return line + b"\n"
