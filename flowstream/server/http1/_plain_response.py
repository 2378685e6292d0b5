"""Frame the response to a plain request: without h11 if the response is plain too, else with it.

A response is plain if the server cuts its body into chunks and keeps the connection. Its head
is then the status, the app's fields, the server's own, and one more. h11 would check and copy the
fields three times.

Both ways give the same bytes: ``tests/server/http1/test_plain_requests.py`` compares them.
"""

from __future__ import annotations

import re
from functools import lru_cache
from time import time
from typing import Any

import h11

from flowstream.framing import HTTP_CHUNKS

Fields = list[tuple[bytes, bytes]]

# RFC 9110 § 5.1 and § 5.5. If one does not match, h11 decides.
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++")
_VALUES = re.compile(rb"[\t -~\x80-\xff]*+")

# With one of these the body is framed in another way, the connection may not be kept, or h11
# writes the field in another place.
_NOT_PLAIN = frozenset({b"content-length", b"transfer-encoding", b"connection", b"host"})

# The request that h11 is shown, whatever the plain request was: its response is the same.
_REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class ServerFields:
    """The fields that the server adds to each response, made once a second.

    Args:
        config: the server's configuration.
    """

    def __init__(self, config: Any) -> None:
        self._config = config
        self._second = -1
        self._fields: Fields = []
        self._block: bytes | None = None

    def fields(self) -> Fields:
        """Return the fields."""
        second = int(time())
        if second != self._second:
            self._fields = self._config.response_headers("h11")
            self._block = block(self._fields)
            self._second = second
        return self._fields

    def block(self) -> bytes | None:
        """Return the fields as bytes to send; None if h11 has to write them."""
        self.fields()
        return self._block


def block(fields: Fields) -> bytes | None:
    """Return `fields` as bytes to send; None if h11 has to write them."""
    for name, _ in fields:
        if not _is_plain_name(name):
            return None
    if not _VALUES.fullmatch(b"".join([value for _, value in fields])):
        return None
    return b"".join([b"%b: %b\r\n" % field for field in fields])


@lru_cache(maxsize=512)
def _is_plain_name(name: bytes) -> bool:
    return name.lower() not in _NOT_PLAIN and _NAME.fullmatch(name) is not None


class Chunked:
    """A body in chunks (RFC 9112 § 7.1)."""

    __slots__ = ("_ended",)

    def __init__(self) -> None:
        self._ended = False

    @staticmethod
    def head(status: int, fields: Fields, server: ServerFields) -> bytes | None:
        """Return the head; None if the response is not plain."""
        if not 200 <= status <= 599 or status in (204, 304):
            return None
        own, theirs = block(fields), server.block()
        if own is None or theirs is None:
            return None
        return b"HTTP/1.1 %d \r\n%b%bTransfer-Encoding: chunked\r\n\r\n" % (status, own, theirs)

    def body(self, data: bytes) -> bytes:
        """Return a piece of the body as it is sent."""
        return HTTP_CHUNKS.frame((data,))

    def end(self) -> bytes:
        """Return the bytes that end the body."""
        self._ended = True
        return b"0\r\n\r\n"

    @property
    def keeps(self) -> bool:
        """Whether the connection can be used again."""
        return self._ended


class FramedByH11:
    """A response that h11 frames.

    Raises:
        h11.LocalProtocolError: from each method: the application has sent what can't be sent.
    """

    __slots__ = ("_connection",)

    def __init__(self) -> None:
        self._connection = h11.Connection(h11.SERVER)
        self._connection.receive_data(_REQUEST)
        self._connection.next_event()
        self._connection.next_event()

    def head(self, status: int, fields: Fields) -> bytes:
        """Return the head, which may be that of an interim response."""
        kind = h11.InformationalResponse if status < 200 else h11.Response
        return self._sent(kind(status_code=status, headers=fields))

    def body(self, data: bytes) -> bytes:
        """Return a piece of the body as it is sent."""
        return self._sent(h11.Data(data=data))

    def end(self) -> bytes:
        """Return the bytes that end the body, which may be none."""
        return self._sent(h11.EndOfMessage())

    @property
    def keeps(self) -> bool:
        """Whether the connection can be used again."""
        return self._connection.our_state is h11.DONE

    def _sent(self, event: Any) -> bytes:
        return self._connection.send(event) or b""
