"""Hold back a response's head until the first bytes of the body, so that both go out in one write.

A write to a new connection costs more than making the bytes. A stream that begins often has its
first bytes together with its head. So it calls `hold` before it sends the head, and `release`
before it waits for anything. So a silent source does not delay the head.

The server decides when to write: the first byte after a held head takes the head along. If
middleware delays the head, it is written when it arrives.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from flowstream.asgi._request import Live, in_state

HEAD_KEY = "flowstream.head"
"""Where a request's state has its `HeldHead`."""


class HeldHead(Live):
    """The head of the response that a connection, or one HTTP/2 stream of it, is about to send.

    Args:
        write: writes what is held; called by `release` alone.

    Attributes:
        is_wanted: the stream has more to send at once. The server asks this.
        is_held: the server holds a head.
    """

    __slots__ = ("_write", "is_held", "is_wanted")

    def __init__(self, write: Callable[[], Awaitable[None]]) -> None:
        self._write = write
        self.is_wanted = False
        self.is_held = False

    def hold(self) -> None:
        """Have a head that comes now wait for the bytes behind it, or for `release`."""
        self.is_wanted = True

    async def release(self) -> None:
        """Have the head written, if it still waits, and hold none any more."""
        self.is_wanted = False
        if self.is_held:
            self.is_held = False
            await self._write()


def head_of(scope: Mapping[str, Any]) -> HeldHead:
    """Return the head of the response to this request; under other servers none is held."""
    found = cast("HeldHead | None", in_state(scope, HEAD_KEY))
    return HeldHead(_nothing_held) if found is None else found


async def _nothing_held() -> None:
    raise AssertionError("nobody else's server holds a head")
