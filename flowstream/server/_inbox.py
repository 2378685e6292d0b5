"""What a client has sent and its application has not yet received.

In place of Hypercorn's memory channel, whose bound holds for the disconnect, too: behind an
upload that an application does not read it neither hears that its client is gone, nor does
the connection get past telling it, even when the application has long returned.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import trio

Message = dict[str, Any]

_DISCONNECTS = ("http.disconnect", "websocket.disconnect")


class Inbox:
    """Messages for one application: `limit` of them, and the disconnect.

    Args:
        limit: messages that may wait to be received.
    """

    __slots__ = ("_changed", "_closed", "_disconnect", "_limit", "_messages")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._messages: deque[Message] = deque()
        self._disconnect: Message | None = None
        self._closed = False
        self._changed = trio.Event()

    async def put(self, message: Message) -> None:
        """Add a message; **wait** while there are too many, but not to add the disconnect.

        What comes after the disconnect or after `close` is dropped.
        """
        if message["type"] in _DISCONNECTS:
            if self._disconnect is None:
                self._disconnect = message
                self._change()
            return
        while len(self._messages) >= self._limit and not self._over:
            await self._changed.wait()
        if not self._over:
            self._messages.append(message)
            self._change()

    async def receive(self) -> Message:
        """Return the next message; **wait** for it. The disconnect comes last, and again.

        What is there is returned without a checkpoint, so that a framework that asks under a
        cancelled scope whether the client has gone is told so.
        """
        while not self._messages:
            if self._disconnect is not None:
                if self._closed:
                    await trio.lowlevel.checkpoint()
                return self._disconnect
            await self._changed.wait()
        message = self._messages.popleft()
        self._change()
        return message

    def close(self) -> None:
        """Drop what is there and what is yet to come: the application has returned."""
        self._closed = True
        self._messages.clear()
        self._change()

    @property
    def _over(self) -> bool:
        return self._closed or self._disconnect is not None

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
