"""The Quart-Trio extension: a view returns a stream as it returns any other response.

Quart sends a response after it has left the request's context, stops any response after
``RESPONSE_TIMEOUT`` (60 s), and cancels a request's tasks when the client disconnects. None
of that suits a stream. `Flowstream(app)` puts three functions in the way of a request, each
only where the view returned a `StreamResponse`:

* ``dispatch_request``: a stream with ``prime=`` is begun here, where what its producer raises
  goes through the app's error handlers;
* ``make_response``: the stream becomes a Quart response, which ``after_request`` functions
  may change: status, headers, cookies;
* ``full_dispatch_request``: the stream is delivered here, still inside the request's
  context, so that ``request``, ``session`` and ``g`` work in a producer and teardown
  functions run after the last byte.

The connection class is replaced by one that tells the stream of a disconnect instead of
cancelling around it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, cast

import trio
from quart import Response as QuartResponse
from quart import request
from quart.wrappers import Request
from quart_trio import QuartTrio

from flowstream._closing import CloseReason
from flowstream.asgi._stream import Stream
from flowstream.asgi.receive import Receive, Send
from flowstream.asgi.response import StreamResponse

__all__ = ["Flowstream", "FlowstreamStatistics"]

_HOST = "flowstream.quart"


@dataclass(frozen=True, slots=True)
class FlowstreamStatistics:
    """A moment of one app's streams."""

    open: int
    """Streams that run now."""
    closed: Mapping[str, int]
    """Streams that have ended since the app was made, by close reason."""


class Flowstream:
    """Lets the views of a Quart-Trio app return streams.

    Args:
        app: the app; or None, to call `init_app` later.

    Raises:
        TypeError: `app` is a Quart app that does not run on Trio.
    """

    def __init__(self, app: QuartTrio | None = None) -> None:
        self._open: set[StreamResponse] = set()
        self._closed: Counter[str] = Counter()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: QuartTrio) -> None:
        """Set up `app`; an app factory calls this.

        Raises:
            TypeError: `app` does not run on Trio.
            RuntimeError: `app` was set up before.
        """
        if not isinstance(app, QuartTrio):
            raise TypeError(f"expected a QuartTrio app, not a {type(app).__name__}")
        if "flowstream" in app.extensions:
            raise RuntimeError("this app has a Flowstream already")
        app.extensions["flowstream"] = self
        # Quart calls these by name on the app, so an attribute of the instance is enough;
        # what the app's own class does in them is kept.
        patched = cast(Any, app)
        patched.dispatch_request = _dispatching(app.dispatch_request)
        patched.make_response = _converting(app.make_response)
        patched.full_dispatch_request = _delivering(app.full_dispatch_request)
        patched.asgi_http_class = _connection_class(app.asgi_http_class, self)

    def statistics(self) -> FlowstreamStatistics:
        """Return how many streams run, and how those before them ended."""
        return FlowstreamStatistics(open=len(self._open), closed=dict(self._closed))

    def _opened(self, response: StreamResponse) -> None:
        self._open.add(response)

    def _ended(self, response: StreamResponse) -> None:
        self._open.discard(response)
        if (reason := response.statistics().reason) is not None:
            self._closed[reason.value] += 1


class _Hosted(QuartResponse):
    """The Quart response that stands for a stream on its way through the app."""

    # Quart's own 60 s would cut it; Limits.max_duration is the stream's.
    timeout = None

    def __init__(self, stream_response: StreamResponse, status: int, headers: Any) -> None:
        super().__init__(b"", status=status)
        self.stream_response = stream_response
        self.headers.clear()
        for name, value in headers:
            self.headers.add(name.decode("latin-1").title(), value.decode("latin-1"))


