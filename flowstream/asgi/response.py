"""StreamResponse: an ASGI application that streams one source to one client.

`stream()`, `sse()` and the others check their arguments and start nothing. The stream starts when
the response is called, and then makes exactly one report.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Mapping
from typing import Any, NoReturn

import trio

from flowstream._closing import CloseReason
from flowstream._errors import PublicError, StreamUsedError, other_event_loop
from flowstream._live_stream import StreamStatistics
from flowstream._registry import Tally
from flowstream.asgi._advice import warn_of_workers
from flowstream.asgi._carrier import carrier_of
from flowstream.asgi._compression import accepts_gzip, gzip_headers
from flowstream.asgi._early_answer import answer_to, is_handled
from flowstream.asgi._http_transport import HTTPTransport
from flowstream.asgi._request import is_final
from flowstream.asgi._statistics import new_statistics
from flowstream.asgi._stream import Stream
from flowstream.asgi.plan import (
    STREAM_HEADER_NAMES,
    Plan,
)
from flowstream.asgi.receive import Receive, Send, wait_disconnected
from flowstream.sources import Resumable
from flowstream.sources._feed import Feed
from flowstream.tasks._failure import passes

Scope = Mapping[str, Any]


class StreamResponse:
    """A response that streams. `stream`, `sse`, `ndjson`, `csv` and `raw` make it.

    It is an ASGI application: ``await response(scope, receive, send)``. A Quart-Trio view
    and a Starlette route on Trio return it as it is. It can be called once.

    Calling it **waits** until the last byte was written, or until the stream has ended in another
    way: the client left, a deadline passed, or it was cancelled from outside. It returns
    after the producer has cleaned up. It raises nothing once the status line is out.

    Raises:
        StreamUsedError: when it is called a second time.
        RuntimeError: when it is called outside Trio, or for something that is not HTTP.
        Exception: with ``prime=``, what the producer raised before its first item. A
            `PublicError` is answered with its status, unless the app has a handler for it.
    """

    __slots__ = ("_plan", "_stream", "_used")

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._stream: Stream | None = None
        self._used = False

    @property
    def status(self) -> int:
        """The HTTP status it was given."""
        return self._plan.status

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers it will send, names in lower case: a new list at each call."""
        return list(self._plan.headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the stream to one client."""
        stream = await self.open(scope)
        if stream is None:
            await self.answer_empty(scope, send)
            return
        carrier = carrier_of(scope)
        listens = carrier is None or carrier.may_bring_more(scope)
        if not listens and not stream.needs_nursery:
            failure = await self._deliver(stream, scope, send, None)
        else:
            async with trio.open_nursery() as nursery:
                if listens:
                    nursery.start_soon(_listen, stream, receive)
                try:
                    failure = await self._deliver(stream, scope, send, nursery)
                finally:
                    nursery.cancel_scope.cancel()
        if failure is not None:
            # Not in the nursery, which would put it into a group: it is for the framework's
            # error handlers, which look for the exception itself.
            if not isinstance(failure, PublicError) or is_handled(failure, scope):
                raise failure
            await self._answer(failure, scope, send)

    async def _deliver(
        self, stream: Stream, scope: Scope, send: Send, nursery: trio.Nursery | None
    ) -> BaseException | None:
        """Serve `stream`, and return what the framework is to hear of it."""
        try:
            stream.begin(nursery)
            try:
                if self._plan.prime is not None:
                    await stream.prime(self._plan.prime)
                await stream.deliver(self.transport(scope, send, self._plan.status, self.headers))
            finally:
                await stream.finish()  # noqa: ASYNC102  # shields itself
        except BaseException as error:  # noqa: ASYNC103  # see `passes`
            if passes(error):
                raise
            return error  # noqa: ASYNC104  # see `passes`
        return None

    async def _answer(self, error: PublicError, scope: Scope, send: Send) -> None:
        """Answer with what the stream would have failed with, had it begun."""
        status, fields, body = answer_to(error, scope["path"])
        head = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in fields.items()
        ]
        # Without CORS's headers a page of another origin could not read the answer.
        head += [pair for pair in self._plan.headers if pair[0].startswith(b"access-control-")]
        with contextlib.suppress(OSError):  # the client has gone, and nothing is left to end
            await send({"type": "http.response.start", "status": status, "headers": head})
            await send({"type": "http.response.body", "body": body, "more_body": False})

    def stop(self) -> None:
        """End the stream for good: write what is queued, then ``end`` with `stopped`.

        Does nothing before the response was called, or after the stream has ended. The browser
        does not come back after it, as it would after a disconnect.
        """
        if self._stream is not None:
            self._stream.close(CloseReason.STOPPED, "StreamResponse.stop()")

    def statistics(self) -> StreamStatistics:
        """Return what the stream has done so far, and how full its buffer is."""
        if self._stream is None:
            return new_statistics(self._plan.buffer)
        return self._stream.statistics()

    # -- for hosts: what an integration with a framework calls ------------------------------

    @property
    def prime(self) -> float | None:
        """Seconds to wait for the first item before the status line, or None."""
        return self._plan.prime

    @property
    def context(self) -> contextvars.Context:
        """The context variables that the log and ``on_close`` find: those of the view."""
        return self._plan.context

    async def open(self, scope: Scope, tally: Tally | None = None) -> Stream | None:
        """Return the stream for this request, not begun; or None if it gets no body.

        No body goes to a HEAD, and to a client that comes back to what cannot go on (see
        ``on_reconnect``); the source is released then, unopened, and the report made.

        Args:
            scope: the request's.
            tally: counts the stream for its app, beside the registry.

        Raises:
            StreamUsedError, RuntimeError: as for calling the response.
        """
        if self._used:
            raise StreamUsedError("this response was already served: make one per request")
        if scope["type"] != "http":
            raise RuntimeError(f"a StreamResponse answers HTTP requests, not {scope['type']!r}")
        if not trio.lowlevel.in_trio_run():
            raise other_event_loop()
        self._used = True
        self._stream = stream = Stream(self._plan, scope, tally)
        why = "HEAD" if scope.get("method") == "HEAD" else self._returns_in_vain(stream.seen)
        if why:
            await stream.refuse(why)
            return None
        if self._plan.is_feed:
            warn_of_workers(scope)
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
        """Return what the stream is delivered to: the response with this status and headers.

        `direct` is what the app says of all its streams; what the stream's own plan says wins.
        """
        compress = self._plan.compress
        return HTTPTransport(scope, send, status, headers, compress=compress, direct=direct)

    async def answer_empty(self, scope: Scope, send: Send) -> None:
        """Send the answer without a body that goes with `open` returning None."""
        status, headers = self.empty_answer(scope)
        with contextlib.suppress(OSError):  # the client has gone, and nothing is left to end
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    def empty_answer(self, scope: Scope) -> tuple[int, list[tuple[bytes, bytes]]]:
        """Return the status and headers that go with `open` returning None."""
        if scope.get("method") == "HEAD":
            return self._plan.status, self.headers_for(scope, self.headers)
        # WHATWG HTML § 9.2.3: 204 is what makes an EventSource stop reconnecting; from another
        # origin only with the CORS headers, so the app's own headers go with it.
        own = [pair for pair in self._plan.headers if pair[0] not in STREAM_HEADER_NAMES]
        return 204, [*own, (b"cache-control", b"no-store")]

    def headers_for(
        self, scope: Scope, headers: list[tuple[bytes, bytes]]
    ) -> list[tuple[bytes, bytes]]:
        """Return `headers` as a client with this request gets them: it may ask for gzip."""
        coded = None
        if self._plan.compress == "gzip" and accepts_gzip(scope):
            coded = gzip_headers(headers)
        return headers if coded is None else coded

    def _returns_in_vain(self, seen: str | None) -> str:
        """Return why a client that comes back gets nothing; "" if it gets something."""
        if seen is None or not self._plan.encoder.in_band:
            return ""
        if is_final(seen):
            return "Last-Event-ID of an end"
        refuse = self._plan.on_reconnect == "refuse" and not isinstance(
            self._plan.source, (Feed, Resumable)
        )
        return "on_reconnect='refuse'" if refuse else ""

    # Quart's type of what a view may return has room for an iterator of text, and for nothing
    # else that a class of ours could be: with these two methods a view that returns a stream
    # type-checks. They also make FastAPI, which would turn a return value that it does not
    # know into `{}`, raise instead.

    def __iter__(self) -> StreamResponse:
        raise self._is_no_data()

    def __next__(self) -> NoReturn:
        raise self._is_no_data()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> NoReturn:
        """Refuse to be a model's field: FastAPI makes one of a view's return annotation."""
        raise TypeError(
            "a StreamResponse is no data that FastAPI could describe: annotate the view with "
            "`-> Response` (from fastapi import Response) and return "
            "flowstream.starlette.response(...) of the stream"
        )

    def _is_no_data(self) -> TypeError:
        return TypeError(
            "a StreamResponse is an ASGI application, not data; in FastAPI return "
            "flowstream.starlette.response(...) of it"
        )


async def _listen(stream: Stream, receive: Receive) -> None:
    await wait_disconnected(receive)
    stream.abort(CloseReason.CLIENT_DISCONNECTED, "http.disconnect")
