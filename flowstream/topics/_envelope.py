"""The envelope of an event in a log: how it is stored, and how each worker gets it back.

One array of MessagePack: ``[version, kind, data, type, key, essential, retry]``. The kind says what
the data is:

====  =============  ============================
kind  data           comes back as
====  =============  ============================
0     text           `str`
1     bytes          `bytes`
2     JSON           plain values of JSON
3     JSON           an event of `flowstream.llm`
====  =============  ============================

All workers get the same, the one that published included: a row of a database comes back as the
list or the dict that its JSON is. Nothing is ever pickled, so whoever can write to the log can make
up events, but can't run code.

During a deploy two releases share a log. So a later version only adds fields at the end, which an
older one leaves out. A kind that it does not know it can't read; its clients are told of a gap.
"""

from __future__ import annotations

from typing import get_args

import msgspec

from flowstream._errors import event_in_event, unencodable
from flowstream._event import Event
from flowstream.abc import LogEntry
from flowstream.encoders._json import to_json
from flowstream.llm import ModelEvent

VERSION = 1

_TEXT, _BYTES, _JSON, _MODEL = range(4)
_FIELDS = 7

_MODEL_EVENTS: tuple[type, ...] = get_args(ModelEvent)

_write = msgspec.msgpack.Encoder().encode
_read = msgspec.msgpack.Decoder().decode
_read_json = msgspec.json.Decoder().decode
_read_model = msgspec.json.Decoder(ModelEvent).decode


class UnknownEnvelopeError(ValueError):
    """An event in the log is of a form that this release can't read."""


def wrap(event: Event) -> bytes:
    """Return what the log keeps of an event: all but its id, which the log gives.

    Raises:
        EncodingError: its data has no form in JSON.
        TypeError: its key is neither text nor a number, or its data is an `Event`.
        ValueError: its key is beyond 64 bits.
    """
    data = event.data
    kind = data.__class__
    content: str | bytes
    if kind is str:
        number, content = _TEXT, data
    elif kind is bytes or kind is bytearray or kind is memoryview:
        number, content = _BYTES, bytes(data)
    else:
        try:
            content = to_json(data)
        except (TypeError, ValueError, RecursionError, OverflowError) as error:
            if isinstance(data, Event):
                raise event_in_event() from None
            raise unencodable(data, error) from error
        number = _MODEL if kind in _MODEL_EVENTS else _JSON
    try:
        return _write(
            (VERSION, number, content, event.type, event.key, event.essential, event.retry)
        )
    except UnicodeEncodeError as error:
        raise unencodable(data, error) from error


def unwrap(data: bytes, id: str) -> Event:
    """Return the event that `wrap` was given, with the id that the log gave it.

    Raises:
        UnknownEnvelopeError: a release of another form wrote it, or no release did.
    """
    try:
        fields = _read(data)
        version, kind, content, type, key, essential, retry = fields[:_FIELDS]
        check_key(key)
        value: object
        if kind in (_TEXT, _BYTES):
            if content.__class__ is not (str, bytes)[kind]:
                raise UnknownEnvelopeError(f"data of kind {kind} is a {type(content).__name__}")
            value = content
        elif kind == _JSON:
            value = _read_json(content)
        elif kind == _MODEL:
            value = _read_model(content)
        else:
            raise UnknownEnvelopeError(f"version {version} has a kind {kind!r} of data")
        return Event(value, id=id, type=type, key=key, essential=essential, retry=retry)
    except UnknownEnvelopeError:
        raise
    except (msgspec.MsgspecError, TypeError, ValueError, KeyError, RecursionError) as error:
        raise UnknownEnvelopeError(f"no event: {error}") from error


def name_in_log(kind: str, key: object) -> str:
    """Return what a topic or a run is called in the log."""
    return f"{kind}:{key}"


def log_entry(
    event: Event, keyed: bool, idempotency_key: str | None, idempotency_seconds: float
) -> LogEntry:
    """Return what an append of `event` has.

    Args:
        event: what to publish.
        keyed: whether the log keeps the newest event of each key.
        idempotency_key: see `Topic.publish`.
        idempotency_seconds: see `Topic.publish`.

    Raises:
        EncodingError: the log can't carry its data.
        ValueError: its key is too large.
        TypeError: its key is neither a `str` nor an `int`, or its data is an `Event`.
    """
    check_key(event.key)
    key = key_text(event.key) if keyed else None
    return LogEntry(wrap(event), key, idempotency_key, idempotency_seconds)


def check_key(key: object) -> None:
    """Check the key of an event for a log.

    Raises:
        TypeError: it is neither a `str` nor an `int`.
        ValueError: it is an `int` beyond 64 bits.
    """
    if key is None or key.__class__ is str:
        return
    if not isinstance(key, int | str) or isinstance(key, bool):
        raise TypeError(
            f"a log keeps keys that are text or whole numbers, not {type(key).__name__}: write "
            "key=str(...)"
        )
    if isinstance(key, int) and not -(1 << 63) <= key < 1 << 63:
        raise ValueError(f"a log keeps whole numbers of 64 bits as keys: write key=str({key})")


def key_text(key: object) -> str | None:
    """Return a key as the log's own text, in which 1 and "1" differ; None for no key."""
    if key is None:
        return None
    return f"i{key}" if isinstance(key, int) else f"s{key}"
