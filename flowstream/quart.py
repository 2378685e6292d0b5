"""The Quart-Trio extension: a view returns a stream as it returns any other response.

Quart sends a response after it has left the request's context, stops any response after
``RESPONSE_TIMEOUT`` (60 s), and cancels a request's tasks when the client disconnects. None
of that suits a stream. `Flowstream(app)` puts functions in the way of a request, each of use
only where the app answers with a `StreamResponse`:

* ``preprocess_request`` and ``dispatch_request``: a stream with ``prime=`` is begun here,
  where what its producer raises goes through the app's error handlers;
* ``make_response``: the stream becomes a Quart response, which ``after_request`` functions
  may change: status, headers, cookies;
* ``finalize_request``: the stream is delivered here, after these functions and still inside
  the request's context, so that ``request``, ``session`` and ``g`` work in a producer and
  teardown functions run after the last byte. Quart comes by here with a view's answer and
  with that of a handler of unhandled exceptions;
* ``full_dispatch_request``: a primed stream that something else took the place of ends here.

The connection class is replaced by one that tells the stream of a disconnect instead of
cancelling around it. Quart 0.23 gives these functions other arguments than 0.22; they are
passed on as they come.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import quart.wrappers.base
import trio
from quart import Response as QuartResponse
from quart import has_request_context, request, websocket
from quart.wrappers import Request
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection
from werkzeug.exceptions import Forbidden, HTTPException, ServiceUnavailable

from flowstream._closing import CloseReason
from flowstream._errors import PublicError
from flowstream._supervised import SupervisedNursery, prefer
from flowstream.asgi._answers import answer_to
from flowstream.asgi._connection import carrier_of
from flowstream.asgi._stream import Stream
from flowstream.asgi.receive import Receive, Send
from flowstream.asgi.response import StreamResponse
from flowstream.topics import NotAuthorizedError, TooManyTopicsError

__all__ = ["Flowstream", "FlowstreamStatistics"]

_HOST = "flowstream.quart"

# Quart writes headers in UTF-8; a stream's own, which may be in Latin-1, come through as they are.
_CODEC = ("utf-8", "surrogateescape")

# What Quart 0.23 makes of the OSError of a server whose `send` fails after a disconnect.
_ClientGone: type[Exception] = getattr(quart.wrappers.base, "ClientDisconnectedError", OSError)


@dataclass(frozen=True, slots=True)
class FlowstreamStatistics:
    """A moment of one app's streams."""

    open: int
    """Streams that run now."""
    closed: Mapping[str, int]
    """Streams that have ended since the app was made, by close reason."""


