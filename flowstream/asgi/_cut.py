"""The cut: a response gets no end if its stream has ended before the body was complete.

A format without control events (CSV, raw bytes, ``controls=False``) shows a failure by a missing
end: the application returns without sending it. But much middleware makes a new response from the
body, and ends that when the stream returns: Starlette's ``BaseHTTPMiddleware`` does, and so does
FastAPI's ``@app.middleware("http")``. Half an export would look complete.

So the stream tells the server itself, past all middleware::

    at work ──say──► cut ──its end arrives──► over

The server still writes what arrives, but leaves out the end, whoever sent it. This module decides
what to do with each message; it never waits.

Middleware that has not sent anything yet may also answer something else, such as the 504 of a
timeout. The status decides: a success is taken for the stream's response, and any other answer
goes out complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from flowstream.asgi._request import Live
from flowstream.asgi.receive import Message

CUT_KEY = "flowstream.cut"
"""Where a request's extensions have its `Cut`."""

# A success that has no body (RFC 9110 § 15.3) has no half of one, either.
_NO_BODY = (204, 205)


class Cut(Live):
    """Whether the response to one request is cut.

    Attributes:
        status: with which the stream began, once it has said that it is cut; None before.
        is_over: the end of the response has arrived, and nothing more goes to the client.
    """

    __slots__ = ("is_over", "status")

    def __init__(self) -> None:
        self.status: int | None = None
        self.is_over = False

    def say(self, status: int) -> None:
        """Say that the stream has ended too early. It began with `status`."""
        self.status = status

    def pass_on(self, message: Message, begun: int | None) -> Message | None:
        """Return what of a message goes to the client, once it is cut; None for nothing.

        Args:
            message: what arrives at the server.
            begun: the status with which the response has begun, or None.
        """
        kind = message.get("type")
        if self.is_over:
            return None
        if kind == "http.response.start" and begun is None and self._covers(message["status"]):
            # A length that was counted now is that of the half.
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
        """Whether an answer of this status is the stream's, as far as anybody can tell."""
        return status == self.status or (200 <= status < 300 and status not in _NO_BODY)


def _is_length(name: bytes) -> bool:
    return name.lower() == b"content-length"


def cut_of(scope: Mapping[str, Any]) -> Cut | None:
    """Return the cut of the response to this request; None where the server knows of none."""
    extensions = scope.get("extensions")
    found = extensions.get(CUT_KEY) if isinstance(extensions, Mapping) else None
    return cast("Cut | None", found)
