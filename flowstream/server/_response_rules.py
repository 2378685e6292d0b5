"""Decide which response heads are sent, by their status and fields.

h11 refuses a bad field only as it writes it, and quotes its value, which may be a secret. h2 does
write it: clients then take a line break for a fault of the connection, and end all its streams. So
an application's head is checked before either sees it. The same rules hold for HTTP/1.1, HTTP/2 and
WebSockets, for interim responses and for trailers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from functools import lru_cache
from typing import Any

# RFC 9110 § 5.1.
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++")
# RFC 9110 § 5.5: a value with one of these could be read as two fields.
_BREAK = re.compile(rb"[\r\n\0]")
_BREAKS = {b"\r": "a carriage return", b"\n": "a line feed", b"\0": "a NUL"}
# What h11 sends. A 1xx needs another head after it, for which ASGI has no message.
_STATUSES = range(200, 1000)
_LONGEST = 100  # characters of a name that are quoted


class InvalidResponseError(ValueError):
    """An application's response can't be sent. The message names the field, never its value."""


def check_start(message: MutableMapping[str, Any]) -> None:
    """Check the head of a response.

    Raises:
        InvalidResponseError: the head can't be sent.
    """
    status: Any = message.get("status")
    try:
        number = int(status)
    except (TypeError, ValueError):
        raise InvalidResponseError(
            f"its status must be a number, not {type(status).__name__}"
        ) from None
    if number not in _STATUSES:
        raise InvalidResponseError(f"its status must be from 200 to 999, not {number}")
    check_fields(message)


def check_fields(message: MutableMapping[str, Any]) -> None:
    """Check the fields of a message.

    Raises:
        InvalidResponseError: one of them can't be sent.
    """
    fields = message.get("headers")
    if fields is None:
        return
    try:
        if isinstance(fields, Mapping):
            raise TypeError
        pairs = [(name, value) for name, value in fields]
    except (TypeError, ValueError):
        raise InvalidResponseError(
            "its headers must be pairs of a name and a value, such as (b'x-name', b'value')"
        ) from None
    if not isinstance(fields, (list, tuple)):
        message["headers"] = pairs  # an iterator can be read only once
    if not all(map(_is_fine, pairs)):
        _name_the_fault(pairs)
    lengths = {value for name, value in pairs if name.lower() == b"content-length"}
    if lengths and not (len(lengths) == 1 and all(value.strip().isdigit() for value in lengths)):
        raise InvalidResponseError("its header content-length must be one number of bytes")


def check_links(message: MutableMapping[str, Any]) -> None:
    """Check the links of an early hint.

    Raises:
        InvalidResponseError: one of them can't be sent.
    """
    links: Iterable[Any] = message.get("links") or ()
    check_fields({"headers": [(b"link", link) for link in links]})


CHECKS: dict[str, Callable[[MutableMapping[str, Any]], None]] = {
    "http.response.start": check_start,
    "http.response.trailers": check_fields,
    "http.response.push": check_fields,
    "http.response.early_hint": check_links,
    "websocket.accept": check_fields,
    "websocket.http.response.start": check_start,
}
"""How each message with fields is checked, by its type."""


def _is_fine(pair: tuple[Any, Any]) -> bool:
    name, value = pair
    return (
        type(name) is bytes
        and type(value) is bytes
        and _is_name(name)
        and _BREAK.search(value) is None
    )


@lru_cache(maxsize=512)
def _is_name(name: bytes) -> bool:
    # Hypercorn strips names.
    return _NAME.fullmatch(name.strip()) is not None


def _name_the_fault(pairs: list[tuple[Any, Any]]) -> None:
    for name, value in pairs:
        if not isinstance(name, bytes):
            raise InvalidResponseError(
                f"a header's name must be bytes, not {type(name).__name__}"
                + (f": write b{name[:_LONGEST]!r}" if isinstance(name, str) else "")
            )
        quoted = name.decode("latin-1")[:_LONGEST]
        if not _is_name(name):
            raise InvalidResponseError(
                f"{quoted!r} is not a header name: it may have letters, digits and !#$%&'*+-.^_`|~"
            )
        if not isinstance(value, bytes):
            raise InvalidResponseError(
                f"the value of its header {quoted!r} must be bytes, not {type(value).__name__}"
            )
        if found := _BREAK.search(value):
            raise InvalidResponseError(
                f"its header {quoted!r} has {_BREAKS[found[0]]} in its value"
            )
