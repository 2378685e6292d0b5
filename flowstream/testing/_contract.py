"""Check that an app keeps the ASGI rules for one response: values in, values out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

_NO_BODY = frozenset({204, 304})


class Headers(Mapping[str, str]):
    """The headers of a response: names in any case, values as text.

    The values of a header that was sent more than once are joined with ``", "`` (RFC 9110 § 5.3).
    `raw` has them separately, in the order of the app.
    """

    def __init__(self, raw: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self.raw: tuple[tuple[bytes, bytes], ...] = tuple(raw)
        self._values: dict[str, str] = {}
        for name, value in self.raw:
            key, text = name.decode("latin-1"), value.decode("latin-1")
            self._values[key] = f"{self._values[key]}, {text}" if key in self._values else text

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Headers({self._values!r})"


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """A checked ``http.response.start``."""

    status: int
    headers: Headers


class BodyChunk:
    """A checked ``http.response.body`` on its way to the client."""

    __slots__ = ("delivered", "final", "rest")

    def __init__(self, data: bytes, *, final: bool) -> None:
        self.rest = memoryview(data)
        self.final = final
        self.delivered = False


class Contract:
    """The ASGI rules of one response: messages in, checked values out, no `await`.

    It has three states, in this order: nothing sent, head sent, final chunk sent.

    Attributes:
        status: the status of the head; None before.
    """

    def __init__(self, method: str) -> None:
        self._method = method
        self._state = "before the response's start"
        self._bodiless = False
        self._promised: int | None = None
        self._sent = 0
        self.status: int | None = None

    @property
    def ended(self) -> bool:
        """Whether the final chunk was sent."""
        return self._state == "after the final chunk"

    def accept(self, message: Any) -> ResponseHead | BodyChunk:
        """Return the content of a message; raise `AssertionError` if it must not be sent."""
        if not isinstance(message, MutableMapping):
            raise AssertionError(f"an ASGI message is a dict, not {type(message).__name__}")
        kind = message.get("type")
        if kind == "http.response.start" and self._state == "before the response's start":
            return self._start(message)
        if kind == "http.response.body" and self._state == "within the body":
            return self._body(message)
        raise AssertionError(f"the app sent {kind!r} {self._state}")

    def _start(self, message: Mapping[str, Any]) -> ResponseHead:
        status = message.get("status")
        if type(status) is not int or not 200 <= status <= 999:
            raise AssertionError(f"status must be an int from 200 to 999, not {status!r}")
        headers = Headers(_checked_header(pair) for pair in message.get("headers", ()))
        self._bodiless = self._method == "HEAD" or status in _NO_BODY
        length = headers.get("content-length")
        if length is not None and not self._bodiless:
            if not (length.isascii() and length.isdigit()):
                raise AssertionError(f"content-length must be one whole number, not {length!r}")
            self._promised = int(length)
        self._state = "within the body"
        self.status = status
        return ResponseHead(status, headers)

    def _body(self, message: Mapping[str, Any]) -> BodyChunk:
        data, more = message.get("body", b""), message.get("more_body", False)
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise AssertionError(f"body must be bytes, not {type(data).__name__}")
        if not isinstance(more, bool):
            raise AssertionError(f"more_body must be a bool, not {type(more).__name__}")
        # Drop the body of an answer to HEAD, as servers do. Copy any other, because the app may
        # use its bytearray again.
        data = b"" if self._bodiless else bytes(data)
        self._sent += len(data)
        if self._promised is not None and (
            self._sent > self._promised or (self._sent < self._promised and not more)
        ):
            raise AssertionError(
                f"the app sent {self._sent} bytes, its content-length says {self._promised}"
            )
        if not more:
            self._state = "after the final chunk"
        return BodyChunk(data, final=not more)


def _checked_header(pair: Any) -> tuple[bytes, bytes]:
    try:
        name, value = pair
    except (TypeError, ValueError):
        raise AssertionError(f"a header is a pair of name and value, not {pair!r}") from None
    if not isinstance(name, bytes) or not isinstance(value, bytes):
        raise AssertionError(f"header names and values must be bytes: {pair!r}")
    if not name or name != name.lower() or name.startswith(b":"):
        raise AssertionError(f"header names must be lower-case and not pseudo: {name!r}")
    if any(char in name + value for char in b"\r\n\0"):
        raise AssertionError(f"a header must not contain CR, LF or NUL: {pair!r}")
    return name, value
