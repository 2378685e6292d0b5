"""Plan: what a stream is to be, checked as a whole before there is a client.

Everything that can be wrong with the arguments of `stream()` is found here, at the call, in
the view that made it, where it is still an ordinary error of the app.
"""

from __future__ import annotations

import contextvars
import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypedDict

from flowstream._closing import StreamReport
from flowstream._event import Where, check_retry
from flowstream.abc import Encoder, Policy
from flowstream.asgi._disposition import attachment
from flowstream.event_types import EventTypes
from flowstream.limits import Buffer, Limits, check_positive
from flowstream.policies import Block
from flowstream.sources import Source, as_source
from flowstream.sources._feed import Feed
from flowstream.topics._subscription import Subscription, SubscriptionManager, check_policy

Headers = Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]]
OnReconnect = Literal["refuse", "restart"]
Compression = Literal["gzip"]
OnClose = Callable[[StreamReport], object]

_STREAM_HEADERS = (
    # no-transform: RFC 9111 § 5.2.2.6; proxies that compress a stream also buffer it.
    # no-store: a response that Chromium might cache, "no-cache" or not, it takes into memory
    # as fast as it comes, whatever the page reads: no server would ever feel a slow reader.
    (b"cache-control", b"no-cache, no-transform, no-store"),
    # nginx buffers a proxied response unless this says no.
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
)

STREAM_HEADER_NAMES = frozenset(
    {b"content-type", b"content-disposition", *(name for name, _ in _STREAM_HEADERS)}
)
"""The names of the headers that streams have, and that make no sense without a body."""

# The server frames the body and owns the connection (RFC 9110 § 7.6.1, RFC 9113 § 8.2.2);
# a length or a framing from the app would break it.
_FORBIDDEN_HEADERS = (
    b"content-length",
    b"transfer-encoding",
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"upgrade",
)

# RFC 9110 § 5.1 and § 5.5: a token; and text without control characters, TAB apart. What a
# server's own check refuses would be refused too late: when the response is under way.
_HEADER_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_HEADER_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


class StreamOptions(TypedDict, total=False):
    """The keywords that every kind of stream takes; `stream` says what each means."""

    buffer: int | Buffer
    policy: Policy | None
    heartbeat: float | None
    limits: Limits
    status: int
    headers: Headers
    filename: str | None
    compress: Compression | None
    prime: float | None
    controls: bool
    on_reconnect: OnReconnect
    retry: int | None
    on_close: OnClose | None
    where: Where | None
    events: EventTypes | None
    direct: bool | None


_KEYWORDS = frozenset(StreamOptions.__annotations__)

# What a buffer holds unless it is said.
_ITEMS = 256
_BUFFER = Buffer(_ITEMS)


