"""Read plain requests with one pattern, which is stricter than h11, and without h11.

Nearly every stream begins with a GET that came whole, has no body and asks for no other protocol.
One pattern is enough to read it. If the pattern does not match, that is no error: h11 reads the
request, and decides what is refused.

So the pattern need not be lenient. It matches a part of what h11 accepts, and reads it in the same
way: ``tests/server/http1/test_plain_requests.py`` compares the two. The rules for the target and
the host are those of all requests.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from flowstream.server._request_rules import is_host, is_target

_NAME = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"  # RFC 9110 § 5.6.2
_VALUE = rb"[\t -~\x80-\xff]*+"
_FIELD = re.compile(rb"(%b):(%b)\r\n" % (_NAME, _VALUE))
# RFC 9112 § 3 and § 5. The quantifiers are possessive, so the time is linear in the length.
_HEAD = re.compile(rb"GET ([!-~]++) HTTP/1\.1\r\n((?:%b:%b\r\n)++)\r\n" % (_NAME, _VALUE))

# Fields which say that a body follows, or that the client asks for another protocol.
_NOT_PLAIN = frozenset(
    {b"content-length", b"transfer-encoding", b"expect", b"upgrade", b"http2-settings"}
)


class PlainRequest(NamedTuple):
    """The head of a GET over HTTP/1.1, with no bytes after it, that keeps the connection."""

    target: bytes
    """Path and query, unchanged."""
    headers: list[tuple[bytes, bytes]]
    """Names in lower case, and values."""


# Bytes of the shortest field: a name, a colon and the line's end.
_SHORTEST = 4


def read_plain(data: bytes, most_fields: int) -> PlainRequest | None:
    """Return the request if `data` is one whole plain request; else None.

    A request with more fields than `most_fields` is not read, and gives None.
    """
    if len(data) > _SHORTEST * most_fields and data.count(b"\n") > most_fields + 2:
        return None
    head = _HEAD.fullmatch(data)
    if head is None or not is_target(head[1]):
        return None
    target, block = head.groups()
    headers = [(name.lower(), value.strip()) for name, value in _FIELD.findall(block)]
    hosts = 0
    for name, value in headers:
        if name == b"host":
            hosts += 1
            if not is_host(value):
                return None
        elif name in _NOT_PLAIN or (name == b"connection" and value.lower() != b"keep-alive"):
            return None
    return PlainRequest(target, headers) if hosts == 1 else None
