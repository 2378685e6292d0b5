"""One request's streams in Quart: the response that stands for one, and what delivers it.

A stream on its way through an app is a Quart response without a body, so that the app's own
functions may change its status, headers and cookies. Behind these it is delivered, from
within the request's context, by the host that the request's connection has.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, cast

import trio
from quart import Response as QuartResponse
from quart import request

from flowstream._closing import CloseReason
from flowstream.asgi._connection import carrier_of
from flowstream.asgi._live import Live
from flowstream.asgi._stream import Stream
from flowstream.asgi.receive import Send
from flowstream.asgi.response import StreamResponse

HOST = "flowstream.quart"
"""The key of a request's host in its scope."""

# Quart writes headers in UTF-8; a stream's own, which may be in Latin-1, come through as they are.
_CODEC = ("utf-8", "surrogateescape")


class Streams:
    """The streams of one app, counted.

    Attributes:
        open: those that run.
        closed: how many have ended, by close reason.
    """

    def __init__(self) -> None:
        self.open: set[StreamResponse] = set()
        self.closed: Counter[str] = Counter()

    def begun(self, response: StreamResponse) -> None:
        """Count a stream as running."""
        self.open.add(response)

    def ended(self, response: StreamResponse) -> None:
        """Count it as ended."""
        self.open.discard(response)
        reason = response.statistics().reason
        assert reason is not None
        self.closed[reason.value] += 1


class Hosted(QuartResponse):
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


class Host(Live):
    """What one request's connection knows of the stream it serves."""

    def __init__(
        self,
        streams: Streams,
        nursery: trio.Nursery,
        send: Send,
        stop_listening: Callable[[], None],
        direct: bool | None,
    ) -> None:
        self.counted = streams
        self.direct = direct
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
        self.counted.begun(response)
        if stream is None:
            return
        if self.gone:
            stream.abort(CloseReason.CLIENT_DISCONNECTED)
        stream.begin(self.nursery)
        if response.prime is not None:
            await stream.prime(response.prime)

    async def deliver(self, hosted: Hosted, scope: Mapping[str, Any]) -> None:
        """Send the response that the app has made of the stream, and its body."""
        response = hosted.stream_response
        status, headers = hosted.head()
        await self.begin(response, scope)
        stream = self._streams[response]
        self.delivered = True
        if carrier_of(scope) is not None:
            self.stop_listening()  # the connection itself reports its end: a task less
        if stream is not None:
            await stream.deliver(self.send, status, headers, direct=self.direct)
        elif scope["method"] == "HEAD":
            await _answer_empty(self.send, status, response.headers_for(scope, headers))
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
                self.counted.ended(response)
        if streams and self.gone and not self.delivered:
            # What has taken its place is no stream of ours: a disconnect cancels it.
            self.nursery.cancel_scope.cancel()


def host_of_request() -> Host:
    scope = cast("Mapping[str, Any]", request.scope)
    if HOST not in scope:
        raise RuntimeError(
            "there is no connection to stream to: call the app through its ASGI interface "
            "or its test client, not in a test_request_context()"
        )
    return cast(Host, scope[HOST])


async def _answer_empty(send: Send, status: int, headers: list[tuple[bytes, bytes]]) -> None:
    with contextlib.suppress(OSError):  # the client has gone, and nothing is left to end
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
