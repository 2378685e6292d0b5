"""Make the ASGI scope of a request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, cast
from urllib.parse import quote, unquote

ASGIApp = Callable[[Any, Any, Any], Awaitable[Any]]
HeaderPairs = Iterable[tuple[str | bytes, str | bytes]]


def http_scope(
    path: str,
    *,
    method: str,
    headers: Mapping[str, str] | HeaderPairs,
    query_string: bytes,
    http_version: str,
    state: Mapping[str, Any] | None,
) -> dict[str, Any]:
    path, _, query = path.partition("?")
    if query and query_string:
        raise ValueError("give the query in path or as query_string, not in both")
    raw_path = quote(path, safe="/%:@!$&'()*+,;=~-._")
    pairs = cast(HeaderPairs, headers.items() if isinstance(headers, Mapping) else headers)
    raw_headers = [(_latin(name).lower(), _latin(value)) for name, value in pairs]
    if not any(name == b"host" for name, _ in raw_headers):
        raw_headers.insert(0, (b"host", b"localhost"))
    return {
        "type": "http",
        # As Hypercorn. From 2.4 on, a server raises OSError from `send` after a disconnect, and
        # frameworks look at this number to know whether it does.
        "asgi": {"version": "3.0", "spec_version": "2.1"},
        "http_version": http_version,
        "method": method,
        "scheme": "http",
        "path": unquote(raw_path),
        "raw_path": raw_path.encode("ascii"),
        "query_string": query_string or query.encode("ascii"),
        "root_path": "",
        "headers": raw_headers,
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        "state": dict(state or {}),
        "extensions": {},
    }


def _latin(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")
