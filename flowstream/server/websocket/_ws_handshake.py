"""Check a WebSocket's handshake, and answer it.

`is_valid` checks a request before the application is called (RFC 6455 § 4.2.1; for HTTP/2 RFC 8441
§ 5, which has no key). Hypercorn checks few of the rules, and raises at others, so that the client
gets no answer and the log a traceback: a header with bytes beyond ASCII, an extension with nonsense
for a number, a key of any length. Of a list in several lines it reads only the last line.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable

from wsproto.handshake import server_extensions_handshake
from wsproto.utilities import generate_accept_token

from flowstream.server._hypercorn import Handshake
from flowstream.server.websocket._message_bound import MessageBound

Headers = Iterable[tuple[bytes, bytes]]

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_TOKENS = re.compile(rb"\s*%b\s*(,\s*%b\s*)*" % (_TOKEN, _TOKEN))
_KEY_BYTES = 16  # RFC 6455 § 4.1, item 7
_ONCE = {b"sec-websocket-key", b"sec-websocket-version"}  # § 11.3.1, § 11.3.5
# Lists, which may come in several lines (RFC 9110 § 5.3, RFC 6455 § 9.1 and § 11.3.4).
_LISTS = {b"connection", b"sec-websocket-extensions", b"sec-websocket-protocol"}


def combined(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return the headers with each list joined into one line, in the place of its first line."""
    found: list[tuple[bytes, bytes]] = []
    places: dict[bytes, int] = {}
    for name, value in headers:
        key = name.lower()
        if key in places:
            first, values = found[places[key]]
            found[places[key]] = (first, values + b", " + value)
            continue
        if key in _LISTS:
            places[key] = len(found)
        found.append((name, value))
    return found


def is_valid(headers: Headers, http_version: str) -> bool:
    """Return whether these headers may ask for a WebSocket: well formed, and without a body."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        key = name.lower()
        if key == b"transfer-encoding" or (key == b"content-length" and value.strip(b"0")):
            return False  # a proxy on the way would take the frames for a body
        if _is_of_handshake(key):
            found.setdefault(key, []).append(value)
    if any(len(values) > 1 for name, values in found.items() if name in _ONCE):
        return False
    if not all(value.isascii() for values in found.values() for value in values):
        return False
    if not all(_TOKENS.fullmatch(value) for value in found.get(b"sec-websocket-protocol", ())):
        return False
    return http_version != "1.1" or _is_key(*found.get(b"sec-websocket-key", [b""]))


def without(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Remove the handshake's headers, so that Hypercorn refuses the request."""
    return [(name, value) for name, value in headers if not _is_of_handshake(name.lower())]


def answer(
    handshake: Handshake, subprotocol: str | None, headers: Headers, bound: MessageBound
) -> tuple[int, list[tuple[bytes, bytes]]]:
    """Agree on the extensions, and return the status and the headers that accept the WebSocket.

    Raises:
        ValueError: the application chose a subprotocol that was not offered, or passed a header
            that belongs to the handshake.
    """
    answered = []
    if subprotocol is not None:
        if subprotocol not in (offered := handshake.subprotocols or []):
            raise ValueError(
                f"websocket.accept: subprotocol must be one that the client offered "
                f"({', '.join(offered) or 'none'}), not {subprotocol!r}"
            )
        answered.append((b"sec-websocket-protocol", subprotocol.encode()))
    if handshake.extensions is not None:
        accepted = server_extensions_handshake(handshake.extensions, [bound])
        if accepted:
            answered.append((b"sec-websocket-extensions", accepted))
    status = 200
    if handshake.http_version == "1.1":
        assert handshake.key is not None  # is_valid
        answered += [
            (b"sec-websocket-accept", generate_accept_token(handshake.key)),
            (b"upgrade", b"WebSocket"),
            (b"connection", b"Upgrade"),
        ]
        status = 101
    for name, value in headers:
        if name == b"sec-websocket-protocol" or name.startswith(b":"):
            raise ValueError(
                f"websocket.accept: the server sets the header {name.decode('latin-1')}; write "
                "subprotocol=… for the protocol"
            )
        answered.append((name, value))
    handshake.accepted = True
    return status, answered


def _is_of_handshake(name: bytes) -> bool:
    return name == b"connection" or name.startswith(b"sec-websocket-")


def _is_key(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key.strip(), validate=True)) == _KEY_BYTES
    except binascii.Error:
        return False
