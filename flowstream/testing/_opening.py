"""Open a stream of an app, in process: the request, the client, and the end of both."""

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
    """A whole response."""

    status: int
    """The status code."""
    headers: Headers
    """The headers; names in any case."""
    body: bytes
    """The body, as far as it came."""
    complete: bool
    """Whether its final chunk came. A body without one was cut, on purpose or not."""


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
    """Call `app` with one HTTP request and give the `StreamClient` that made it.

    When the block ends, a client that is still there aborts, and the app has `exit_timeout`
    seconds to end. When the block fails, the app is cancelled. Exceptions come out as they
    are; only where there are several, in an `ExceptionGroup`.

    Args:
        app: an ASGI application that runs on Trio.
        path: the target as on the wire, ``?`` and a query included if need be.
        method: in upper case.
        headers: a mapping, or pairs; text or bytes. ``host`` is added if it is missing.
        query_string: without the ``?``.
        body: the request's, whole or in pieces; of the latter ten wait for the app at most.
        window: body bytes that the client reads before it is told to read more; None
            reads everything at once.
        http_version: what the scope says; the client behaves alike for all.
        stuck_sends: a blocked ``send`` cannot be cancelled, as on plain Hypercorn, whose
            socket writes are shielded. Otherwise cancelling one cuts the connection.
        state: what the lifespan put into ``scope["state"]``; each request has a shallow copy.
        raise_app_exceptions: false keeps what the app raises in `StreamClient.error`; the
            body then ends without its final chunk.
        exit_timeout: seconds on Trio's clock.

    Raises:
        AssertionError: if the app broke the ASGI specification, or has not ended
            `exit_timeout` seconds after its client had gone.
        ValueError, TypeError: if `window` is not a whole number of 0 or more, or there is
            a query both in `path` and in `query_string`.
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
    if method != "HEAD":  # which has no body to be cut
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
    """Return the whole response of `app` to one request; the arguments of `open_stream`.

    Raises:
        trio.TooSlowError: if the body is not over after `timeout` seconds.
        EndOfBody: if the app raised before it started a response and `raise_app_exceptions`
            is false.
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
    assert client.status is not None  # else `started` had raised
    return CollectedResponse(client.status, client.headers, data, client.complete)
