"""Deliver one request's streams in Quart.

On its way through an app a stream is a Quart response without a body (`Hosted`), so that the app's
own functions may change its status, headers and cookies. After these the `Host`, which each
request's connection has, delivers the stream inside the request's context.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NoReturn, cast

import trio
from quart import Response as QuartResponse
from quart import request
from quart.wrappers import Request

from flowstream._closing import CloseReason
from flowstream._registry import Tally
from flowstream.asgi._carrier import Carrier, carrier_of
from flowstream.asgi._early_answer import send_whole
from flowstream.asgi._http_transport import HTTPTransport
from flowstream.asgi._request import Live
from flowstream.asgi._stream import Stream
from flowstream.asgi.receive import Receive, Send
from flowstream.asgi.response import StreamResponse, exchange_of
from flowstream.quart._internals import note_departure
from flowstream.quart._late_context import LateContext
from flowstream.quart._requests import headers_of

HOST = "flowstream.quart"
"""The key of a request's host in its scope."""

# The class that has the `receive` of flowstream's own server.
_INBOX = ("flowstream.server._inbox", "Inbox")

# Quart writes headers in UTF-8. This passes a stream's own, which may be Latin-1, on unchanged.
_CODEC = ("utf-8", "surrogateescape")


class AppTally(Tally):
    """Counts the streams of one app.

    Attributes:
        left: how many open streams have outlived their request's context.
    """

    def __init__(self) -> None:
        super().__init__()
        self.left = 0


