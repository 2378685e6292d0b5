"""Transport: what carries one stream's bytes to its client.

The writer knows a connection only through this interface. So anything with these methods can carry
a stream; an HTTP response (`HTTPTransport`) is the first.

The methods are called in this order:

1. `open_direct`, if the stream lets publishers write past the writer
2. `begin`
3. `write` and `flush`, any number of times
4. `end`, if the whole stream was written
5. `cut` and `flush`, always

After `withdraw` only `cut` and `flush` are called, and the client sees nothing of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from flowstream.asgi._direct_write import NotDirect


class Transport(Protocol):
    """What carries one stream's bytes to its client."""

    @property
    def takes_pieces(self) -> bool:
        """Whether a `write` may end inside an event: the client sees one sequence of bytes.

        A transport of messages says no, because each message holds whole events.
        """
        ...

    @property
    def holds_back(self) -> bool:
        """Whether the answer of `begin` may still wait for the first bytes, or for `flush`."""
        ...

    @property
    def direct(self) -> Callable[[bytes], bool] | None:
        """A function that writes framed bytes past the writer; None if publishers may not write.

        It does not wait, and returns whether it wrote them.
        """
        ...

    @property
    def why_not_direct(self) -> NotDirect | None:
        """Why publishers may not write past the writer; None while they may."""
        ...

    def open_direct(self, given: bool | None, app: Any) -> None:
        """Decide whether publishers may write past the writer (`direct`).

        Args:
            given: the stream's setting (``direct=``); None if it has none.
            app: the framework's app, if it is known; for the log.
        """

    async def begin(self) -> None:
        """**Wait** until the client is answered.

        Raises:
            Exception: the client has gone, or middleware refused the answer.
        """

    async def write(self, data: bytes) -> int:
        """**Wait** until `data` is handed over; return its size as it is sent (compressed).

        Raises:
            Exception: as `begin`.
        """
        ...

    async def flush(self) -> None:
        """**Wait** until held bytes are written. Hold nothing back from now on."""

    async def end(self) -> int:
        """**Wait** until the end of the complete stream is written. Return the size of the end.

        Raises:
            Exception: as `begin`.
        """
        ...

    def cut(self) -> None:
        """Say that no more comes. Unless `end` was called, the client's stream is incomplete."""

    def withdraw(self) -> None:
        """Leave the answer to somebody else. Nothing of this one has gone out."""
