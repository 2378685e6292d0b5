"""Open a stream of an app, in process: send the request, make the client, and end both."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from flowstream.asgi._cut import CUT_KEY
from flowstream.tasks._failure import only
from flowstream.testing._client import StreamClient, check_count
from flowstream.testing._contract import Headers
from flowstream.testing._scope import ASGIApp, HeaderPairs, http_scope


@dataclass(frozen=True, slots=True)
class CollectedResponse:
    """A complete response."""

    status: int
    """The status code."""
    headers: Headers
    """The headers; names in any case."""
    body: bytes
    """The body, as far as it arrived."""
    complete: bool
    """Whether its final chunk arrived. A body without one was cut, on purpose or not."""


@asynccontextmanager
async def open_stream(
    app: ASGIApp,
    path: str = "/",
    *,
    method: str = "GET",
    headers: Mapping[str, str] | HeaderPairs = (),
    query_string: bytes = b"",
    body: bytes | AsyncIterable[bytes] = b"",
    window: int | None = None,
    http_version: str = "1.1",
    stuck_sends: bool = False,
    state: Mapping[str, Any] | None = None,
    raise_app_exceptions: bool = True,
    exit_timeout: float = 60.0,
) -> AsyncGenerator[StreamClient, None]:
    """Send one HTTP request to `app`, and yield the `StreamClient` that gets the response.

    When the block ends, the client aborts unless it has left already, and the app has
    `exit_timeout` seconds to end. When the block fails, the app is cancelled. A single exception
    is raised as it is, several in an `ExceptionGroup`.

    Args:
        app: an ASGI application that runs on Trio.
        path: the request's target as on the wire; it may have ``?`` and a query.
        method: the request's, in upper case.
        headers: a mapping, or pairs; text or bytes. ``host`` is added if it is missing.
        query_string: without the ``?``.
        body: the request's, complete or in pieces. At most ten pieces wait for the app.
        window: body bytes that the client reads until the test lets it read more; None
            reads everything at once.
        http_version: the value in the scope. It does not change how the client behaves.
        stuck_sends: a blocked ``send`` cannot be cancelled, as on plain Hypercorn, whose
            socket writes are shielded. Otherwise a cancelled ``send`` cuts the connection.
        state: what the lifespan put into ``scope["state"]``; each request gets a shallow copy.
        raise_app_exceptions: if false, an exception of the app is kept in `StreamClient.error`,
            and the body ends without its final chunk.
        exit_timeout: seconds on Trio's clock.

    Raises:
        AssertionError: the app broke the ASGI specification, or has not ended `exit_timeout`
            seconds after its client had gone.
        ValueError, TypeError: `window` is not a whole number of 0 or more, or both `path` and
            `query_string` have a query.
    """
    if window is not None:
        check_count("window", window, least=0)
    scope = http_scope(
        path,
        method=method,
        headers=headers,
        query_string=query_string,
        http_version=http_version,
        state=state,
    )
    client = StreamClient(
        method=method,
        window=window,
        stuck_sends=stuck_sends,
        raise_app_exceptions=raise_app_exceptions,
    )
    if method != "HEAD":  # its answer has no body to cut
        scope["extensions"][CUT_KEY] = client._cut
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            if isinstance(body, AsyncIterable):
                nursery.start_soon(client._request.feed, body, name="request body")
            else:
                client._request.put_body(body)
            nursery.start_soon(client._serve, app, scope, name="ASGI app")
            try:
                yield client
                await client._see_off(exit_timeout)
            except BaseException:
                client.abort()  # also frees a send that cannot be cancelled
                nursery.cancel_scope.cancel()
                raise
    except BaseExceptionGroup as group:
        failure = only(group)
    if failure is not None:
        raise failure


async def collect(
    app: ASGIApp,
    path: str = "/",
    *,
    method: str = "GET",
    headers: Mapping[str, str] | HeaderPairs = (),
    query_string: bytes = b"",
    body: bytes | AsyncIterable[bytes] = b"",
    http_version: str = "1.1",
    state: Mapping[str, Any] | None = None,
    raise_app_exceptions: bool = True,
    timeout: float = 60.0,
) -> CollectedResponse:
    """**Wait** for the complete response of `app` to one request, and return it.

    Takes the arguments of `open_stream`.

    Raises:
        trio.TooSlowError: the body is not over after `timeout` seconds.
        EndOfBody: the app raised before it started a response, and `raise_app_exceptions` is
            false.
        Exception: whatever `open_stream` raises.
    """
    async with open_stream(
        app,
        path,
        method=method,
        headers=headers,
        query_string=query_string,
        body=body,
        http_version=http_version,
        state=state,
        raise_app_exceptions=raise_app_exceptions,
        exit_timeout=timeout,
    ) as client:
        with trio.fail_after(timeout):
            await client.started()
            data = await client.read_all()
    assert client.status is not None  # else `started` would have raised
    return CollectedResponse(client.status, client.headers, data, client.complete)