class Hosted(QuartResponse):
    """The Quart response that stands for a stream on its way through the app."""

    def __init__(self, stream_response: StreamResponse) -> None:
        # Copy one that Quart made: to make each would cost as much as to open the stream.
        self.__dict__.update(_empty(stream_response.status).__dict__)
        self.response = self.data_body_class(b"")
        # Quart's own timeout of 60 s would cut the stream, which has Limits.max_duration.
        self.timeout = None
        self.stream_response = stream_response
        self._given = _as_text(tuple(stream_response.headers))
        self.headers = headers_of(self._given.copy())

    async def get_data(self, as_text: bool = True) -> NoReturn:
        """Raise: a stream has no data that an ``after_request`` function could hash or rewrite."""
        raise RuntimeError("a stream has no data to get: its producer has not run yet")

    def set_data(self, data: str | bytes) -> None:
        """Raise, unless `data` is empty: Quart sets that on a new response."""
        if data:
            raise RuntimeError("a stream cannot be given data: return another response instead")
        super().set_data(data)

    def head(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        """Return the status and headers, with the app's changes.

        Raises:
            ValueError: a stream cannot have them.
        """
        if self.status_code < 200 or self.status_code in (204, 205, 304):
            raise ValueError(f"a stream has a body, and the status {self.status_code} has none")
        stream_headers = self.stream_response.headers
        if list(self.headers) == self._given:  # nearly always
            return self.status_code, stream_headers
        for name in ("Content-Length", "Transfer-Encoding"):
            given = self.headers.get(name)
            own = given is None or (name.lower().encode(), given.encode()) in stream_headers
            if not own:  # the app has added it, or changed ours
                raise ValueError(
                    f"the header {name!r} is the server's, which knows what a stream needs: "
                    "leave it out"
                )
        return self.status_code, [
            (name.lower().encode(*_CODEC), value.encode(*_CODEC))
            for name, value in self.headers.items()
        ]


@lru_cache(maxsize=64)
def _empty(status: int) -> QuartResponse:
    return QuartResponse(b"", status=status)


@lru_cache(maxsize=256)  # most streams of an app have the same headers
def _as_text(headers: tuple[tuple[bytes, bytes], ...]) -> list[tuple[str, str]]:
    return [(name.decode(*_CODEC).title(), value.decode(*_CODEC)) for name, value in headers]


class Listening:
    """Ends the task that receives a request's body and the disconnect, when it is not needed.

    Attributes:
        scope: the cancel scope that the task runs in.
    """

    __slots__ = ("_complete", "_needed", "scope")

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self._complete = False  # the whole body has come
        self._needed = True

    def note(self, message: Mapping[str, Any]) -> None:
        """Note a message that has come."""
        self._complete = not message.get("more_body", False)

    def stop(self) -> None:
        """Receive only the rest of the body: the connection reports the disconnect by a call."""
        self._needed = False
        self.check()

    def check(self) -> None:
        """End the task if it may."""
        if self._complete and not self._needed:
            self.scope.cancel()


class Host(Live):
    """Serves the streams of one request.

    Args:
        tally: counts the streams of the app.
        nursery: for the tasks of the stream.
        send: the server's ``send``, with everything that wraps it.
        listening: ends the task that receives the disconnect; None if there is no such task.
        direct: the app's setting for direct writes to all its streams.
        leave: returns a stand-in for the request's context, or None if the context must outlast
            the stream. It is called inside the context, for a stream without tasks.

    Attributes:
        late: the stream to deliver after its request's context, or None.
    """

    __slots__ = (
        "_leave",
        "_streams",
        "delivered",
        "direct",
        "gone",
        "late",
        "listening",
        "nursery",
        "send",
        "tally",
    )

    def __init__(
        self,
        tally: AppTally,
        nursery: trio.Nursery,
        send: Send,
        listening: Listening | None,
        direct: bool | None,
        leave: Callable[[], LateContext | None] | None = None,
    ) -> None:
        self._leave = leave
        self.late: LateStream | None = None
        self.tally = tally
        self.direct = direct
        self.nursery = nursery
        self.send = send
        self.listening = listening
        self.gone = False
        self.delivered = False
        self._streams: dict[StreamResponse, Stream | None] = {}

    async def begin(self, response: StreamResponse, scope: Mapping[str, Any]) -> None:
        """Open the stream. If it has ``prime=``, **wait** for its first item.

        Raises:
            Exception: what a primed producer raised before its first item.
        """
        if response in self._streams:
            return
        exchange = exchange_of(response)
        self._streams[response] = stream = await exchange.open(scope, self.tally)
        if stream is None:
            return
        if self.gone:
            stream.abort(CloseReason.CLIENT_DISCONNECTED, "http.disconnect")
        stream.begin(self.nursery)
        prime = exchange.response_plan.prime
        if prime is not None:
            await stream.prime(prime)

    async def deliver(self, hosted: Hosted, scope: Mapping[str, Any]) -> None:
        """Send the stream's response, with the app's changes, and its body."""
        response = hosted.stream_response
        exchange = exchange_of(response)
        status, headers = hosted.head()
        await self.begin(response, scope)
        stream = self._streams[response]
        self.delivered = True
        if self.listening is not None and carrier_of(scope) is not None:
            self.listening.stop()  # the connection reports the disconnect: one task less
        if stream is not None:
            transport = exchange.transport(scope, self.send, status, headers, direct=self.direct)
            context = None
            if self._leave is not None and not stream.has_tasks:
                context = self._leave()
            if context is not None:
                self.late = LateStream(self, exchange.plan.context, stream, transport, context)
                self._streams.clear()
                return
            await stream.deliver(transport)
        elif scope["method"] == "HEAD":
            await send_whole(self.send, status, exchange.headers_for(scope, headers))
        else:
            # Add the app's own headers. Without the CORS headers a page of another origin would see
            # a network error, after which an EventSource may reconnect (WHATWG HTML § 9.2.3).
            status, own = exchange.empty_answer(scope)
            replaced = {b"content-type", *(name for name, _ in own)}
            own.extend(pair for pair in headers if pair[0] not in replaced)
            await send_whole(self.send, status, own)

    def disconnected(
        self, reason: CloseReason = CloseReason.CLIENT_DISCONNECTED, detail: str = "http.disconnect"
    ) -> bool:
        """Tell the streams that the client has gone; return whether a stream is the answer.

        It still is after its delivery, while the app's teardown functions run.
        """
        self.gone = True
        for stream in self._streams.values():
            if stream is not None:
                stream.abort(reason, detail)
        return self.delivered or bool(self._streams)

    async def finish(self) -> None:
        """End streams that still run, e.g. a primed one that an error page has replaced."""
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            if stream is not None:
                await stream.finish()
        if streams and self.gone and not self.delivered:
            # The response that replaced it is no stream, so the disconnect cancels it.
            self.nursery.cancel_scope.cancel()


class LateStream:
    """A stream that is delivered after the end of its request's context.

    Args:
        host: the request's.
        variables: the context variables of the view.
        stream: the stream, begun.
        transport: carries the stream.
        context: stands in for the request's context.
    """

    __slots__ = ("_context", "_tally", "_tokens", "_variables", "stream", "transport")

    def __init__(
        self,
        host: Host,
        variables: contextvars.Context,
        stream: Stream,
        transport: HTTPTransport,
        context: LateContext,
    ) -> None:
        self._tally = host.tally
        self._variables = variables
        self._context = context
        self._tokens: list[Any] | None = None
        self.stream = stream
        self.transport = transport
        self._tally.left += 1

    def enter(self) -> None:
        """Let code that is called for the stream find `request`, `session`, `g` and the app."""
        self._context.replace_in(self._variables)
        self._tokens = self._context.enter()

    async def finish(self) -> None:
        """**Wait** until the stream has ended."""
        try:
            await self.stream.finish()
        finally:
            self._tally.left -= 1
            if self._tokens is not None:
                self._context.leave(self._tokens)


class Departure:
    """Ends the request when its client leaves, if the connection reports that by a call.

    Quart itself uses a task for each request, which waits on ``receive()``. That costs a quarter of
    opening a stream.

    Args:
        connection: Quart-Trio's.
        nursery: the nursery that the request runs in.
        request: Quart's.
    """

    __slots__ = ("_connection", "_nursery", "_request")

    def __init__(self, connection: Any, nursery: trio.Nursery, request: Request) -> None:
        self._connection = connection
        self._nursery = nursery
        self._request = request

    @property
    def stall_timeout(self) -> float | None:
        """None, because the streams of the request set their own."""
        return None

    def close(self, reason: CloseReason, detail: str = "") -> None:
        """Do nothing: at a shutdown a request may still be answered."""

    def abort(self, reason: CloseReason, detail: str = "") -> None:
        """Tell the stream. If the answer is no stream, cancel the request, as Quart does."""
        host = cast("Host | None", self._connection.scope.get(HOST))
        if host is None or not host.disconnected(reason, detail):
            note_departure(self._connection, self._request)
            self._nursery.cancel_scope.cancel()


def is_silent(receive: Receive, scope: Mapping[str, Any], carrier: Carrier) -> bool:
    """Return whether nobody needs to call ``receive()``.

    That is so if it is flowstream's own, so that the connection reports a disconnect by a call, and
    if no body follows the request. It is not so over HTTP/2, where a connection counts everything
    that it calls as a stream.
    """
    owner = type(getattr(receive, "__self__", None))
    return (
        (owner.__module__, owner.__qualname__) == _INBOX
        and scope["http_version"] < "2"
        and not carrier.may_bring_more(scope)
    )


def host_of_request() -> Host:
    scope = cast("Mapping[str, Any]", request.scope)
    if HOST not in scope:
        raise RuntimeError(
            "there is no connection to stream to: call the app through its ASGI interface "
            "or its test client, not in a test_request_context()"
        )
    return cast(Host, scope[HOST])
