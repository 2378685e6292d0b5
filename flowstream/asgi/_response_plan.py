"""ResponsePlan: the HTTP response around a stream, checked before there is a client.

It has what only HTTP has: the status, the headers, the content coding, and the answer to a client
that gets no body. The `Plan` says what is delivered in the body.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypedDict

from flowstream.asgi._disposition import attachment
from flowstream.asgi.plan import Plan, described
from flowstream.limits import check_positive
from flowstream.sources import Source
from flowstream.sources._feed import Feed

Headers = Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]]
OnReconnect = Literal["refuse", "restart"]
Compression = Literal["gzip"]

_STREAM_HEADERS = (
    # no-transform: RFC 9111 § 5.2.2.6; proxies that compress a stream also buffer it.
    # no-store: Chromium reads a response that it might cache (also with "no-cache") into memory as
    # fast as it comes, however slowly the page reads. The server would never notice a slow reader.
    (b"cache-control", b"no-cache, no-transform, no-store"),
    # nginx buffers a proxied response unless this says no.
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
)

STREAM_HEADER_NAMES = frozenset(
    {b"content-type", b"content-disposition", *(name for name, _ in _STREAM_HEADERS)}
)
"""The names of headers that every stream has, and that make no sense without a body."""

# The server frames the body and owns the connection (RFC 9110 § 7.6.1, RFC 9113 § 8.2.2).
# A length or a framing from the app would break the response.
_FORBIDDEN_HEADERS = (
    b"content-length",
    b"transfer-encoding",
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"upgrade",
)

# RFC 9110 § 5.1 and § 5.5: a name is a token; a value is text without control characters, except
# TAB. The server's own check would come too late, when the response is under way.
_HEADER_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_HEADER_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


class ResponseOptions(TypedDict, total=False):
    """The keywords of `stream` that are about the HTTP response."""

    status: int
    headers: Headers
    filename: str | None
    compress: Compression | None
    prime: float | None
    on_reconnect: OnReconnect


@dataclass(frozen=True, slots=True)
class ResponsePlan:
    """The HTTP response around a stream."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    """All headers, names in lower case, as they are without a content coding."""
    compress: Compression | None
    """The content coding for the clients that ask for it."""
    prime: float | None
    """Seconds to wait for the first item before the head goes out; None to wait for nothing."""
    on_reconnect: OnReconnect
    """What a client gets that comes back to a source that can't go on where it was."""


def make_response_plan(
    plan: Plan,
    *,
    status: int = 200,
    headers: Headers = (),
    filename: str | None = None,
    compress: Compression | None = None,
    prime: float | None = None,
    on_reconnect: OnReconnect = "refuse",
) -> ResponsePlan:
    """Return the plan of the response around `plan`; `stream` says what the arguments mean.

    Raises:
        TypeError, ValueError: an argument is not what it should be.
    """
    if prime is not None:
        check_positive("prime", prime, unit="seconds")
        if plan.is_feed:
            raise TypeError(
                "a topic or a run cannot be primed: nobody knows when its next event comes"
            )
    if on_reconnect not in ("refuse", "restart"):
        raise ValueError(f"on_reconnect must be 'refuse' or 'restart', not {on_reconnect!r}")
    if compress not in (None, "gzip"):
        raise ValueError(f"compress must be 'gzip', or None for nothing, not {compress!r}")
    own = _own_headers(headers, filename, compress)
    return ResponsePlan(
        status=_check_status(_own_status(plan.source) if status == 200 else status),
        headers=_merge_headers(plan, own, None if compress else plan.length),
        compress=compress,
        prime=prime,
        on_reconnect=on_reconnect,
    )


def _check_status(status: int) -> int:
    if isinstance(status, bool) or not isinstance(status, int):
        raise TypeError(f"status must be an int, not {described(status)}")
    if not 200 <= status <= 599 or status in (204, 205, 304):
        raise ValueError(f"status must be from 200 to 599 and allow a body, not {status}")
    return status


def _own_status(source: Source | Feed) -> int:
    status = source.status if isinstance(source, Source) else None
    return 200 if status is None else status


def _own_headers(
    given: Headers, filename: str | None, compress: Compression | None
) -> list[tuple[bytes, bytes]]:
    """Return the app's headers: those it gave, and those that its other arguments add."""
    if given == () and filename is None and compress is None:
        return []
    own = [_check_header(pair) for pair in _pairs(given)]
    if filename is not None:
        if any(name == b"content-disposition" for name, _ in own):
            raise ValueError("give filename= or the header Content-Disposition, not both")
        own.append((b"content-disposition", attachment(filename).encode()))
    if compress is not None:
        # Tell caches that not every client gets the same bytes.
        own.append((b"vary", b"accept-encoding"))
    return own


def _merge_headers(
    plan: Plan, own: list[tuple[bytes, bytes]], length: int | None
) -> tuple[tuple[bytes, bytes], ...]:
    """Return all headers: the app's, and the defaults of those that it does not set."""
    theirs = plan.source.headers if isinstance(plan.source, Source) else ()
    base = _headers_of(plan.encoder.media_type, plan.encoder.headers)
    if theirs:
        base = (*base, *map(_check_header, theirs))
    if not own and length is None:
        return base
    names = {name for name, _ in own}
    merged = (*(pair for pair in base if pair[0] not in names), *own)
    return merged if length is None else (*merged, (b"content-length", b"%d" % length))


@lru_cache(maxsize=64)  # nearly all streams of an app have the same headers
def _headers_of(
    media_type: str, further: tuple[tuple[str, str], ...]
) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers of a stream in a format with this media type and `further` headers."""
    media = (b"content-type", media_type.encode("latin-1"))
    return (media, *_STREAM_HEADERS, *map(_check_header, further))


def _pairs(given: Any) -> Iterable[Any]:
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise TypeError(
            f"headers must be a mapping, or pairs of name and value, not {described(given)}"
        )
    return given.items() if isinstance(given, Mapping) else given


def _check_header(pair: Any) -> tuple[bytes, bytes]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError(f"a header is a pair of name and value, not {pair!r}")
    name, value = _raw(pair[0]).lower(), _raw(pair[1]).strip(b" \t")
    if not _HEADER_NAME.fullmatch(name):
        raise ValueError(f"a header's name must be letters, digits and hyphens, not {pair[0]!r}")
    if not _HEADER_VALUE.fullmatch(value):
        raise ValueError(f"the header {pair[0]!r} has a control character in it: {pair[1]!r}")
    if name in _FORBIDDEN_HEADERS:
        raise ValueError(
            f"the header {pair[0]!r} is the server's, which knows what a stream needs: leave it out"
        )
    return name, value


def _raw(text: Any) -> bytes:
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str):
        raise TypeError(f"header names and values must be str or bytes, not {described(text)}")
    try:
        return text.encode("latin-1")  # the encoding of HTTP/1.1 headers; ASGI wants bytes
    except UnicodeEncodeError:
        raise ValueError(
            f"a header must be Latin-1 text, or bytes, not {text!r}; for a file's name there is "
            "filename=..., which writes it as filename*=UTF-8''..."
        ) from None
