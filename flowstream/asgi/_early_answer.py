"""Answer a client that gets no stream, above all because the stream failed before it began.

Until the status line is out, a failure is an ordinary HTTP error. A `PublicError` knows its status,
so flowstream answers it, unless the app has a handler of its own for it. Any other exception is the
framework's to answer, like an exception from a view.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from flowstream._errors import PublicError
from flowstream.asgi._logging import printable
from flowstream.asgi.receive import Send

logger = logging.getLogger("flowstream")


class Answer(NamedTuple):
    """A complete response."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def answer_to(error: PublicError, path: str) -> Answer:
    """Return the answer to a request whose stream failed with `error`, and log why."""
    # A client's own fault is no warning for those who run the server.
    level = logging.INFO if error.status < 500 else logging.WARNING
    cause = error.__cause__ or error.__context__
    logger.log(level, "%s: %d %s", printable(path), error.status, error, exc_info=cause)
    headers = {
        **error.headers,
        "Content-Type": "application/json",
        "Cache-Control": "no-store",
    }
    body = msgspec.json.encode({"code": error.code, "message": error.message})
    return Answer(error.status, headers, body)


def is_handled(error: PublicError, scope: Mapping[str, Any]) -> bool:
    """Return whether the app around a stream has a handler of its own for `error`.

    A Starlette app lists its handlers in the scope. A handler for `Exception` does not count: it is
    the app's last resort, and answers 500.
    """
    by_type, _ = scope.get("starlette.exception_handlers") or ((), ())
    kinds = type(error).__mro__[: type(error).__mro__.index(Exception)]
    return any(kind in by_type for kind in kinds)


async def send_whole(
    send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes = b""
) -> None:
    """Send a complete response. Ignore that the client has gone: there is no stream to end."""
    with contextlib.suppress(OSError):
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})
