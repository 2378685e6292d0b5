"""HTTPTransport: carries a stream in one HTTP response.

Everything about HTTP that a stream's bytes meet is here: the messages of ASGI, the head that waits
for the first bytes, the content coding, the direct writes past middleware, and the cut of an
incomplete response.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flowstream.asgi._between import is_known, name_unknown, tell
from flowstream.asgi._compression import Gzip, accepts_gzip, gzip_headers
from flowstream.asgi._cut import cut_of
from flowstream.asgi._direct_write import NotDirect, direct_write_of
from flowstream.asgi._head import head_of
from flowstream.asgi._response_plan import Compression
from flowstream.asgi.receive import Send


class HTTPTransport:
    """One HTTP response that carries a stream; a `Transport`.

    Args:
        scope: the request's.
        send: the server's ``send``, with everything that wraps it.
        status: the response's.
        headers: the response's, as they are without a content coding.
        compress: the content coding for clients that ask for it; None for none.
        direct: the app's setting for direct writes to all its streams; None if it has none.
    """

    takes_pieces = True
    """The client sees the body as one sequence of bytes."""

    __slots__ = (
        "_cut",
        "_direct_write",
        "_given",
        "_gzip",
        "_head",
        "_headers",
        "_refused",
        "_send",
        "_status",
    )

    def __init__(
        self,
        scope: Mapping[str, Any],
        send: Send,
        status: int,
        headers: list[tuple[bytes, bytes]],
        *,
        compress: Compression | None,
        direct: bool | None = None,
    ) -> None:
        coded = gzip_headers(headers) if compress == "gzip" and accepts_gzip(scope) else None
        self._send = send
        self._status = status
        self._headers = headers if coded is None else coded
        self._gzip = None if coded is None else Gzip()
        self._given = direct
        self._direct_write = direct_write_of(scope)
        self._refused: NotDirect | None = NotDirect.NOT_BEGUN
        self._head = head_of(scope)
        self._cut = cut_of(scope)

    @property
    def holds_back(self) -> bool:
        """Whether the head may wait for the first bytes of the body."""
        return self._head.is_wanted

    @property
    def direct(self) -> Callable[[bytes], bool] | None:
        """A function that writes chunks to the connection; None if publishers may not write."""
        return self._direct_write.write if self._refused is None else None

    @property
    def why_not_direct(self) -> NotDirect | None:
        """Why publishers may not write to the connection; None while they may."""
        return self._refused or self._direct_write.why_not

    def open_direct(self, given: bool | None, app: Any) -> None:
        """Decide whether publishers may write to the connection.

        The app decides (``direct=``), the coding of the body, the connection, and the middleware
        between the stream and the server. `DirectWrite` checks again while the response is sent.
        """
        self._refused = self._refusal(self._given if given is None else given, app)

    def _refusal(self, given: bool | None, app: Any) -> NotDirect | None:
        if given is False:
            return NotDirect.SWITCHED_OFF
        if self._gzip is not None:
            return NotDirect.OTHER_BODY
        if self._direct_write.why_not is not None:
            return self._direct_write.why_not
        if not given and not is_known(self._send, self._direct_write):
            tell(name_unknown(self._send, app))
            return NotDirect.BETWEEN
        return None

    async def begin(self) -> None:
        """Send the status line and the headers. They may wait for the first bytes of the body."""
        self._head.hold()
        await self._send(
            {"type": "http.response.start", "status": self._status, "headers": self._headers}
        )

    async def write(self, data: bytes) -> int:
        """Send a piece of the body, compressed if the client asked for gzip."""
        body = data if self._gzip is None else self._gzip.compress(data)
        if self._refused is None:
            self._direct_write.hand_over(body)
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        return len(body)

    async def flush(self) -> None:
        """Write the head, if it still waits."""
        await self._head.release()

    async def end(self) -> int:
        """Send the end of the body."""
        self._cut = None
        rest = b"" if self._gzip is None else self._gzip.finish()
        await self._send({"type": "http.response.body", "body": rest, "more_body": False})
        return len(rest)

    def cut(self) -> None:
        """Tell the server that the body is incomplete, unless its end was sent."""
        if self._cut is not None:
            self._cut.say(self._status)

    def withdraw(self) -> None:
        """Leave the answer to the framework, which has an error to report."""
        self._cut = None
