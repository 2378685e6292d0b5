"""A response's head that waits for the first of its body, so that both go out in one write.

A write to a new connection costs more than making what is written. A stream that begins has its
first bytes in the same moment as its head, or never knows when they come. So it says `hold` before
it sends the head, and `release` before it waits for anything: a silent source delays no head.

The server has the last word on when to write: any byte behind a held head takes it along. A
middleware that delays the head has it written when it comes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from flowstream.asgi._live import Live, in_state

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
