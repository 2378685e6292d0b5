"""StreamResponse: an ASGI application that streams one source to one client.

`stream()`, `sse()` and the others check their arguments and start nothing. The stream starts when
the response is called, and then makes exactly one report.
"""

from __future__ import annotations

import contextlib
import contextvars
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, Unpack

import trio

from flowstream._closing import CloseReason
from flowstream._errors import PublicError, StreamUsedError, other_event_loop
from flowstream.abc import Encoder
from flowstream.asgi._advice import warn_of_workers
from flowstream.asgi._carrier import carrier_of
from flowstream.asgi._compression import accepts_gzip, gzip_headers
from flowstream.asgi._early_answer import answer_to, is_handled
from flowstream.asgi._http_transport import HTTPTransport
from flowstream.asgi._request import is_final
from flowstream.asgi._statistics import StreamStatistics, new_statistics
from flowstream.asgi._stream import Stream
from flowstream.asgi.plan import (
    STREAM_HEADER_NAMES,
    Plan,
    StreamOptions,
    check_keywords,
    make_plan,
)
from flowstream.asgi.receive import Receive, Send, wait_disconnected
from flowstream.encoders import CSV, NDJSON, SSE, Raw
from flowstream.encoders._json import BigIntegers, Encode
from flowstream.sources import Resumable, SourceLike
from flowstream.sources._feed import Feed
from flowstream.tasks._failure import passes

Scope = Mapping[str, Any]

