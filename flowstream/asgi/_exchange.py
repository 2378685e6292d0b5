"""StreamExchange: one request, and the stream that answers it, step by step.

Each host of streams takes these steps: a bare ASGI app and Starlette through `StreamResponse`,
Quart through its extension.

* `open` makes the stream, if this client gets one.
* `transport` makes the HTTP response that carries it, with the status and headers of the app.
* `empty_answer` says what a client gets that gets no stream.

Apps hold a `StreamResponse`. It does not have these methods, because they are for hosts alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import trio

from flowstream._errors import StreamUsedError, other_event_loop
from flowstream._registry import Tally
from flowstream.asgi._advice import warn_of_workers
from flowstream.asgi._compression import accepts_gzip, gzip_headers
from flowstream.asgi._http_transport import HTTPTransport
from flowstream.asgi._response_plan import STREAM_HEADER_NAMES, ResponsePlan
from flowstream.asgi._stream import Stream
from flowstream.asgi.plan import Plan
from flowstream.asgi.receive import Send
from flowstream.ids._event_id import is_final
from flowstream.sources._feed import Feed

Scope = Mapping[str, Any]


class StreamExchange:
    """One request, and the stream that answers it.

    Args:
        plan: what is delivered.
        response_plan: the response that carries it.

    Attributes:
        stream: the stream, once it is opened.
    """

    __slots__ = ("_used", "plan", "response_plan", "stream")

    def __init__(self, plan: Plan, response_plan: ResponsePlan) -> None:
        self._used = False
        self.plan: Plan = plan
        self.response_plan: ResponsePlan = response_plan
        self.stream: Stream | None = None

    async def open(self, scope: Scope, tally: Tally | None = None) -> Stream | None:
        """Return the stream for this request, not begun; or None if the client gets no body.

        A HEAD request gets no body, nor does a client that comes back to a source that can't go on
        (see ``on_reconnect``). Then the source is released, unopened, and the report made.

        Args:
            scope: the request's.
            tally: counts the stream for its app, beside the registry.

        Raises:
            StreamUsedError: it was opened before.
            RuntimeError: outside Trio, or for something that is not HTTP.
        """
        if self._used:
            raise StreamUsedError("this response was already served: make one per request")
        if scope["type"] != "http":
            raise RuntimeError(f"a StreamResponse answers HTTP requests, not {scope['type']!r}")
        if not trio.lowlevel.in_trio_run():
            raise other_event_loop()
        self._used = True
        self.stream = stream = Stream(self.plan, scope, tally)
        why = "HEAD" if scope.get("method") == "HEAD" else self._returns_in_vain(stream.seen)
        if why:
            await stream.refuse(why)
            return None
        if isinstance(self.plan.source, Feed):
            warn_of_workers(scope, self.plan.source)
        return stream

    def transport(
        self,
        scope: Scope,
        send: Send,
        status: int,
        headers: list[tuple[bytes, bytes]],
        *,
        direct: bool | None = None,
    ) -> HTTPTransport:
        """Return the response that carries the stream, with this status and these headers.

        `direct` is the app's setting for all its streams; the stream's own setting wins.
        """
        compress = self.response_plan.compress
        return HTTPTransport(scope, send, status, headers, compress=compress, direct=direct)

    def empty_answer(self, scope: Scope) -> tuple[int, list[tuple[bytes, bytes]]]:
        """Return the status and headers for a client for which `open` returned None."""
        plan = self.response_plan
        if scope.get("method") == "HEAD":
            return plan.status, self.headers_for(scope, list(plan.headers))
        # WHATWG HTML § 9.2.3: 204 makes an EventSource stop reconnecting. On another origin it
        # does so only with the CORS headers, so the app's own headers go along.
        own = [pair for pair in plan.headers if pair[0] not in STREAM_HEADER_NAMES]
        return 204, [*own, (b"cache-control", b"no-store")]

    def headers_for(
        self, scope: Scope, headers: list[tuple[bytes, bytes]]
    ) -> list[tuple[bytes, bytes]]:
        """Return `headers` as they are for this request: with gzip, if the client asks for it."""
        coded = None
        if self.response_plan.compress == "gzip" and accepts_gzip(scope):
            coded = gzip_headers(headers)
        return headers if coded is None else coded

    def _returns_in_vain(self, seen: str | None) -> str:
        """Return why a client that comes back gets no stream; "" if it gets one."""
        if seen is None or not self.plan.encoder.in_band:
            return ""
        if is_final(seen):
            return "Last-Event-ID of an end"
        refuse = self.response_plan.on_reconnect == "refuse" and not self.plan.resumes
        return "on_reconnect='refuse'" if refuse else ""
