"""The functions that make a stream: `stream` for any format, and one for each usual format.

They check everything that can be checked, and start nothing. They return a `StreamResponse`; the
stream starts when that is called.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Unpack, cast

from flowstream.abc import Encoder
from flowstream.asgi._response_plan import ResponseOptions, make_response_plan
from flowstream.asgi.plan import DeliveryOptions, make_plan
from flowstream.asgi.response import StreamResponse
from flowstream.encoders import CSV, NDJSON, SSE, Raw
from flowstream.encoders._json import BigIntegers, Encode
from flowstream.sources import SourceLike

# These have no state, so all streams can share one.
_SSE = SSE()
_NDJSON = NDJSON()
_JSON_KEYWORDS = ("encode", "big_integers")


class StreamOptions(DeliveryOptions, ResponseOptions, total=False):
    """The keywords that every kind of stream takes; `stream` says what each means."""


_KEYWORDS = frozenset(StreamOptions.__annotations__)
_OF_RESPONSE = frozenset(ResponseOptions.__annotations__)


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
            producer wait. For a topic the default is `DropOldest`, and a `Block` must have a
            timeout. A subscription has its own policy.
        heartbeat: seconds of silence after which a heartbeat is sent, or up to a fifth
            earlier; None sends none. 15 s, the default, is what WHATWG HTML § 9.2.7 suggests,
            and less than the 60 s after which nginx closes an idle upstream.
        limits: how long the stream may last, and how much it may send.
        status: the HTTP status, 200 to 599; 204, 205 and 304 have no body and are refused. With
            200, the default, the source may choose another (a part of a file is a 206).
        headers: further headers. They replace those that flowstream sets itself.
        filename: let a browser save the response under this name. Any text will do; characters
            that a file name may not have are replaced (RFC 6266, RFC 8187).
        compress: ``"gzip"`` compresses for clients that ask for it, and flushes with every write.
            It is meant for exports: it takes some 270 KB of memory for each stream, and events of
            a topic are not written directly.
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
            directly, past middleware, which costs a tenth. By default they do if only middleware
            that is known to pass bodies on unchanged stands between the stream and flowstream's
            server. True says that the app's own middleware passes them on unchanged, too. With
            False every byte goes through the middleware.
        on_close: called once with the `StreamReport`, in the event loop: it must not block.

    Raises:
        SourceError: `source` is not a source of items.
        TypeError, ValueError: another argument is not as described above.
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
        direct: whether publishers may write past middleware; None, the default, checks it first.
        on_close: called once with the `StreamReport`.

    Raises:
        SourceError: `source` is not a source of items.
        TypeError, ValueError: another argument is not as described above.
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

    A stream that ends for any other reason than `completed` gets no final chunk, so that half an
    export never looks complete.
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

    A stream that ends for any other reason than `completed` gets no final chunk, so that half a
    file never looks complete.
    """
    return _response("raw", source, Raw(media_type), options, ("media_type",))


def _response(
    function: str,
    source: Any,
    encoder: Encoder,
    options: StreamOptions,
    own: Iterable[str] = (),
) -> StreamResponse:
    """Return the response that `function` promises; `own` are keywords that only it has."""
    _check_keywords(function, options, own)
    _check_quart_app()
    given = options.items()
    of_response = {name: value for name, value in given if name in _OF_RESPONSE}
    of_delivery = {name: value for name, value in given if name not in _OF_RESPONSE}
    plan = make_plan(source, encoder, **cast(DeliveryOptions, of_delivery))
    response_plan = make_response_plan(plan, **cast(ResponseOptions, of_response))
    if response_plan.compress is not None:
        plan = replace(plan, length=None)  # the compressed size is not known
    return StreamResponse(plan, response_plan)


def _check_keywords(function: str, options: Mapping[str, object], own: Iterable[str] = ()) -> None:
    """Refuse a keyword that streams do not have.

    Args:
        function: the function that the app called, such as ``"sse"``; the error names it.
        options: the keywords that the app gave for `StreamOptions`.
        own: further keywords of that function, which the app may have meant.

    Raises:
        TypeError: one of `options` is unknown; the error names the most similar keyword.
    """
    for name in options:
        if name not in _KEYWORDS:
            near = difflib.get_close_matches(name, [*_KEYWORDS, *own], n=1)
            meant = f". Did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{meant}")


def _check_quart_app() -> None:
    """Refuse to make a stream in a view of a Quart app that can't send it.

    Quart's own error would only say that the type of the value is not valid.

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
