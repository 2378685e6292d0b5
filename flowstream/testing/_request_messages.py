"""The messages that an app receives of one request: its body, then the client's disconnect."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing, nullcontext
from typing import Any

import trio

# As Hypercorn's `max_app_queue_size`: how many messages of a request's body may wait for the app.
_MAX_WAITING = 10


class RequestMessages:
    """The queue between a client that sends a request and the app's ``receive``.

    Attributes:
        left: whether the client has left. It sends nothing more.
    """

    def __init__(self) -> None:
        self.left = False
        self._waiting: deque[dict[str, Any]] = deque()
        self._changed = trio.lowlevel.ParkingLot()
        self._feeding = trio.CancelScope()

    def put_body(self, body: bytes) -> None:
        """Give the app the whole body at once."""
        if body:
            self._waiting.append({"type": "http.request", "body": body, "more_body": True})
        self._waiting.append({"type": "http.request", "body": b"", "more_body": False})

    async def feed(self, body: AsyncIterable[bytes]) -> None:
        """Give the app the body in pieces, at most a few messages ahead of it.

        **Waits** until the app has taken enough. **Ends** with the body, or when the client leaves.
        """
        closing = aclosing(body) if isinstance(body, AsyncGenerator) else nullcontext()
        with self._feeding:
            async with closing:
                async for data in body:
                    await self._put({"type": "http.request", "body": data, "more_body": True})
                await self._put({"type": "http.request", "body": b"", "more_body": False})

    def leave(self) -> None:
        """Give the app its one ``http.disconnect``, after the messages that it has not taken."""
        if not self.left:
            self.left = True
            self._feeding.cancel()
            self._waiting.append({"type": "http.disconnect"})
            self._changed.unpark_all()

    async def receive(self) -> dict[str, Any]:
        """**Wait** for the next message, and return it: the app's ``receive``."""
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            await self._changed.park()
        message = self._waiting.popleft()
        self._changed.unpark_all()
        return message

    async def _put(self, message: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        while len(self._waiting) >= _MAX_WAITING:
            await self._changed.park()
        self._waiting.append(message)
        self._changed.unpark_all()
