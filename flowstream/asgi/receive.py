"""SharedReceive: a request's ``receive`` that a producer and the stream can both use.

While a stream runs it must keep calling ``receive()``, for two reasons: the call says when the
client has left, and a server whose queue of messages is full stops reading its socket. But
``receive()`` also returns the request's body, which the producer may want to read, and the stream
throws it away. So share the callable::

    async def app(scope, receive, send):
        receive = SharedReceive(receive)

        async def upper():
            more = True
            while more:
                message = await receive()
                more = message.get("more_body", False)
                yield message.get("body", b"").upper()

        await raw(upper)(scope, receive, send)

In Quart you need nothing of this, because it keeps the body separately.
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

# What a message costs besides its body. Without this, a client that uploads byte by byte (or in
# empty HTTP/2 DATA frames) would fill the memory long before it has sent 64 KiB.
_MESSAGE_BYTES = 256


class SharedReceive:
    """An ASGI ``receive`` for one reader of the body besides the stream.

    It keeps up to 64 KiB of the body for the reader. When that is full, the upload waits, as it
    would without a stream. If the reader has read nothing by then, the body is thrown away, so that
    a disconnect after it is noticed.

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
        self._watched = False  # `disconnected` receives, so that the reader need not
        self._turn = trio.Lock()  # around the server's receive, which returns a disconnect once
        self._changed = trio.Event()

    async def __call__(self) -> Message:
        """Return the next message of the body; ``http.disconnect`` once the client is gone.

        Raises:
            RuntimeError: the body was thrown away because it was not read in time.
        """
        self._was_read = True
        while not self._backlog:
            if self._discarded:
                raise RuntimeError("the request's body was not read in time, and thrown away")
            if self._gone:
                return {"type": "http.disconnect"}
            if self._watched:
                await self._changed.wait()
            else:
                await self._receive_one()
        message = self._backlog.popleft()
        self._size -= _cost(message)
        self._change()
        return message

    async def disconnected(self) -> None:
        """Wait until the client has left, and keep the body for its reader meanwhile."""
        self._watched = True
        try:
            while not self._gone:
                if self._size >= _BACKLOG_BYTES and self._was_read:
                    await self._changed.wait()
                else:
                    await self._receive_one()
        finally:
            self._watched = False
            self._change()  # from now on the reader receives itself

    async def _receive_one(self) -> None:
        async with self._turn:
            if not self._gone:
                self._keep(await self._receive())

    def _keep(self, message: Message) -> None:
        if message["type"] == "http.disconnect":
            self._gone = True
        elif self._size >= _BACKLOG_BYTES and not self._was_read:
            self._discarded = True
            self._backlog.clear()
            self._size = 0
        elif not self._discarded:
            self._backlog.append(message)
            self._size += _cost(message)
        self._change()

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def _cost(message: Message) -> int:
    return _MESSAGE_BYTES + len(message.get("body", b""))


async def wait_disconnected(receive: Receive) -> None:
    """Wait until the client has left; throw away a body that comes before that."""
    if isinstance(receive, SharedReceive):
        await receive.disconnected()
        return
    while (await receive())["type"] != "http.disconnect":
        pass
