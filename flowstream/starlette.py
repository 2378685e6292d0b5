"""Starlette and FastAPI, on Trio.

A Starlette route returns a `StreamResponse` as it is. FastAPI turns anything that is not a
Starlette response into JSON, so wrap it in `response`::

    @app.get("/answer")
    async def answer(q: str):
        return response(ndjson(tokens(q)))

Both must be served on Trio: ``flowstream serve module:app``. A producer that reads the
request's body while it streams needs `SharedBody` around the app.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, overload

from flowstream._errors import MissingExtraError, PublicError
from flowstream.abc import Log
from flowstream.asgi._compression import gzip_headers, is_gzip
from flowstream.asgi._early_answer import answer_to
from flowstream.asgi.receive import Message, Receive, Send, SharedReceive
from flowstream.asgi.response import StreamResponse
from flowstream.topics._app_log import AppLog

try:
    from starlette.background import BackgroundTask
    from starlette.requests import Request
    from starlette.responses import Response
except ImportError as _missing:
    raise MissingExtraError(
        "flowstream.starlette needs Starlette: pip install 'flowstream-trio[starlette]'"
    ) from _missing

__all__ = ["SharedBody", "lifespan", "public_error", "response"]


_NO_APP: Any = object()


class _Wrapped(Response):
    """A Starlette response that is served by a `StreamResponse`.

    An app may set its status, headers, cookies and background tasks, as on any other response.
    """

    def __init__(self, stream_response: StreamResponse) -> None:
        self._stream_response = stream_response
        self.status_code = stream_response.status
        self.background: BackgroundTask | None = None
        self.raw_headers = stream_response.headers
        self.body = b""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if gzip_headers(self.raw_headers) is None:
            # The app encodes the body itself, so the stream must not.
            scope = {**scope, "headers": _without_accept_encoding(scope["headers"])}

        async def send_ours(message: Message) -> None:
            if (
                message["type"] == "http.response.start"
                and message["status"] == self._stream_response.status  # not a 204 of its own
            ):
                headers = self.raw_headers
                if is_gzip(message["headers"]):
                    headers = gzip_headers(headers) or headers
                message["status"], message["headers"] = self.status_code, headers
            await send(message)

        await self._stream_response(scope, receive, send_ours)
        if self.background is not None:
            await self.background()


def _without_accept_encoding(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [pair for pair in headers if pair[0].lower() != b"accept-encoding"]


def response(stream_response: StreamResponse) -> Response:
    """Return `stream_response` as a Starlette response, for FastAPI to pass through.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(stream_response, StreamResponse):
        raise TypeError(f"expected a StreamResponse, not a {type(stream_response).__name__}")
    return _Wrapped(stream_response)


async def public_error(request: Request, error: Exception) -> Response:
    """Answer a `PublicError` that a view raised, with its status, code and message.

    Register it with ``app.add_exception_handler(PublicError, public_error)``. An error of a primed
    producer needs no handler.
    """
    assert isinstance(error, PublicError)
    status, headers, body = answer_to(error, request.url.path)
    return Response(body, status, headers)


@overload
def lifespan(
    app: Any, *, log: Log | str | None = None, namespace: str | None = None
) -> AbstractAsyncContextManager[None]: ...


@overload
def lifespan(
    *, log: Log | str | None = None, namespace: str | None = None
) -> Callable[[Any], AbstractAsyncContextManager[None]]: ...


def lifespan(
    app: Any = _NO_APP, *, log: Log | str | None = None, namespace: str | None = None
) -> AbstractAsyncContextManager[None] | Callable[[Any], AbstractAsyncContextManager[None]]:
    """Keep open what outlives requests: the log of the app's topics, and the nursery of `Runs`.

    Give it to the app, with a log or without::

        app = Starlette(routes=routes, lifespan=lifespan(log="sqlite:///events.db"))

    or use it inside a lifespan of your own: ``async with lifespan(app, log=...):``. If the log
    can't be opened, the app does not start.

    Args:
        app: the app. Without it this returns a function of the app.
        log: where the app's topics keep their events: a log such as ``SQLiteLog("events.db")``, or
            a URL such as ``"sqlite:///events.db"``. None for the URL in ``FLOWSTREAM_LOG_URL``,
            read when the app starts. Without that, or with `MemoryLog()`, they are in memory.
        namespace: goes before the names of topics in the log, so that several apps may share it:
            up to 64 letters, digits, ``-``, ``_`` and ``.``. None for the one in
            ``FLOWSTREAM_LOG_NAMESPACE``, if that is set.

    Raises:
        TypeError, ValueError: `log` or `namespace` is not what is said above.
        LogUnavailableError: from the context manager: the log can't be opened.
    """
    app_log = AppLog(log, namespace)

    @asynccontextmanager
    async def opened(_: Any) -> AsyncIterator[None]:
        async with app_log.serving():
            yield

    return opened if app is _NO_APP else opened(app)


class SharedBody:
    """ASGI middleware that lets a producer read the request's body while it streams.

    Add it as the outermost middleware: ``app.add_middleware(SharedBody)``. It shares each
    request's ``receive`` between the view and the stream (see `SharedReceive`).

    Args:
        app: the application that it wraps.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Call the application, with a shared ``receive`` for HTTP requests."""
        await self._app(scope, SharedReceive(receive) if scope["type"] == "http" else receive, send)
