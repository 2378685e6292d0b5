"""Frame the response to a plain request: without h11 if the response is plain too, else with it.

A response is plain if the server keeps the connection, and either cuts the body into chunks or is
told its length. Its head is then the status, the app's fields and the server's own. h11 would check
and copy the fields three times.

Both ways give the same bytes and refuse the same bodies:
``tests/server/http1/test_plain_requests.py`` compares them.
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
_DIGITS = re.compile(rb"[0-9]{1,18}")

_LENGTH = b"content-length"

# With one of these the body is framed in another way, the connection may not be kept, or h11
# writes the field in another place.
_NOT_PLAIN = frozenset({b"transfer-encoding", b"connection", b"host"})

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


def begin(
    status: int, fields: Fields, server: ServerFields
) -> tuple[Chunked | Sized, bytes] | None:
    """Return the framing of a plain response, and its head; None if the response is not plain."""
    if not 200 <= status <= 599 or status in (204, 304):
        return None
    lengths = [value for name, value in fields if name.lower() == _LENGTH]
    if not lengths:
        framing: Chunked | Sized = Chunked()
        last = b"Transfer-Encoding: chunked\r\n"
    elif len(lengths) == 1 and _DIGITS.fullmatch(lengths[0]):
        framing, last = Sized(int(lengths[0])), b""
    else:
        return None
    own, theirs = block(fields), server.block()
    if own is None or theirs is None:
        return None
    return framing, b"HTTP/1.1 %d \r\n%b%b%b\r\n" % (status, own, theirs, last)


class Chunked:
    """A body in chunks (RFC 9112 § 7.1)."""

    __slots__ = ("keeps",)

    def __init__(self) -> None:
        self.keeps = False
        """Whether the connection can be used again: the body has ended."""

    def body(self, data: bytes) -> bytes:
        """Return a piece of the body as it is sent."""
        return HTTP_CHUNKS.frame((data,))

    def end(self) -> bytes:
        """Return the bytes that end the body."""
        self.keeps = True
        return b"0\r\n\r\n"


class Sized:
    """A body of a known length (RFC 9112 § 6.2).

    Args:
        length: bytes of the body.

    Raises:
        h11.LocalProtocolError: from both methods: the body has another length. It is what h11
            raises.
    """

    __slots__ = ("_left", "keeps")

    def __init__(self, length: int) -> None:
        self._left = length
        self.keeps = False
        """Whether the connection can be used again: the body has ended."""

    def body(self, data: bytes) -> bytes:
        """Return a piece of the body as it is sent."""
        self._left -= len(data)
        if self._left < 0:
            raise h11.LocalProtocolError("Too much data for declared Content-Length")
        return data

    def end(self) -> bytes:
        """Return the bytes that end the body: none."""
        if self._left:
            raise h11.LocalProtocolError("Too little data for declared Content-Length")
        self.keeps = True
        return b""


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
