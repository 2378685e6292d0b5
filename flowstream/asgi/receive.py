"""A request's ``receive`` that a producer and the stream can both use.

Somebody must go on calling ``receive()`` while a stream runs: it is where the client's
disconnect arrives, and a server whose queue of messages is full stops reading its socket
and never sees the client leave. But ``receive()`` also brings the request's body, which the
producer may be reading at the same time. So the stream drains what it is given; a producer
that reads the body itself shares the callable::

    async def app(scope, receive, send):
        receive = SharedReceive(receive)

        async def upper():
            more = True
            while more:
                message = await receive()
                more = message.get("more_body", False)
                yield message.get("body", b"").upper()

        await raw(upper)(scope, receive, send)

In Quart there is nothing to do: it keeps the body apart by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import trio

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_BACKLOG_BYTES = 1 << 16


class SharedReceive:
    """An ASGI ``receive`` for one reader of the body beside the stream that serves it.

    Messages of the body wait here for the reader, up to 64 KiB; beyond that the upload is
    held back, as it would be without a stream in between. If nobody has ever read by then,
    nobody is going to: the body is thrown away, so that the disconnect behind it is seen.

    Args:
        receive: the server's ``receive``.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._backlog: deque[Message] = deque()
        self._size = 0
        self._was_read = False
        self._discarded = False
        self._gone = False
        self._changed = trio.Event()

    async def __call__(self) -> Message:
        """Return the next message of the body; ``http.disconnect`` once the client is gone.

        Raises:
            RuntimeError: the body was thrown away, because it was not read in time.
        """
        self._was_read = True
        while not self._backlog:
            if self._discarded:
                raise RuntimeError("the request's body was not read in time, and thrown away")
            if self._gone:
                return {"type": "http.disconnect"}
            await self._changed.wait()
        message = self._backlog.popleft()
        self._size -= len(message.get("body", b""))
        self._change()
        return message

    async def disconnected(self) -> None:
        """Wait until the client has gone, keeping the body for its reader meanwhile."""
        while True:
            while self._size >= _BACKLOG_BYTES and self._was_read:
                await self._changed.wait()
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._gone = True
                self._change()
                return
            if self._size >= _BACKLOG_BYTES and not self._was_read:
                self._discarded = True
                self._backlog.clear()
            if not self._discarded:
                self._backlog.append(message)
                self._size += len(message.get("body", b""))
                self._change()

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


async def wait_disconnected(receive: Receive) -> None:
    """Wait until the client has gone; a body that comes before that is thrown away."""
    if isinstance(receive, SharedReceive):
        await receive.disconnected()
        return
    while (await receive())["type"] != "http.disconnect":
        pass
