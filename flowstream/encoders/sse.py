"""SSE: server-sent events, the format of the browser's EventSource.

It follows WHATWG HTML § 9.2. Three of its rules shape this file:

* § 9.2.5: a line ends at CR, LF or CRLF. Data that has one of them becomes several ``data:``
  lines, and the client gets an LF for each. (U+2028 and the other line ends that `str.splitlines`
  knows are ordinary characters here.)
* § 9.2.6: a parser drops an event without a ``data:`` line; the line may be empty. So there is
  always one, and the empty string arrives as an empty string.
* § 9.2.6: the parser drops one space after the colon. So there is always one, and data that begins
  with a space keeps it.

Everything, JSON included, is put together as text and encoded once at the end: a search for a line
break costs 20 ns in a `str` and 100 ns in `bytes`, more than decoding and encoding again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flowstream._event import check_field, check_retry
from flowstream.encoders._controls import ControlEncoder

__all__ = ["SSE"]


class SSE(ControlEncoder):
    """Server-sent events (``text/event-stream``).

    A `str` is sent unchanged, anything else as the JSON that `NDJSON` writes. An event's type is
    the ``event:`` field; its key is not sent.

    Args:
        names, encode, big_integers: as `NDJSON` takes them.

    Raises:
        TypeError, ValueError: as `NDJSON` raises them.
    """

    media_type = "text/event-stream; charset=utf-8"
    automatic_ids = True

    def encode(
        self,
        data: Any,
        *,
        id: str | None = None,
        type: str | None = None,
        key: object = None,
        retry: int | None = None,
    ) -> bytes:
        """Return the bytes of one event, with the blank line that dispatches it.

        Raises:
            TypeError: if JSON has no form for something in `data`; if `id` or `type` is not a
                `str`, or `retry` not an `int`.
            ValueError: if `id` or `type` has CR, LF or NUL in it, or `retry` is negative.
            UnicodeEncodeError: if a text has a lone surrogate in it.
        """
        kind = data.__class__
        if kind is str:
            text = data
        elif kind is not dict and isinstance(data, str):
            # The characters: format() of an enum's member would give "Colour.RED".
            text = str.__str__(data)
        else:
            try:
                text = self._write(data).decode()
            except TypeError:
                text = self._json.rewrite(data).decode()
        # msgspec writes JSON in one line, except that it copies a msgspec.Raw. A line break in that
        # is white space between two tokens, so the text may be split there.
        if "\n" in text or "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\ndata: ")
        # isprintable() is false for CR, LF and NUL: one call of 35 ns clears every usual id.
        if id is not None and not (id.__class__ is str and id.isprintable()):
            id = str.__str__(check_field("id", id))
        if type is None and retry is None:
            if id is None:
                return f"data: {text}\n\n".encode()
            return f"id: {id}\ndata: {text}\n\n".encode()
        head = ""
        if type is not None:
            head = f"event: {str.__str__(check_field('type', type))}\n"
        if id is not None:
            head += f"id: {id}\n"
        if retry is not None:
            head += f"retry: {check_retry(retry)}\n"
        return f"{head}data: {text}\n\n".encode()

    def numbered(self, prefix: str) -> Callable[[Any, int], bytes]:
        """Return a function for plain values with numbered ids, at two thirds of `encode`'s cost.

        Raises:
            ValueError: if `prefix` has CR, LF or NUL in it.
        """
        head = f"id: {check_field('id', prefix)}"
        encode = self.encode

        def encode_numbered(data: Any, number: int) -> bytes:
            if data.__class__ is str and "\n" not in data and "\r" not in data:
                return f"{head}{number}\ndata: {data}\n\n".encode()
            return encode(data, id=f"{prefix}{number}")

        return encode_numbered

    def opening(self, retry: int | None) -> bytes:
        """Return a comment that shows client and proxies that the stream is open.

        Args:
            retry: milliseconds that a browser waits before it reconnects. None leaves the
                browser's own default, three seconds in most.
        """
        if retry is None:
            return b": connected\n\n"
        return f": connected\nretry: {check_retry(retry)}\n\n".encode()

    def heartbeat(self) -> bytes:
        """Return an empty comment; § 9.2.7 recommends one every 15 seconds or so."""
        return b":\n\n"

    def control(
        self, name: str, body: Any, *, id: str | None = None, retry: int | None = None
    ) -> bytes:
        """Return the control event `name`, under the name that the app gave it.

        The body is encoded like any data: an app's snapshot that is a `str` stays unchanged, and
        flowstream's own bodies, which are mappings, become JSON.

        Raises:
            ValueError: if `name` is not one of the control events.
        """
        return self.encode(body, id=id, type=self.wire_name(name), retry=retry)
