"""Hold back a response's head until the first bytes of the body, so that both go out in one write.

A write to a new connection costs more than making the bytes, and a stream often has its first bytes
when it sends its head. So it calls `hold` before it sends the head, and `release` before it waits
for anything. A silent source therefore does not delay the head.

The server does the holding: the first bytes after a held head take the head along. If middleware
delays the head, it is written when it arrives.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from flowstream.asgi._request import Live, in_state

HEAD_KEY = "flowstream.head"
"""The key of a request's `HeldHead` in its state."""


class HeldHead(Live):
    """The head of the response that a connection, or one HTTP/2 stream of it, is about to send.

    Args:
        write: writes the head that is held; only `release` calls it.

    Attributes:
        is_wanted: whether the server is to hold the head: the stream has more to send at once.
        is_held: whether the server holds a head.
    """

    __slots__ = ("_write", "is_held", "is_wanted")

    def __init__(self, write: Callable[[], Awaitable[None]]) -> None:
        self._write = write
        self.is_wanted = False
        self.is_held = False

    def hold(self) -> None:
        """Hold the head that is sent next until the first bytes come, or until `release`."""
        self.is_wanted = True

    async def release(self) -> None:
        """**Wait** until the head is written, if one is held. Hold none from now on."""
        self.is_wanted = False
        if self.is_held:
            self.is_held = False
            await self._write()


def head_of(scope: Mapping[str, Any]) -> HeldHead:
    """Return the `HeldHead` of the response to this request; other servers hold no head."""
    found = cast("HeldHead | None", in_state(scope, HEAD_KEY))
    return HeldHead(_nothing_held) if found is None else found


async def _nothing_held() -> None:
    raise AssertionError("nobody else's server holds a head")
