"""Decide which requests are answered, by their method, target, version and host.

A proxy uses these to decide what a client may reach. So a request that a proxy and an application
could read differently is refused before any application is called. What nginx refuses is refused
here, and a few things more; ``tests/server/_request_probes.py`` has both verdicts side by side.

h11, h2 and aioquic have checked a request before: it has a host, its fields are well formed, and it
has each pseudo-header field once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

# Methods are case-sensitive (RFC 9110 § 9.1), and every registered one is in capitals.
_METHOD = re.compile(rb"[A-Z_-]+")
# Printable ASCII without "#": a client does not send the fragment (RFC 9112 § 3.2). In the path two
# hexadecimal digits follow each "%", and they are not 00.
_TARGET = re.compile(rb'(/(?:[!"$&->@-~]++|%(?!00)[0-9A-Fa-f]{2})*+)(?:\?[!"$-~]*+)?')
_ABSOLUTE = re.compile(rb"https?://([^/?]+)(.*)", re.IGNORECASE)
# RFC 3986 § 3.2.2, without characters that no real name has, and without a user (RFC 9110 § 4.2.4).
_HOST = re.compile(rb"(?:[A-Za-z0-9_-]++\.?)++(?::[0-9]*)?|\[[0-9A-Fa-f:.]++\](?::[0-9]*)?")
_SCHEMES = (b"http", b"https")
_VERSIONS = (b"1.1", b"1.0")


class RequestHead(NamedTuple):
    """A request without its body."""

    method: bytes
    target: bytes
    """What the client asks for: path and query, once the request is accepted."""
    http_version: bytes
    headers: list[tuple[bytes, bytes]]


def judge_http1(head: RequestHead) -> RequestHead | int:
    """Return the request for the application, or the status to refuse it with.

    The host of an absolute target replaces the header (RFC 9112 § 3.2.2).
    """
    if head.http_version not in _VERSIONS:
        return 505
    if head.method == b"CONNECT":
        return 501
    fields = {name.lower(): value for name, value in head.headers}
    if b"transfer-encoding" in fields and (
        b"content-length" in fields or head.http_version == b"1.0"
    ):
        return 400  # a proxy on the way may have used the other length (RFC 9112 § 6.1)
    host = fields.get(b"host")
    if not _METHOD.fullmatch(head.method) or not (host is None or is_host(host)):
        return 400
    if absolute := _ABSOLUTE.fullmatch(head.target):
        authority, target = absolute.groups()
        if not is_host(authority):
            return 400
        others = [(name, value) for name, value in head.headers if name.lower() != b"host"]
        head = head._replace(
            target=target if target.startswith(b"/") else b"/" + target,
            headers=[(b"host", authority), *others],
        )
    return head if is_target(head.target) else 400


def judge_http2(
    headers: Iterable[tuple[bytes, bytes]], *, ended: bool, most: int
) -> RequestHead | int:
    """Return a request of HTTP/2 or HTTP/3, or the status to refuse it with.

    Args:
        headers: those of the request, with its pseudo-header fields.
        ended: whether no body follows.
        most: how many fields it may have.
    """
    headers = list(headers)
    if len(headers) > most:
        return 431
    fields = dict(headers)
    head = RequestHead(fields.get(b":method", b""), fields.get(b":path", b""), b"2", headers)
    if head.method == b"CONNECT" and fields.get(b":protocol") != b"websocket":
        return 501  # RFC 9110 § 9.3.6, RFC 8441 § 4
    if b":protocol" in fields and head.method != b"CONNECT":
        return 400
    if not _METHOD.fullmatch(head.method) or fields.get(b":scheme") not in _SCHEMES:
        return 400
    hosts = [fields[name] for name in (b":authority", b"host") if name in fields]
    if not all(map(is_host, hosts)) or len(set(hosts)) > 1:
        return 400  # RFC 9113 § 8.3.1
    lengths = [value for name, value in headers if name == b"content-length"]
    if len(lengths) > 1 or not all(value.isdigit() for value in lengths):
        return 400
    if ended and any(value.strip(b"0") for value in lengths):
        return 400  # RFC 9113 § 8.1.1
    return head if is_target(head.target) else 400


def is_host(value: bytes) -> bool:
    """Return whether this is a host's name or address, with or without a port."""
    return _HOST.fullmatch(value) is not None


def is_target(target: bytes) -> bool:
    """Return whether this is a path, perhaps with a query, that stays below the root."""
    parts = _TARGET.fullmatch(target)
    return parts is not None and not _leads_above(parts[1])


def _leads_above(path: bytes) -> bool:
    if b"%" in path:
        path = unquote_to_bytes(path)
    if b"/.." not in path:
        return False
    depth = 0
    for segment in path.split(b"/"):
        if segment == b"..":
            depth -= 1
        elif segment not in (b"", b"."):
            depth += 1
        if depth < 0:
            return True
    return False
