"""Event: one item with its envelope.

A producer may yield plain values. It wraps a value in an `Event` to give it an id, a type or a
key, or to say that it must not be dropped. `Event` is a class with slots and not a frozen
dataclass, because one is made for each item, and a dataclass takes three times as long to make.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

_FORBIDDEN = ("\n", "\r", "\0")


def check_field(name: str, value: str) -> str:
    """Return `value` if it can stand on one line of any format, else raise.

    WHATWG HTML § 9.2.6: a line break ends a field, and an ``id`` with a NUL is ignored by
    browsers. Passing either through would lose the id or let data forge fields.

    Raises:
        TypeError: if `value` is not a `str`.
        ValueError: if it contains CR, LF or NUL.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    for char in _FORBIDDEN:
        if char in value:
            raise ValueError(f"{name} must not contain CR, LF or NUL: {value!r}")
    return value


class Event:
    """One item of a stream with its envelope.

    Args:
        data: the item itself. What it may be depends on the encoder: SSE sends a `str` as
            it is and anything else as JSON; NDJSON takes JSON values, CSV rows, raw bytes.
        id: the position of the event; a client sends it back in ``Last-Event-ID``.
        type: the event's name (``event:`` in SSE, ``"type"`` in NDJSON).
        key: what the event is about; `Conflate` keeps the newest event per key.
        essential: no policy drops it. A buffer full of essential events makes the
            producer wait.
        retry: milliseconds a browser waits before it reconnects (SSE ``retry:``).

    Raises:
        TypeError, ValueError: if `id` or `type` is not a `str` or contains CR, LF or NUL,
            or if `retry` is not a non-negative `int`.
    """

    __slots__ = ("data", "essential", "id", "key", "retry", "type")

    def __init__(
        self,
        data: Any,
        *,
        id: str | None = None,
        type: str | None = None,
        key: object = None,
        essential: bool = False,
        retry: int | None = None,
    ) -> None:
        if id is not None:
            check_field("id", id)
        if type is not None:
            check_field("type", type)
        if retry is not None:
            check_retry(retry)
        self.data: Any = data
        self.id: str | None = id
        self.type: str | None = type
        self.key: object = key
        self.essential: bool = essential
        self.retry: int | None = retry

    def __repr__(self) -> str:
        shown = [repr(self.data)]
        shown += [
            f"{name}={value!r}"
            for name in ("id", "type", "key", "essential", "retry")
            if (value := getattr(self, name)) is not None and value is not False
        ]
        return f"Event({', '.join(shown)})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Event):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__: ClassVar[None]  # type: ignore[assignment]  # Python sets it to None: mutable data inside: not a dict key


def copied(event: Event, *, id: str | None) -> Event:
    """Return a copy of `event` with another id."""
    return Event(
        event.data,
        id=id,
        type=event.type,
        key=event.key,
        essential=event.essential,
        retry=event.retry,
    )


def check_retry(retry: int) -> int:
    """Return `retry` if it is a whole number of milliseconds, 0 or more, else raise."""
    if isinstance(retry, bool) or not isinstance(retry, int):
        raise TypeError(f"retry must be an int (milliseconds), not {type(retry).__name__}")
    if retry < 0:
        raise ValueError(f"retry must be 0 or more milliseconds, not {retry}")
    return retry


Where: TypeAlias = Callable[[Event], object]
"""Decides whether one client of a topic gets an event: it does if this returns something true."""
