"""One request's streams in Quart: the response that stands for one, and what delivers it.

A stream on its way through an app is a Quart response without a body, so that the app's own
functions may change its status, headers and cookies. Behind these it is delivered, from
within the request's context, by the host that the request's connection has.
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

# What the `receive` of flowstream's own server is a method of.
_INBOX = ("flowstream.server._inbox", "Inbox")

# Quart writes headers in UTF-8; a stream's own, which may be in Latin-1, come through as they are.
_CODEC = ("utf-8", "surrogateescape")


class AppTally(Tally):
    """The streams of one app, counted.

    Attributes:
        left: how many of the open ones have outlived their request's context.
    """

    def __init__(self) -> None:
        super().__init__()
        self.left = 0


class Hosted(QuartResponse):
    """The Quart response that stands for a stream on its way through the app."""

    def __init__(self, stream_response: StreamResponse) -> None:
        # One that Quart made, copied: to make each would cost as much as to open the stream.
        self.__dict__.update(_empty(stream_response.status).__dict__)
        self.response = self.data_body_class(b"")
        # Quart's own 60 s would cut it; Limits.max_duration is the stream's.
        self.timeout = None
        self.stream_response = stream_response
        self._given = _as_text(tuple(stream_response.headers))
        self.headers = headers_of(self._given.copy())

    async def get_data(self, as_text: bool = True) -> NoReturn:
        """Raise: an ``after_request`` function that hashes or rewrites data cannot have it."""
        raise RuntimeError("a stream has no data to get: its producer has yet to run")

    def set_data(self, data: str | bytes) -> None:
        """Raise, but for the nothing that a new response is given."""
        if data:
            raise RuntimeError("a stream cannot be given data: return another response instead")
        super().set_data(data)

    def head(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        """Return the status and headers, as the app has left them.

        Raises:
            ValueError: no stream can have them.
        """
        if self.status_code < 200 or self.status_code in (204, 205, 304):
            raise ValueError(f"a stream has a body, and the status {self.status_code} has none")
        stream_headers = self.stream_response.headers
        if list(self.headers) == self._given:  # nearly always
            return self.status_code, stream_headers
        for name in ("Content-Length", "Transfer-Encoding"):
            given = self.headers.get(name)
            own = given is None or (name.lower().encode(), given.encode()) in stream_headers
            if not own:  # nor one of our own that the app has changed
                raise ValueError(
                    f"the header {name!r} is the server's: a stream has no length of an app's"
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
    """The task that hears of a request's body and of its client's end, until nobody needs it.

    Attributes:
        scope: what the task runs in.
    """

    __slots__ = ("_complete", "_needed", "scope")

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self._complete = False  # the body has come
        self._needed = True

    def note(self, message: Mapping[str, Any]) -> None:
        """Take note of a message that has come."""
        self._complete = not message.get("more_body", False)

    def stop(self) -> None:
        """Hear no more than the rest of the body: the connection tells of the client's end."""
        self._needed = False
        self.check()

    def check(self) -> None:
        """End the task if it may."""
        if self._complete and not self._needed:
            self.scope.cancel()


class Host(Live):
    """What one request's connection knows of the stream it serves.

    Args:
        tally: counts the streams of the app.
        nursery: for what the stream runs.
        send: the server's, with what was put around it.
        listening: the task that hears of the client's end, if there is one.
        direct: what the app says of all its streams.
        leave: returns what stands for the request's context, if that may end before a stream
            without a task does; called within the context.

    Attributes:
        late: the stream that is to be delivered behind its request's context, if any.
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
        """Open the stream and, if it is to be primed, wait for its first item.

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
        """Send the response that the app has made of the stream, and its body."""
        response = hosted.stream_response
        exchange = exchange_of(response)
        status, headers = hosted.head()
        await self.begin(response, scope)
        stream = self._streams[response]
        self.delivered = True
        if self.listening is not None and carrier_of(scope) is not None:
            self.listening.stop()  # the connection itself reports its end: a task less
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
            # With the app's own headers: without CORS's, a page of another origin would see
            # a network error, after which an EventSource may come back (WHATWG HTML § 9.2.3).
            status, own = exchange.empty_answer(scope)
            replaced = {b"content-type", *(name for name, _ in own)}
            own.extend(pair for pair in headers if pair[0] not in replaced)
            await send_whole(self.send, status, own)

    def disconnected(
        self, reason: CloseReason = CloseReason.CLIENT_DISCONNECTED, detail: str = "http.disconnect"
    ) -> bool:
        """Tell the streams that the client has gone; return whether one is the answer.

        It still is when it has been delivered and the app's teardown functions run.
        """
        self.gone = True
        for stream in self._streams.values():
            if stream is not None:
                stream.abort(reason, detail)
        return self.delivered or bool(self._streams)

    async def finish(self) -> None:
        """End what still runs, e.g. a primed stream that an error took the place of."""
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            if stream is not None:
                await stream.finish()
        if streams and self.gone and not self.delivered:
            # What has taken its place is no stream of ours: a disconnect cancels it.
            self.nursery.cancel_scope.cancel()


class LateStream:
    """A stream that is delivered behind the end of its request's context.

    Args:
        host: that of the request.
        variables: the context variables of the view.
        stream: the stream, begun.
        transport: what it is to be delivered to.
        context: what stands for the request's.
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
        """Have what runs for the stream find `request` and its kin."""
        self._context.replace_in(self._variables)
        self._tokens = self._context.enter()

    async def finish(self) -> None:
        """Wait until the stream has ended."""
        try:
            await self.stream.finish()
        finally:
            self._tally.left -= 1
            if self._tokens is not None:
                self._context.leave(self._tokens)


class Departure:
    """Ends the request when its client leaves, where the connection tells of that by a call.

    Quart's own way is a task for each request that waits on ``receive()``. It costs a quarter of
    what opening a stream does.

    Args:
        connection: Quart-Trio's.
        nursery: what the request runs in.
        request: Quart's.
    """

    __slots__ = ("_connection", "_nursery", "_request")

    def __init__(self, connection: Any, nursery: trio.Nursery, request: Request) -> None:
        self._connection = connection
        self._nursery = nursery
        self._request = request

    @property
    def stall_timeout(self) -> float | None:
        """None: the streams of the request say how long a write may make no progress."""
        return None

    def close(self, reason: CloseReason, detail: str = "") -> None:
        """Do nothing: at a shutdown a request may still be answered."""

    def abort(self, reason: CloseReason, detail: str = "") -> None:
        """Tell the stream, or cancel what is no stream, as Quart does."""
        host = cast("Host | None", self._connection.scope.get(HOST))
        if host is None or not host.disconnected(reason, detail):
            note_departure(self._connection, self._request)
            self._nursery.cancel_scope.cancel()


def is_silent(receive: Receive, scope: Mapping[str, Any], carrier: Carrier) -> bool:
    """Return whether ``receive()`` has nothing to bring that the connection does not tell by a
    call: it is the server's own, and no body follows the request.

    Not over HTTP/2, where a connection counts who it tells as streams.
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
