"""An application's inbox: the client's messages that it has not received yet.

It replaces Hypercorn's memory channel, whose bound also delays the disconnect. There, an
application that does not read its upload is not told that its client has left, and the connection
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

_CONNECT = "websocket.connect"

# Bytes that may wait: a window of HTTP/2 (RFC 9113 § 6.9.2), one read of HTTP/1.1. One message of
# any size is accepted.
_BYTES = 1 << 16

# How often an application may receive the disconnect under a cancelled scope.
_ENOUGH = 1000

# Bytes of a body that give one second back: Apache's MinRate. UMTS is two hundred times as fast.
_RATE = 500


class Inbox:
    """Messages for one application: up to `limit` of them or 64 KiB, and the disconnect.

    Args:
        kind: ``"http"`` or ``"websocket"``.
        limit: messages that may wait to be received.
        body_timeout: seconds that a request's body may keep `receive` waiting.

    Attributes:
        on_empty: called when the last waiting message was received.
        on_less: called when a message was received, or all were dropped.
        refuse: called when the body has taken too long. It answers the request; or it returns
            False if a response has begun, which then goes on.
        turn: if set, waits for a turn before a message is added.
        scope, since: the application's scope and start (``time.monotonic``), for the log.
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
        self._size = 0  # bytes of their data
        self._disconnect: Message | None = None
        self._complete = False  # the end of the request was put here
        self._half_closed = False
        self._closed = False
        self._times_told = 0
        self._changed: trio.Event | None = None  # while a task waits
        self._body_timeout = body_timeout if kind == "http" else math.inf
        self._body: BodyClock | None = None  # made when the application waits for the body
        self.refuse: Callable[[], Awaitable[bool]] | None = None
        self.on_empty: Callable[[], None] | None = None
        self.on_less: Callable[[], None] | None = None

    async def put(self, message: Message) -> None:
        """Add a message. **Wait** while there are too many, but never to add the disconnect.

        A message after the disconnect, or after `close`, is dropped. A WebSocket's first one is
        added at once: an application receives it before all else (ASGI's WebSocket events), also
        if its client leaves before there is a turn.
        """
        if message["type"] == self._default["type"]:
            self.disconnect(message)
            return
        if message["type"] == _CONNECT:
            self._messages.append(message)
            self._change()
            return
        size = _size(message)
        ends = message["type"] == "http.request" and not message.get("more_body")
        if self.turn is not None and (size or not ends):  # an end without data needs no turn
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
        """**Wait** for the next message and return it. The disconnect comes last, and repeats.

        A waiting message is returned even under a cancelled scope, which frameworks use to ask
        whether the client has left. An app that asks in an endless loop can still be cancelled.
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
        """**Wait** until there is room for another message, or no more are accepted."""
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
        """Add `message` or the ordinary disconnect, unless there is a disconnect already."""
        if self._disconnect is None:
            self._disconnect = message or self._default
            self._change()

    def half_close(self) -> None:
        """Note that the client sends nothing more, except for bytes that are on their way.

        The application gets it as a disconnect, after the end of its request.
        """
        self._half_closed = True
        if self._complete:
            self.disconnect()

    @property
    def is_empty(self) -> bool:
        """Whether no message waits. The disconnect does not count."""
        return not self._messages

    def drop(self) -> None:
        """Drop the waiting messages: the client has left in their middle."""
        self._messages.clear()
        self._size = 0
        self._change()
        if self.on_less is not None:
            self.on_less()

    def close(self) -> None:
        """Drop all messages, now and later: the application has returned."""
        self._closed = True
        self.drop()

    @property
    def size(self) -> int:
        """Bytes of the waiting messages."""
        return self._size

    @property
    def is_full(self) -> bool:
        """Whether the next message has to wait."""
        return len(self._messages) >= self._limit or self._size >= _BYTES

    @property
    def is_over(self) -> bool:
        """Whether no more messages are accepted: after the disconnect, or `close`."""
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
    """Counts how long a request's body may still keep its application waiting.

    A client that sends a head and then nothing, or a byte a minute, holds a connection and a task.
    nginx bounds the time between two reads (``client_body_timeout``, 60 s), and lets a byte a
    minute through. Apache also bounds the rate (``RequestReadTimeout``, 500 bytes a second). Here
    one number does both: waiting takes time from it, and arriving bytes give some back.

    It counts only while the application waits for the body. An application may read slowly.

    Args:
        timeout: seconds at the start, and at most.

    Attributes:
        left: seconds that the application may still wait.
    """

    __slots__ = ("_timeout", "left")

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self.left = timeout

    def waited(self, seconds: float) -> None:
        """Subtract the time that was spent waiting."""
        self.left = max(0.0, self.left - seconds)

    def arrived(self, size: int) -> None:
        """Give back time for `size` bytes."""
        self.left = min(self._timeout, self.left + size / _RATE)


def inbox_of(stream: Any) -> Inbox | None:
    """Return the inbox of a Hypercorn stream's application; None if none was called."""
    put = getattr(stream, "app_put", None)
    return None if put is None else put.__self__


def _size(message: Message) -> int:
    data = message.get("body") or message.get("bytes") or message.get("text") or b""
    # In a `str` one character may make each of the others take four bytes.
    return sys.getsizeof(data) if data.__class__ is str and not data.isascii() else len(data)