class Flowstream:
    """Lets the views of a Quart-Trio app return streams, and runs outlive their requests.

    Outside Quart ``async with Flowstream():`` around what is served does the latter.

    Args:
        app: the app; or None, to call `init_app` later.

    Raises:
        TypeError: `app` is a Quart app that does not run on Trio.
    """

    def __init__(self, app: QuartTrio | None = None) -> None:
        self._open: set[StreamResponse] = set()
        self._closed: Counter[str] = Counter()
        self._outside: SupervisedNursery | None = None  # opened by `async with`
        self._inside: SupervisedNursery | None = None  # open while the app is served
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
        patched.preprocess_request = _priming(app.preprocess_request)
        patched.dispatch_request = _priming(app.dispatch_request)
        patched.make_response = _converting(app.make_response)
        patched.finalize_request = _delivering(app.finalize_request)
        patched.full_dispatch_request = _finishing(app.full_dispatch_request)
        patched.asgi_http_class = _connection_class(app.asgi_http_class, self)

        self._keep_open_while_serving(app)
        handlers = app.error_handler_spec[None][None]
        for error, status in _STATUS.items():
            handlers.setdefault(error, _answering(app, status))
        handlers.setdefault(PublicError, _answer_publicly)

    async def __aenter__(self) -> Flowstream:
        """Open the nursery that runs need, where no Quart app's lifespan does."""
        if self._outside is not None:
            raise RuntimeError("this Flowstream is open already")
        self._outside = SupervisedNursery()
        await self._outside.__aenter__()
        return self

    async def __aexit__(self, *raised: Any) -> bool | None:
        """End what runs in it, and **wait** for that."""
        nursery, self._outside = self._outside, None
        assert nursery is not None
        return await nursery.__aexit__(*raised)  # noqa: ASYNC102  # it is bounded

    def statistics(self) -> FlowstreamStatistics:
        """Return how many streams run, and how those before them ended."""
        return FlowstreamStatistics(open=len(self._open), closed=dict(self._closed))

    def _keep_open_while_serving(self, app: QuartTrio) -> None:
        """Have a supervised nursery be open from the startup of `app` to its shutdown."""
        closing: trio.Event
        closed: trio.Event

        async def keep_open(task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC114
            try:
                async with SupervisedNursery() as self._inside:
                    task_status.started()
                    await closing.wait()
            finally:
                self._inside = None
                closed.set()

        # In a task of its own, and not around a `yield` of `while_serving`: such generators are
        # not ended in the order that nurseries need.
        @app.before_serving
        async def open_nursery() -> None:
            nonlocal closing, closed
            closing, closed = trio.Event(), trio.Event()
            await app.nursery.start(keep_open)

        @app.after_serving
        async def close_nursery() -> None:
            closing.set()
            await closed.wait()

    def _opened(self, response: StreamResponse) -> None:
        self._open.add(response)

    def _ended(self, response: StreamResponse) -> None:
        self._open.discard(response)
        reason = response.statistics().reason
        assert reason is not None
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
            self.headers.add(*_as_text(name, value))

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


def _as_text(name: bytes, value: bytes) -> tuple[str, str]:
    # Streams have the same headers, and hold on to them for as long as they last.
    return sys.intern(name.decode(*_CODEC).title()), sys.intern(value.decode(*_CODEC))


class _Host:
    """What one request's connection knows of the stream it serves."""

    def __init__(
        self,
        owner: Flowstream,
        nursery: trio.Nursery,
        send: Send,
        stop_listening: Callable[[], None],
    ) -> None:
        self.owner = owner
        self.nursery = nursery
        self.send = send
        self.stop_listening = stop_listening
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
        self._streams[response] = stream = await response.open(scope)
        self.owner._opened(response)
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
        status, headers = hosted.head()
        await self.begin(response, scope)
        stream = self._streams[response]
        self.delivered = True
        if carrier_of(scope) is not None:
            self.stop_listening()  # the connection itself reports its end: a task less
        if stream is not None:
            await stream.deliver(self.send, status, headers)
        elif scope["method"] == "HEAD":
            await _answer_empty(self.send, status, headers)
        else:
            # With the app's own headers: without CORS's, a page of another origin would see
            # a network error, after which an EventSource may come back (WHATWG HTML § 9.2.3).
            status, own = response.empty_answer(scope)
            replaced = {b"content-type", *(name for name, _ in own)}
            own.extend(pair for pair in headers if pair[0] not in replaced)
            await _answer_empty(self.send, status, own)

    def disconnected(self) -> bool:
        """Tell the streams that the client has gone; return whether one is the answer.

        It still is when it has been delivered and the app's teardown functions run.
        """
        self.gone = True
        for stream in self._streams.values():
            if stream is not None:
                stream.abort(CloseReason.CLIENT_DISCONNECTED)
        return self.delivered or bool(self._streams)

    async def finish(self) -> None:
        """End what still runs, e.g. a primed stream that an error took the place of."""
        streams, self._streams = self._streams, {}
        for response, stream in streams.items():
            try:
                if stream is not None:
                    await stream.finish()
            finally:
                self.owner._ended(response)
        if streams and self.gone and not self.delivered:
            # What has taken its place is no stream of ours: a disconnect cancels it.
            self.nursery.cancel_scope.cancel()


def _connection_class(base: type[Any], owner: Flowstream) -> type[Any]:
    """Return Quart-Trio's connection class with streams in it."""

    class FlowstreamHTTPConnection(base):  # type: ignore[misc]  # whatever the app chose
        async def handle_messages(
            self, nursery: trio.Nursery, request: Request, receive: Receive
        ) -> None:
            async def receive_and_tell() -> MutableMapping[str, Any]:
                self._listen_on()
                message = await receive()
                host = cast("_Host | None", self.scope.get(_HOST))
                if message["type"] == "http.disconnect" and host and host.disconnected():
                    # Quart's answer to a disconnect is to cancel the request at once; the
                    # stream ends it by itself, once its producer has cleaned up.
                    await trio.sleep_forever()
                self._complete = not message.get("more_body", False)
                return message

            with self._listening:
                await super().handle_messages(nursery, request, receive_and_tell)

        async def handle_request(self, nursery: trio.Nursery, request: Request, send: Send) -> None:
            prefer(owner._inside)
            self.scope[_HOST] = _Host(owner, nursery, _raising_oserror(send), self._stop_listening)
            await super().handle_request(nursery, request, send)

        async def __call__(self, receive: Receive, send: Send) -> None:
            self._listening = trio.CancelScope()
            self._complete = False  # the request's body has come
            self._needed = True
            if base.__call__ is not TrioASGIHTTPConnection.__call__:
                await super().__call__(receive, send)
                return
            # Quart-Trio's, but that it runs the request in a task of its own, which for as long
            # as a stream lasts would take 3 KB.
            request = self._create_request_from_scope(send)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.handle_messages, nursery, request, receive)
                await self.handle_request(nursery, request, send)

        def _stop_listening(self) -> None:
            self._needed = False
            self._listen_on()

        def _listen_on(self) -> None:
            if self._complete and not self._needed:
                self._listening.cancel()

        async def _send_response(self, send: Send, response: Any) -> None:
            if not self.scope[_HOST].delivered:
                await super()._send_response(send, response)

    return FlowstreamHTTPConnection


