"""Transport: what carries one stream's bytes to its client.

The writer knows no more of a connection than this, and its stream not much more. So a stream can
go over whatever has these methods: an HTTP response (`HTTPTransport`) is the first.

The methods are called in this order: `open_direct` if publishers may write past the writer, as far
as the stream knows; `begin`; any number of `write` and `flush`; `end` if all of the stream was
written; `cut` and `flush` in any case. After `withdraw` nothing is called but `cut` and `flush`,
and they then do nothing that the client could see.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from flowstream.asgi._direct_write import NotDirect


class Transport(Protocol):
    """What carries one stream's bytes to its client."""

    @property
    def takes_pieces(self) -> bool:
        """Whether a `write` may end inside an event, because the client sees one row of bytes.

        A transport of messages says no: each of its messages has whole events.
        """
        ...

    @property
    def holds_back(self) -> bool:
        """Whether what was begun may wait for the first bytes, until `flush` is called."""
        ...

    @property
    def direct(self) -> Callable[[bytes], bool] | None:
        """Writes framed bytes past the writer, without waiting; None if publishers may not.

        Returns whether it wrote them.
        """
        ...

    @property
    def why_not_direct(self) -> NotDirect | None:
        """Why publishers may not write past the writer; None while they may."""
        ...

    def open_direct(self, given: bool | None, app: Any) -> None:
        """Decide whether there is `direct`.

        Args:
            given: what the stream says of it (``direct=``); None if it says nothing.
            app: the framework's app, if it is known; for the log.
        """

    async def begin(self) -> None:
        """**Wait** until the client is answered.

        Raises:
            Exception: the client has gone, or what stands between does not take the answer.
        """

    async def write(self, data: bytes) -> int:
        """**Wait** until `data` is handed over; return how many bytes it was, as they are sent.

        Raises:
            Exception: as `begin`.
        """
        ...

    async def flush(self) -> None:
        """**Wait** until what is held back is written, and hold nothing back any more."""

    async def end(self) -> int:
        """**Wait** until the end is written: all of the stream is there. Return its bytes.

        Raises:
            Exception: as `begin`.
        """
        ...

    def cut(self) -> None:
        """Say that no more comes: unless `end` was called, what the client got is not whole."""

    def withdraw(self) -> None:
        """Leave the answer to somebody else: none of this one has gone out."""
