"""Direct write: a publisher writes to the socket of a client that waits, and wakes no task.

Between a stream and its connection stand the functions that frameworks and middleware put
around ``send``. A direct write skips them. So it is allowed only while two things are certain of a
response:

* **Nothing of the response is on its way.** The stream reports each body that it hands to ``send``,
  and the server reports each message that comes out. A direct write is allowed while everything
  has come out: the very same objects, in order, in a body that is sent in chunks, and nothing
  else. If something changes, adds, swallows or replaces a message, direct writes end for good. If
  something delays a message, they wait until it has arrived.
* **Nobody writes to the socket right now.** The connection says so, with `block` and `free`.

A publisher asks ten thousand connections in a row. To look at several objects would cost more than
the write, because they are not in the processor's cache. So one number has both answers: the file
descriptor, which is -1 while a direct write is not possible.

A function that only looks at messages, or changes only some of them, can't be recognised here.
That is the job of `flowstream.asgi._between`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, cast

from flowstream.asgi._request import Live, in_state
from flowstream.framing import HTTP_CHUNKS, Framing

DIRECT_WRITE_KEY = "flowstream.direct_write"
"""The key of a request's `DirectWrite` in its state."""

# How many messages may be on their way at once. One middleware with a queue holds two, and several
# of those may stand one behind the other.
_ON_THE_WAY = 16

# Each of these headers says that the body is not sent in chunks, or not as the stream made it.
_OTHER_BODY = frozenset({b"content-length", b"transfer-encoding", b"content-encoding"})

_HEAD = object()  # stands for the status line and headers in `_due`


class NotDirect(StrEnum):
    """Why publishers do not write to a stream's connection: a closed set of sentences."""

    NOT_BEGUN = "the stream has not begun"
    NO_PUBLISHER = "its source is not a topic or a run"
    SWITCHED_OFF = "direct=False was given"
    FILTER = "it has a filter (where=)"
    MAX_BYTES = "it has a bound in bytes (Limits.max_bytes)"
    FORMAT = "its format keeps state or begins with a header of its own"
    OTHER_SERVER = "it is not served by flowstream's own server"
    ENCRYPTED = "the connection is encrypted by the server (TLS)"
    HTTP_VERSION = "only HTTP/1.1 and HTTP/2 are written to directly"
    BETWEEN = "middleware that flowstream does not know may change what is sent"
    OTHER_BODY = "the body is not sent in chunks, as the stream made it"
    CHANGED = "middleware has changed, added or withheld something of what was sent"
    ENDED = "the response has ended"


class DirectWrite(Live):
    """The direct writes to one response on an HTTP/1.1 connection. Subclasses are for others.

    Args:
        fd: the connection's socket.
        keep: called with the rest when the kernel takes only a part of a write. It must call
            `block`, and write the rest before anything else.

    Attributes:
        framing: how the bytes for `write` are framed; None if there are no direct writes at all.
        why_not: why direct writes have ended for good; None while there may be some.
    """

    __slots__ = (
        "_arriving",
        "_due",
        "_fd",
        "_free",
        "_keep",
        "_socket",
        "_whole",
        "framing",
        "why_not",
    )

    def __init__(self, fd: int, keep: Callable[[bytes], None]) -> None:
        self._socket = fd
        self._keep = keep
        self._fd = -1  # `_socket`, while a direct write is allowed
        self._free = False  # nobody else writes to the socket
        self._whole = False  # all of the response that was sent has arrived, with some body
        self._due: tuple[object, ...] = (_HEAD,)  # what is on its way, in order
        self._arriving = 0  # messages that the server is writing
        self.framing: Framing | None = HTTP_CHUNKS
        self.why_not: NotDirect | None = None

    @classmethod
    def impossible(cls, why_not: NotDirect) -> DirectWrite:
        """Return one that never writes, for a connection without direct writes."""
        none = cls(-1, _keep_nothing)
        none.framing = None
        none.end(why_not)
        return none

    def write(self, data: bytes) -> bool:
        """Write framed bytes, and return True; return False if nothing was written.

        If the kernel takes only a part, the rest goes to `keep`. Nothing is written while a direct
        write is not allowed, when the kernel takes nothing, or when the connection has ended.
        """
        fd = self._fd
        if fd < 0:
            return False
        try:
            sent = os.write(fd, data)
        except OSError:  # nothing fits, or the peer is gone, which the connection's reader notices
            return False
        if sent < len(data):
            self._keep(data[sent:])
        return True

    # -- what the stream calls -------------------------------------------------------------

    def hand_over(self, body: bytes) -> None:
        """Note a body that the stream is about to send."""
        self._set(whole=False)
        if self.why_not is not None:
            return
        if len(self._due) < _ON_THE_WAY:
            self._due = (*self._due, body)
        else:
            self.end(NotDirect.CHANGED)

    # -- what the server calls -------------------------------------------------------------

    def arrive(self, message: Mapping[str, Any]) -> None:
        """Note a message that the server is about to write, whoever sent it."""
        self._set(whole=False)
        self._arriving += 1
        if self.why_not is not None:
            return
        if message.get("type") == "http.response.start":
            came: object = _HEAD
            if not _is_chunked(message):
                self.end(NotDirect.OTHER_BODY)
        elif message.get("type") == "http.response.body":
            came = message.get("body")
            if not message.get("more_body"):
                self.end(NotDirect.ENDED)
        else:
            came = None
        if self._due and self._due[0] is came:
            self._due = self._due[1:]
        else:
            self.end(NotDirect.CHANGED)

    def arrived(self, message: Mapping[str, Any]) -> None:
        """Note that the server has written the message."""
        self._arriving -= 1
        # After the head alone the server may not have written anything yet.
        self._set(whole=not self._due and not self._arriving and "body" in message)

    def end(self, why_not: NotDirect = NotDirect.ENDED) -> None:
        """End direct writes for good.

        Call this before the socket is closed, because the system gives its number to another.
        """
        self._fd = self._socket = -1
        self._due = ()
        if self.why_not is None:
            self.why_not = why_not

    # -- what the connection calls ---------------------------------------------------------

    def block(self) -> None:
        """Allow no direct write: somebody else writes to the socket, or is about to."""
        self._free = False
        self._fd = -1

    def free(self) -> None:
        """Allow direct writes again: nobody else writes to the socket."""
        self._free = True
        if self._whole:
            self._fd = self._socket

    def _set(self, *, whole: bool) -> None:
        self._whole = whole
        self._fd = self._socket if whole and self._free else -1


def direct_write_of(scope: Mapping[str, Any]) -> DirectWrite:
    """Return the `DirectWrite` of this request's response, usable or not."""
    found = cast("DirectWrite | None", in_state(scope, DIRECT_WRITE_KEY))
    return _NOT_OURS if found is None else found


def _is_chunked(head: Mapping[str, Any]) -> bool:
    """Return whether the body that follows this head is sent in chunks, as the stream made it."""
    headers = head.get("headers", ())
    return (
        isinstance(headers, (list, tuple))  # an iterator would be empty for the server
        and head["status"] not in (204, 304)
        and not head.get("trailers")
        and _OTHER_BODY.isdisjoint(name.lower() for name, _ in headers)
    )


def _keep_nothing(rest: bytes) -> None:
    raise AssertionError("nothing was written")


_NOT_OURS = DirectWrite.impossible(NotDirect.OTHER_SERVER)