def check_keywords(function: str, options: Mapping[str, object], own: Iterable[str] = ()) -> None:
    """Refuse a keyword that streams do not have, in the name of the function that was called.

    Args:
        function: what the app called, such as ``"sse"``.
        options: the keywords that it gave for `StreamOptions`.
        own: further keywords of that function, which may be what was meant.

    Raises:
        TypeError: one of `options` is unknown; says which keyword is most like it.
    """
    for name in options:
        if name not in _KEYWORDS:
            near = difflib.get_close_matches(name, [*_KEYWORDS, *own], n=1)
            meant = f". Did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{meant}")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a stream is to be: everything that was decided before there is a client."""

    source: Source | Feed
    encoder: Encoder
    buffer: Buffer
    policy: Policy
    heartbeat: float | None
    limits: Limits
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    compress: Compression | None
    """How it is encoded for the clients that ask for that."""
    prime: float | None
    controls: bool
    on_reconnect: OnReconnect
    retry: int | None
    on_close: OnClose | None
    where: Where | None
    direct: bool | None
    """Whether publishers may write directly past what stands between; None to find out."""
    after: str | None
    """The id to begin after, for a client that does not say what it saw last."""
    length: int | None
    """The bytes of its body, where that is promised; see `Source.length`."""
    is_feed: bool
    """Whether its source is a topic or a run."""
    context: contextvars.Context
    """What the context variables were where the plan was made: in the view, inside its spans."""


def make_plan(
    source: Any,
    encoder: Encoder,
    *,
    buffer: int | Buffer = _ITEMS,
    policy: Policy | None = None,
    heartbeat: float | None = 15.0,
    limits: Limits = Limits(),  # noqa: B008  # frozen
    status: int = 200,
    headers: Headers = (),
    filename: str | None = None,
    compress: Compression | None = None,
    prime: float | None = None,
    controls: bool = True,
    on_reconnect: OnReconnect = "refuse",
    retry: int | None = None,
    on_close: OnClose | None = None,
    where: Where | None = None,
    events: EventTypes | None = None,
    direct: bool | None = None,
) -> Plan:
    """Return the plan for one stream; `stream` says what the arguments mean.

    Raises:
        SourceError: `source` is no source of items.
        TypeError, ValueError: another argument is not what it should be.
    """
    if not isinstance(encoder, Encoder):
        raise TypeError(f"encoder must be an Encoder such as SSE(), not {_kind(encoder)}")
    if events is not None:
        if not isinstance(events, EventTypes):
            raise TypeError(f"events must be an EventTypes(...), not {_kind(events)}")
        encoder = events.encoder(encoder)
    if policy is not None and not isinstance(policy, Policy):
        raise TypeError(f"policy must be a Policy such as DropOldest(), not {_kind(policy)}")
    if not isinstance(limits, Limits):
        raise TypeError(f"limits must be a Limits, not {_kind(limits)}")
    if heartbeat is not None:
        check_positive("heartbeat", heartbeat, unit="seconds")
    if prime is not None:
        check_positive("prime", prime, unit="seconds")
    if retry is not None:
        check_retry(retry)
    if on_reconnect not in ("refuse", "restart"):
        raise ValueError(f"on_reconnect must be 'refuse' or 'restart', not {on_reconnect!r}")
    if not isinstance(controls, bool):
        raise TypeError(f"controls must be True or False, not {_kind(controls)}")
    if direct is not None and not isinstance(direct, bool):
        raise TypeError(f"direct must be True, False or None, not {_kind(direct)}")
    if compress not in (None, "gzip"):
        raise ValueError(f"compress must be 'gzip', or None for nothing, not {compress!r}")
    if on_close is not None:
        _check_on_close(on_close)
    after = None
    if isinstance(source, SubscriptionManager):
        if policy is not None or where is not None:
            raise TypeError("a subscription has its policy= and where= already: give them to it")
        policy, where, after = source.terms.policy, source.terms.where, source.terms.after
        buffer = source.buffer if buffer == _ITEMS else buffer
        source = source.feed
    found = as_source(source)
    is_feed = isinstance(found, Feed)
    if isinstance(found, Source) and found.typed and not encoder.in_band:
        raise TypeError(
            f"{type(encoder).__name__} has no room for the events of progress(): give it "
            "tell=function, which is called with each in their place"
        )
    if isinstance(source, Subscription):
        if policy is not None:
            raise TypeError("a subscription has its policy already: give it to subscribe()")
        on_reconnect = "restart"  # whoever subscribed has said from where on
    if isinstance(found, Feed):
        policy = check_policy(policy, found)
        if prime is not None:
            raise TypeError(
                "a topic or a run cannot be primed: nobody knows when its next event comes"
            )
    elif policy is not None and policy.rereads:
        raise TypeError("CatchUp is for topics and runs: a source of one client has no replay")
    elif where is not None:
        raise TypeError("where= is for topics: a source of one client can leave out items itself")
    elif direct:
        raise TypeError("direct=True is for topics and runs: other sources have no publisher")
    if where is not None and not callable(where):
        raise TypeError(f"where must be a function of an event, not {_kind(where)}")
    policy = Block() if policy is None else policy
    length = None if compress else _length(found, encoder, policy)
    own = _own_headers(headers, filename, compress)
    return Plan(
        source=found,
        encoder=encoder,
        buffer=_BUFFER if buffer is _ITEMS else Buffer.of(buffer),
        policy=policy,
        heartbeat=heartbeat,
        limits=limits,
        status=_check_status(_own_status(found) if status == 200 else status),
        headers=_merge_headers(encoder, found, own, length),
        compress=compress,
        prime=prime,
        controls=controls and encoder.in_band,
        on_reconnect=on_reconnect,
        retry=retry,
        on_close=on_close,
        where=where,
        direct=direct,
        after=after,
        length=length,
        is_feed=is_feed,
        context=contextvars.copy_context(),
    )


def _check_status(status: int) -> int:
    if isinstance(status, bool) or not isinstance(status, int):
        raise TypeError(f"status must be an int, not {_kind(status)}")
    if not 200 <= status <= 599 or status in (204, 205, 304):
        raise ValueError(f"status must be from 200 to 599 and allow a body, not {status}")
    return status


def _check_on_close(on_close: OnClose) -> None:
    if not callable(on_close):
        raise TypeError(f"on_close must be a function, not {_kind(on_close)}")
    if any(map(inspect.iscoroutinefunction, (on_close, type(on_close).__call__))):
        raise TypeError(
            "on_close must be a plain function: the stream is over, nobody would await it; "
            "to await something, send the report into a channel with send_nowait"
        )


def _own_status(source: Source | Feed) -> int:
    status = source.status if isinstance(source, Source) else None
    return 200 if status is None else status


def _length(source: Source | Feed, encoder: Encoder, policy: Policy) -> int | None:
    whole = encoder.verbatim and isinstance(policy, Block)
    return source.length if whole and isinstance(source, Source) else None


def _own_headers(
    given: Headers, filename: str | None, compress: Compression | None
) -> list[tuple[bytes, bytes]]:
    """Return the app's headers: those that it gave, and those of its other arguments."""
    if given == () and filename is None and compress is None:
        return []
    own = [_check_header(pair) for pair in _pairs(given)]
    if filename is not None:
        if any(name == b"content-disposition" for name, _ in own):
            raise ValueError("give filename= or the header Content-Disposition, not both")
        own.append((b"content-disposition", attachment(filename).encode()))
    if compress is not None:
        # Caches, too, have to know that not every client gets the same bytes.
        own.append((b"vary", b"accept-encoding"))
    return own


