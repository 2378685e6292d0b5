"""Cut a response: leave out its end if the stream has ended before the body was complete.

A format without control events (CSV, raw bytes, ``controls=False``) shows a failure by a missing
end: the application returns without sending it. But much middleware makes a new response from the
body, and ends that response when the stream returns. Starlette's ``BaseHTTPMiddleware`` does so,
and FastAPI's ``@app.middleware("http")`` too. Half an export would look complete.

So the stream tells the server directly, past all middleware::

    at work ──say──► cut ──its end arrives──► over

The server still writes what arrives, but leaves out the end, whoever sent it. This module decides
what to do with each message; it never waits.

Middleware that has not sent anything yet may also send another answer, such as the 504 of a
timeout. The status decides: a success counts as the stream's response, and any other answer goes
out complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from flowstream.asgi._request import Live
from flowstream.asgi.receive import Message

CUT_KEY = "flowstream.cut"
"""The key of a request's `Cut` among its extensions."""

# A success without a body (RFC 9110 § 15.3) can't be cut.
_NO_BODY = (204, 205)


class Cut(Live):
    """Whether the response to one request is cut.

    Attributes:
        status: the status that the stream began with, once it is cut; None before.
        is_over: the end of the cut response has arrived, and nothing more goes to the client.
    """

    __slots__ = ("is_over", "status")

    def __init__(self) -> None:
        self.status: int | None = None
        self.is_over = False

    def say(self, status: int) -> None:
        """Cut the response: the stream, which began with `status`, has ended too early."""
        self.status = status

    def pass_on(self, message: Message, begun: int | None) -> Message | None:
        """Return the part of a message that goes to the client of a cut response; None for nothing.

        Args:
            message: the ASGI message that arrives at the server.
            begun: the status that the response has begun with, or None.
        """
        kind = message.get("type")
        if self.is_over:
            return None
        if kind == "http.response.start" and begun is None and self._covers(message["status"]):
            # A length that was counted now is that of the incomplete body.
            headers = [pair for pair in message.get("headers", ()) if not _is_length(pair[0])]
            return {**message, "headers": headers}
        if begun is None or not self._covers(begun):
            return message
        if kind == "http.response.trailers":
            self.is_over = True
            return None
        if kind != "http.response.body" or message.get("more_body"):
            return message
        self.is_over = True
        return {**message, "more_body": True} if message.get("body") else None

    def _covers(self, status: int) -> bool:
        """Return whether an answer with this status counts as the stream's."""
        return status == self.status or (200 <= status < 300 and status not in _NO_BODY)


def _is_length(name: bytes) -> bool:
    return name.lower() == b"content-length"


def cut_of(scope: Mapping[str, Any]) -> Cut | None:
    """Return the `Cut` of the response to this request; None if the server has none."""
    extensions = scope.get("extensions")
    found = extensions.get(CUT_KEY) if isinstance(extensions, Mapping) else None
    return cast("Cut | None", found)
