"""What a client has sent and its application has not yet received.

It replaces Hypercorn's memory channel, whose bound also holds back the disconnect. There, an
application that does not read an upload does not hear that its client has left, and the connection
waits to tell it, even when the application has long returned.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import trio

Message = dict[str, Any]

_DISCONNECTS: dict[str, Message] = {
    "http": {"type": "http.disconnect"},
    "websocket": {"type": "websocket.disconnect", "code": 1006},  # RFC 6455 § 7.1.5
}

# What may wait beside the number of messages: a window of HTTP/2 (RFC 9113 § 6.9.2), one
# read of HTTP/1.1. One message of any size gets in.
_BYTES = 1 << 16

# So often an application may ask for the disconnect under a cancelled scope.
_ENOUGH = 1000

# Bytes of a body that give back a second: Apache's MinRate. Two hundred times slower than UMTS.
_RATE = 500


class Inbox:
    """Messages for one application: `limit` of them or 64 KiB, and the disconnect.

    Args:
        kind: ``"http"`` or ``"websocket"``.
        limit: messages that may wait to be received.
        body_timeout: seconds that a request's body may keep `receive` waiting.

    Attributes:
        on_empty: called when the last message that is here was received.
        on_less: called when there is less here: a message was received, or all were dropped.
        refuse: called when it was too late: answers the request, and returns False if a response
            has begun, which is not to be ended by that.
        turn: waits for the turn to add a message, if there are turns.
        scope: the application's, and since when it runs (``time.monotonic``); for the log.
    """

    __slots__ = (
        "_body",
        "_body_timeout",
        "_changed",
        "_closed",
        "_complete",
        "_default",
        "_disconnect",
        "_half_closed",
        "_limit",
        "_messages",
        "_size",
        "_times_told",
        "on_empty",
        "on_less",
        "refuse",
        "scope",
        "since",
        "turn",
    )

    def __init__(self, kind: str, limit: int, body_timeout: float = math.inf) -> None:
        self._default = _DISCONNECTS[kind]
        self.scope: Any = None
        self.since: float = 0.0
        self.turn: Callable[[], Awaitable[None]] | None = None
        self._limit = limit
        self._messages: list[Message] = []  # few: a deque would take ten times the memory
        self._size = 0  # bytes of what they carry
        self._disconnect: Message | None = None
        self._complete = False  # the request has been put to its end
        self._half_closed = False
        self._closed = False
        self._times_told = 0
        self._changed: trio.Event | None = None  # while somebody waits
        self._body_timeout = body_timeout if kind == "http" else math.inf
        self._body: BodyClock | None = None  # once the application has waited for it
        self.refuse: Callable[[], Awaitable[bool]] | None = None
        self.on_empty: Callable[[], None] | None = None
        self.on_less: Callable[[], None] | None = None

    async def put(self, message: Message) -> None:
        """Add a message; **wait** while there are too many, but not to add the disconnect.

        What comes after the disconnect or after `close` is dropped.
        """
        if message["type"] == self._default["type"]:
            self.disconnect(message)
            return
        size = _size(message)
        ends = message["type"] == "http.request" and not message.get("more_body")
        if self.turn is not None and (size or not ends):  # a bare end is in its request's turn
            await self.turn()
        if self.is_full:
            await self.until_room()
        if self.is_over:
            return
        self._messages.append(message)
        self._size += size
        if self._body is not None:
            self._body.arrived(size)
        self._complete = ends
        if self._complete and self._half_closed:
            self.disconnect()
        self._change()

    def complete(self) -> None:
        """Add the end of a request that has no body."""
        self._messages.append({"type": "http.request", "body": b"", "more_body": False})
        self._complete = True
        if self._half_closed:
            self.disconnect()

    async def receive(self) -> Message:
        """Return the next message; **wait** for it. The disconnect comes last, and again.

        What is there is returned even under a cancelled scope, in which frameworks ask whether
        the client has gone. An app that asks for ever can be cancelled in the end.
        """
        while not self._messages:
            if self._disconnect is not None:
                self._times_told += 1
                if self._times_told > _ENOUGH:
                    await trio.lowlevel.checkpoint()
                elif self._times_told > 1:
                    await trio.lowlevel.cancel_shielded_checkpoint()
                return self._disconnect
            if self._complete or self._body_timeout == math.inf:
                await self._wait()
            else:
                await self._wait_for_body()
        message = self._messages.pop(0)
        self._size -= _size(message)
        if message.get("text").__class__ is bytes:  # see `Pieces`
            message["text"] = message["text"].decode()
        self._change()
        if self.on_less is not None:
            self.on_less()
        if self.on_empty is not None and not self._messages:
            self.on_empty()
        return message

    async def until_room(self) -> None:
        """Wait until another message has room here, or none is wanted any more."""
        while self.is_full and not self.is_over:
            await self._wait()

    async def _wait_for_body(self) -> None:
        if self._body is None:
            self._body = BodyClock(self._body_timeout)
        body = self._body
        since = trio.current_time()
        with trio.move_on_after(body.left) as scope:
            await self._wait()
        body.waited(trio.current_time() - since)
        if scope.cancelled_caught and not self._messages and self._disconnect is None:
            if self.refuse is not None and await self.refuse():
                self.disconnect()
            else:
                self._body_timeout = math.inf

    def disconnect(self, message: Message | None = None) -> None:
        """Add the disconnect, unless there is one: `message`, or the ordinary one."""
        if self._disconnect is None:
            self._disconnect = message or self._default
            self._change()

    def half_close(self) -> None:
        """Note that the client sends nothing more than what is on its way.

        It is told as a disconnect, and as such goes behind a request that is still coming.
        """
        self._half_closed = True
        if self._complete:
            self.disconnect()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is here to be received but, perhaps, the disconnect."""
        return not self._messages

    def drop(self) -> None:
        """Drop what is there: the client has left in the middle of it."""
        self._messages.clear()
        self._size = 0
        self._change()
        if self.on_less is not None:
            self.on_less()

    def close(self) -> None:
        """Drop what is there and what is yet to come: the application has returned."""
        self._closed = True
        self.drop()

    @property
    def size(self) -> int:
        """Bytes of what is here to be received."""
        return self._size

    @property
    def is_full(self) -> bool:
        """Whether the next message has to wait."""
        return len(self._messages) >= self._limit or self._size >= _BYTES

    @property
    def is_over(self) -> bool:
        """Whether nothing more is taken: the disconnect is here, or the app has returned."""
        return self._closed or self._disconnect is not None

    async def _wait(self) -> None:
        if self._changed is None:
            self._changed = trio.Event()
        await self._changed.wait()

    def _change(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None


class BodyClock:
    """How long a request's body may still keep its application waiting.

    A client that sends a head and then nothing, or a byte a minute, holds a connection and a task.
    nginx bounds the time between two reads (``client_body_timeout``, 60 s), which a byte a minute
    passes. Apache bounds the rate as well (``RequestReadTimeout``, 500 bytes a second). Here one
    number does both: time spent waiting is taken from it, and what arrives gives some back.

    It runs only while the application waits for the body. One that reads slowly has its own
    reasons.

    Args:
        timeout: seconds to begin with, and at most.

    Attributes:
        left: seconds for which the application may still wait.
    """

    __slots__ = ("_timeout", "left")

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self.left = timeout

    def waited(self, seconds: float) -> None:
        """Take the time that was spent waiting."""
        self.left = max(0.0, self.left - seconds)

    def arrived(self, size: int) -> None:
        """Give back time for `size` bytes."""
        self.left = min(self._timeout, self.left + size / _RATE)


def inbox_of(stream: Any) -> Inbox | None:
    """Return the inbox of the application behind a stream of Hypercorn's, if it was asked."""
    put = getattr(stream, "app_put", None)
    return None if put is None else put.__self__


def _size(message: Message) -> int:
    data = message.get("body") or message.get("bytes") or message.get("text") or b""
    # One character may make each of a text take four bytes.
    return sys.getsizeof(data) if data.__class__ is str and not data.isascii() else len(data)