def _merge_headers(
    encoder: Encoder, source: Source | Feed, own: list[tuple[bytes, bytes]], length: int | None
) -> tuple[tuple[bytes, bytes], ...]:
    """Return all headers: the app's, then of the others' those that it does not set itself."""
    theirs = source.headers if isinstance(source, Source) else ()
    base = _headers_of(encoder.media_type, encoder.headers)
    if theirs:
        base = (*base, *map(_check_header, theirs))
    if not own and length is None:
        return base
    names = {name for name, _ in own}
    merged = (*(pair for pair in base if pair[0] not in names), *own)
    return merged if length is None else (*merged, (b"content-length", b"%d" % length))


@lru_cache(maxsize=64)  # nearly all streams of an app have the same
def _headers_of(
    media_type: str, further: tuple[tuple[str, str], ...]
) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers of a stream in a format that is of this type, and has these `further`."""
    media = (b"content-type", media_type.encode("latin-1"))
    return (media, *_STREAM_HEADERS, *map(_check_header, further))


def _pairs(given: Any) -> Iterable[Any]:
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise TypeError(
            f"headers must be a mapping, or pairs of name and value, not {_kind(given)}"
        )
    return given.items() if isinstance(given, Mapping) else given


def _check_header(pair: Any) -> tuple[bytes, bytes]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError(f"a header is a pair of name and value, not {pair!r}")
    name, value = _raw(pair[0]).lower(), _raw(pair[1]).strip(b" \t")
    if not _HEADER_NAME.fullmatch(name):
        raise ValueError(f"a header's name must be letters, digits and hyphens, not {pair[0]!r}")
    if not _HEADER_VALUE.fullmatch(value):
        raise ValueError(f"the header {pair[0]!r} has a control character in it: {pair[1]!r}")
    if name in _FORBIDDEN_HEADERS:
        raise ValueError(
            f"the header {pair[0]!r} is the server's: a stream has no length of an app's"
        )
    return name, value


def _raw(text: Any) -> bytes:
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str):
        raise TypeError(f"header names and values must be str or bytes, not {_kind(text)}")
    try:
        return text.encode("latin-1")  # as HTTP/1.1 header values are; ASGI wants bytes
    except UnicodeEncodeError:
        raise ValueError(
            f"a header must be Latin-1 text, or bytes, not {text!r}; for a file's name there is "
            "filename=..., which writes it as filename*=UTF-8''..."
        ) from None


def _kind(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