class _Host:
    """What one request's connection knows of the stream it serves."""

    def __init__(self, owner: Flowstream, nursery: trio.Nursery, send: Send) -> None:
        self.owner = owner
        self.nursery = nursery
        self.send = send
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
        self.owner._opened(response)
        self._streams[response] = stream = await response.open(scope)
        if stream is None:
            return
        if self.gone:
            stream.abort(CloseReason.CLIENT_DISCONNECTED)
        stream.begin(self.nursery)
        if response.prime is not None:
            await stream.prime(response.prime)

    async def deliver(self, hosted: _Hosted, scope: Mapping[str, Any]) -> None:
        """Send the response that the app has made of the stream, and its body."""
        response = hosted.stream_response
        await self.begin(response, scope)
        stream = self._streams[response]
        self.delivered = True
        headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in hosted.headers.items()
        ]
        if stream is not None:
            await stream.deliver(self.send, hosted.status_code, headers)
        elif scope["method"] == "HEAD":
            await _answer_empty(self.send, hosted.status_code, headers)
        else:
            status, own = response.empty_answer(scope)
            await _answer_empty(self.send, status, own)

    def disconnected(self) -> bool:
        """Tell the streams that the client has gone; return whether there are any."""
        self.gone = True
        for stream in self._streams.values():
            if stream is not None:
                stream.abort(CloseReason.CLIENT_DISCONNECTED)
        return bool(self._streams)

    async def finish(self) -> None:
        """End what still runs, e.g. a primed stream that an error took the place of."""
        for response, stream in self._streams.items():
            try:
                if stream is not None:
                    await stream.finish()
            finally:
                self.owner._ended(response)


def _connection_class(base: type[Any], owner: Flowstream) -> type[Any]:
    """Return Quart-Trio's connection class with streams in it."""

    class FlowstreamHTTPConnection(base):  # type: ignore[misc]  # whatever the app chose
        async def handle_messages(
            self, nursery: trio.Nursery, request: Request, receive: Receive
        ) -> None:
            async def receive_and_tell() -> MutableMapping[str, Any]:
                message = await receive()
                host = cast("_Host | None", self.scope.get(_HOST))
                if message["type"] == "http.disconnect" and host and host.disconnected():
                    # Quart's answer to a disconnect is to cancel the request at once; the
                    # stream ends it by itself, once its producer has cleaned up.
                    await trio.sleep_forever()
                return message

            await super().handle_messages(nursery, request, receive_and_tell)

        async def handle_request(self, nursery: trio.Nursery, request: Request, send: Send) -> None:
            self.scope[_HOST] = _Host(owner, nursery, send)
            await super().handle_request(nursery, request, send)

        async def _send_response(self, send: Send, response: Any) -> None:
            if not self.scope[_HOST].delivered:
                await super()._send_response(send, response)

    return FlowstreamHTTPConnection


def _dispatching(dispatch: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def dispatch_request(*args: Any) -> Any:
        result = await dispatch(*args)
        response = result[0] if isinstance(result, tuple) and result else result
        if isinstance(response, StreamResponse) and response.prime is not None:
            await _host_of_request().begin(response, request.scope)
        return result

    return dispatch_request


def _converting(make: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def make_response(result: Any) -> Any:
        given = result[0] if isinstance(result, tuple) and result else result
        if isinstance(given, StreamResponse):
            hosted = _Hosted(given, given.status, given.headers)
            result = (hosted, *result[1:]) if isinstance(result, tuple) else hosted
        return await make(result)

    return make_response


def _delivering(dispatch: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def full_dispatch_request(*args: Any) -> Any:
        try:
            response = await dispatch(*args)
            if isinstance(response, _Hosted):
                await _host_of_request().deliver(response, request.scope)
            return response
        finally:
            if _HOST in request.scope:
                await _host_of_request().finish()  # noqa: ASYNC102  # shields itself

    return full_dispatch_request


def _host_of_request() -> _Host:
    scope = cast("Mapping[str, Any]", request.scope)
    if _HOST not in scope:
        raise RuntimeError(
            "there is no connection to stream to: call the app through its ASGI interface "
            "or its test client, not in a test_request_context()"
        )
    return cast(_Host, scope[_HOST])


async def _answer_empty(send: Send, status: int, headers: list[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