# They have no state: one will do for all streams.
_SSE = SSE()
_NDJSON = NDJSON()
_JSON_KEYWORDS = ("encode", "big_integers")


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

    async def open(self, scope: Scope) -> Stream | None:
        """Return the stream for this request, not begun; or None if it gets no body.

        No body goes to a HEAD, and to a client that comes back to what cannot go on (see
        ``on_reconnect``); the source is released then, unopened, and the report made.

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
        self._stream = stream = Stream(self._plan, scope)
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


def stream(
    source: SourceLike, *, encoder: Encoder, **options: Unpack[StreamOptions]
) -> StreamResponse:
    """Return a response that streams `source` in the format of `encoder`.

    Args:
        source: where items come from; see `flowstream.sources`.
        encoder: the wire format.
        buffer: how much may wait between the producer and the client: items, or a `Buffer`
            with bounds in items and bytes. 256 items and 1 MiB by default.
        policy: what happens when that buffer is full. `Block`, the default, makes the
            producer wait; for a topic the default is `DropOldest`, and a `Block` has to have
            a timeout. A subscription has its own.
        heartbeat: seconds of silence after which a heartbeat is sent, or up to a fifth
            earlier; None sends none. 15 s, the default, is what WHATWG HTML § 9.2.7 suggests,
            and less than the 60 s after which nginx closes an idle upstream.
        limits: how long the stream may last, and how much it may send.
        status: the HTTP status, 200 to 599; 204, 205 and 304 have no body and are refused. With
            200, the default, the source may choose another (a part of a file is a 206).
        headers: further headers; one that flowstream sets itself is replaced.
        filename: let a browser save the response under this name. Any text will do; characters
            that a file name may not have are replaced (RFC 6266, RFC 8187).
        compress: ``"gzip"`` compresses for clients that ask for it, and flushes with every write.
            It is meant for exports: it takes some 270 KB for each stream, and events of a topic
            are not written directly.
        prime: seconds to wait for the first item before the status line goes out. If the
            producer fails within that time, the app's error handlers answer.
        controls: whether flowstream's own events (gap, failed, end, ...) and heartbeats
            are put into the stream. A format that cannot carry them never has them.
        on_reconnect: what to do when a client comes back with a ``Last-Event-ID``, if the
            source cannot go on from there. ``"refuse"``, the default, answers 204, which
            stops an EventSource; ``"restart"`` runs the source again.
        retry: milliseconds that an EventSource waits before it reconnects.
        where: for a topic: ``where(event)`` says which of its events this client gets. Events
            that it leaves out are not announced as a gap.
        events: the `EventTypes` that the stream may send; another item is an `EncodingError`.
        direct: for a topic or a run: whether publishers may write to the client's connection
            directly, which costs a tenth. By default they do if only middleware that is known
            to pass bodies on unchanged stands between the stream and flowstream's server. True
            says that the app's own middleware does so too; with False every byte goes through
            the middleware.
        on_close: called once with the `StreamReport`, in the event loop: it must not block.

    Raises:
        SourceError: `source` is no source of items.
        TypeError, ValueError: another argument is not what is said above.
    """
    return _response("stream", source, encoder, options)


def sse(
    source: SourceLike,
    *,
    encode: Encode | None = None,
    big_integers: BigIntegers = "number",
    **options: Unpack[StreamOptions],
) -> StreamResponse:
    """Return a response that streams `source` as server-sent events (WHATWG HTML § 9.2).

    A `str` is sent as it is, and anything else as JSON. Each event gets an id. `stream` explains
    the keywords in more detail.

    Args:
        source: a generator or another iterable, a producer function, a topic, a run, ...
        encode: a function for the app's own types, like ``default`` of `json.dumps`.
        big_integers: ``"string"`` writes integers that JavaScript would round as text.
        buffer: items that may wait for the client, or a `Buffer(items, bytes)`; 256 and 1 MiB.
        policy: what happens when that buffer is full, e.g. `DropOldest()`. By default the
            producer waits; a topic drops the oldest event.
        heartbeat: seconds of silence after which a comment is sent; None for none.
        limits: `Limits(max_duration=, max_bytes=, stall_timeout=, cleanup_timeout=)`.
        status, headers: of the response.
        filename: let a browser save the response under this name.
        compress: ``"gzip"`` for the clients that ask for it.
        prime: seconds to wait for the first item before the status line goes out.
        controls: False to send none of flowstream's own events (gap, failed, end, ...).
        on_reconnect: ``"refuse"`` (204) or ``"restart"``, when a client comes back to a source
            that can't go on where it was.
        retry: milliseconds that an EventSource waits before it reconnects.
        where: for a topic: ``where(event)`` says whether this client gets an event.
        events: an `EventTypes`: the types that the stream may send.
        direct: whether publishers may write past middleware; None decides by itself.
        on_close: called once with the `StreamReport`.

    Raises:
        SourceError: `source` is no source of items.
        TypeError, ValueError: another argument is not what is said above.
    """
    usual = encode is None and big_integers == "number"
    encoder = _SSE if usual else SSE(encode=encode, big_integers=big_integers)
    return _response("sse", source, encoder, options, _JSON_KEYWORDS)


def ndjson(
    source: SourceLike,
    *,
    encode: Encode | None = None,
    big_integers: BigIntegers = "number",
    **options: Unpack[StreamOptions],
) -> StreamResponse:
    """Return a response that streams `source` as NDJSON: one JSON value in each line.

    Takes the keywords of `sse`, and raises what it raises.
    """
    usual = encode is None and big_integers == "number"
    encoder = _NDJSON if usual else NDJSON(encode=encode, big_integers=big_integers)
    return _response("ndjson", source, encoder, options, _JSON_KEYWORDS)


def csv(
    source: SourceLike,
    *,
    columns: Iterable[str] | None = None,
    header: bool = True,
    delimiter: str = ",",
    spreadsheet_safe: bool = False,
    bom: bool | None = None,
    encode: Encode | None = None,
    **options: Unpack[StreamOptions],
) -> StreamResponse:
    """Return a response that streams rows as CSV (RFC 4180).

    `CSV` says what its own keywords mean; the others are those of `sse`.

    A stream that does not end with `completed` is cut without its final chunk, so that half
    an export never looks complete.
    """
    encoder = CSV(
        columns,
        header=header,
        delimiter=delimiter,
        spreadsheet_safe=spreadsheet_safe,
        bom=bom,
        encode=encode,
    )
    own = ("columns", "header", "delimiter", "spreadsheet_safe", "bom", "encode")
    return _response("csv", source, encoder, options, own)


def raw(
    source: SourceLike,
    *,
    media_type: str = "application/octet-stream",
    **options: Unpack[StreamOptions],
) -> StreamResponse:
    """Return a response that streams bytes as they are; takes the keywords of `sse`, too.

    A stream that does not end with `completed` is cut without its final chunk, so that half
    a file never looks complete.
    """
    return _response("raw", source, Raw(media_type), options, ("media_type",))


def _response(
    function: str,
    source: Any,
    encoder: Encoder,
    options: StreamOptions,
    own: Iterable[str] = (),
) -> StreamResponse:
    """Return the response that `function` was called for; `own` are keywords of its own."""
    check_keywords(function, options, own)
    _check_quart_app()
    return StreamResponse(make_plan(source, encoder, **options))


def _check_quart_app() -> None:
    """Refuse to make a stream in a view of a Quart app that can't send it.

    Quart would only say that the value's type is not valid.

    Raises:
        RuntimeError: the app has no `flowstream.quart.Flowstream`.
    """
    quart = sys.modules.get("quart")
    if quart is None or not quart.has_request_context():
        return
    if "flowstream" not in quart.current_app.extensions:
        raise RuntimeError(
            "this Quart app can't send a stream yet: make it a QuartTrio, and write "
            "`Flowstream(app)` where it is made (from flowstream.quart import Flowstream)"
        )