def _raising_oserror(send: Send) -> Send:
    async def send_or_oserror(message: MutableMapping[str, Any]) -> None:
        try:
            await send(message)
        except _ClientGone as error:
            raise BrokenPipeError("the client has gone") from error

    return send_or_oserror


_STATUS: dict[type[Exception], type[HTTPException]] = {
    NotAuthorizedError: Forbidden,
    TooManyTopicsError: ServiceUnavailable,
}


def _answering(app: QuartTrio, status: type[HTTPException]) -> Callable[[Any], Awaitable[Any]]:
    """Return an error handler that answers as the app answers that status elsewhere."""

    async def answer(error: Exception) -> Any:
        return await app.handle_http_exception(status())

    return answer


async def _answer_publicly(error: Exception) -> QuartResponse:
    assert isinstance(error, PublicError)
    # A WebSocket that is not accepted yet is answered, too, where the server can do that.
    path = request.path if has_request_context() else websocket.path
    status, headers, body = answer_to(error, path)
    return QuartResponse(body, status, dict(headers))


_Step = Callable[..., Awaitable[Any]]


def _priming(step: _Step) -> _Step:
    async def prime_what_is_returned(*args: Any, **kwargs: Any) -> Any:
        result = await step(*args, **kwargs)
        response = result[0] if isinstance(result, tuple) and result else result
        if isinstance(response, _Hosted):  # the view has called make_response itself
            response = response.stream_response
        if isinstance(response, StreamResponse) and response.prime is not None:
            await _host_of_request().begin(response, request.scope)
        return result

    return prime_what_is_returned


def _converting(make: _Step) -> _Step:
    async def make_response(result: Any) -> Any:
        given = result[0] if isinstance(result, tuple) and result else result
        if isinstance(given, StreamResponse):
            if not has_request_context():
                raise TypeError("a WebSocket view cannot return a stream: it is an HTTP response")
            hosted = _Hosted(given, given.status, given.headers)
            result = (hosted, *result[1:]) if isinstance(result, tuple) else hosted
        return await make(result)

    return make_response


def _delivering(finalize: _Step) -> _Step:
    async def finalize_request(*args: Any, **kwargs: Any) -> Any:
        response = await finalize(*args, **kwargs)
        if isinstance(response, _Hosted):
            host = _host_of_request()
            try:
                await host.deliver(response, request.scope)
            finally:
                await host.finish()  # noqa: ASYNC102  # shields itself
        return response

    return finalize_request


def _finishing(dispatch: _Step) -> _Step:
    async def full_dispatch_request(*args: Any, **kwargs: Any) -> Any:
        try:
            return await dispatch(*args, **kwargs)
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
    with contextlib.suppress(OSError):  # the client has gone, and nothing is left to end
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
