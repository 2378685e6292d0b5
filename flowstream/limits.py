"""Bounds: how much a buffer may hold, how long a stream may last, how much it may send.

They are small frozen values, checked when they are made. So a bad value fails where you wrote it,
and not in the first stream that uses it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


def check_positive(name: str, value: float, *, unit: str) -> None:
    """Raise unless `value` is a number above 0.

    Raises:
        TypeError: if it is no number.
        ValueError: if it is 0, negative or NaN.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of {unit}, not {type(value).__name__}")
    if not value > 0:
        raise ValueError(f"{name} must be more than 0 {unit}, not {value!r}")


def check_count(name: str, value: int, *, unit: str) -> None:
    """Raise unless `value` is a whole number of 1 or more.

    Raises:
        TypeError: if it is no `int`.
        ValueError: if it is below 1.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int ({unit}), not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1 ({unit}), not {value}")


class Default(float):
    """The default of a bound: a number that `chosen` tells from the same number set by the app."""

    __slots__ = ()


def chosen(bound: float) -> float | None:
    """Return `bound` if the app set it; None if it is the default."""
    return None if isinstance(bound, Default) else bound


@dataclass(frozen=True, slots=True)
class Buffer:
    """The bounds of one client's buffer; it is full when either is reached.

    Raises:
        TypeError, ValueError: if a bound is not an `int` of 1 or more, or `warn_at` not a
            fraction above 0 and up to 1.
    """

    items: int = 256
    """Most items held. A producer that floods makes 64 in one pass of the event loop, so 256 is
    four passes."""
    bytes: int = 1 << 20
    """Most bytes held, after encoding. A larger item is let in alone."""
    warn_at: float | None = None
    """Send a ``warning`` event when the buffer is fuller than this fraction, such as 0.75.
    None, the default, sends none. The next one is sent only after the buffer was half empty."""

    def __post_init__(self) -> None:
        check_count("buffer items", self.items, unit="items")
        check_count("buffer bytes", self.bytes, unit="bytes")
        if self.warn_at is not None:
            check_positive("warn_at", self.warn_at, unit="parts of the buffer")
            if self.warn_at > 1:
                raise ValueError(f"warn_at must be at most 1, the full buffer, not {self.warn_at}")

    @classmethod
    def of(cls, value: int | Buffer) -> Buffer:
        """Return `value` if it is a `Buffer`, else one of that many items."""
        if isinstance(value, Buffer):
            return value
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(
                f"buffer must be an int (items) or a Buffer, not {type(value).__name__}"
            )
        return cls(items=value)


@dataclass(frozen=True, slots=True)
class Replay:
    """How much of its past a topic keeps for clients that come back. The tightest bound holds.

    Raises:
        TypeError, ValueError: if a bound is not a number above 0 (`items` may be 0).
    """

    items: int = 1000
    """Number of events; 0 for no replay."""
    seconds: float = math.inf
    """Age of the oldest event in seconds; infinity, the default, for no bound."""
    bytes: int = 8 << 20
    """Bytes of their encodings, in all formats together; 8 MiB.

    The oldest event goes when the first encodings of all events take more. Encodings in further
    formats get the room that is left: they never push out an event. Encodings leave memory by
    segments, so up to 64 KiB more may be held for each format. The events' own data is held, too,
    and is not counted."""

    def __post_init__(self) -> None:
        if self.items != 0 or isinstance(self.items, bool):
            check_count("items", self.items, unit="events")
        check_positive("seconds", self.seconds, unit="seconds")
        check_count("bytes", self.bytes, unit="bytes")


@dataclass(frozen=True, slots=True)
class Limits:
    """How long one stream may last, and how much it may send.

    Raises:
        TypeError, ValueError: if a limit is not a number above 0.
    """

    max_duration: float | None = None
    """Seconds from the call of the response. Then the stream writes what is queued, for at most
    `stall_timeout` seconds more, and ends with ``reconnect``."""
    max_bytes: int | None = None
    """Body bytes, before compression. The event that would exceed it is not sent, and the stream
    fails."""
    stall_timeout: float = Default(30.0)
    """Seconds that one write may make no progress; then the client is disconnected. 30 s is longer
    than a Wi-Fi hand-over; nginx's ``send_timeout``, which does the same, is 60 s by default. Under
    flowstream's server a value that you set replaces the server's ``write_timeout`` for this
    stream, longer or shorter. If you set none, the shorter of 30 s and ``write_timeout`` holds.
    `math.inf` sets no bound: the stream then ends when the client leaves, at a shutdown, or after
    `max_duration`."""
    cleanup_timeout: float = 5.0
    """Seconds that a cancelled producer's cleanup may take, shielded from cancellation."""

    def __post_init__(self) -> None:
        if self.max_duration is not None:
            check_positive("max_duration", self.max_duration, unit="seconds")
        check_positive("stall_timeout", self.stall_timeout, unit="seconds")
        check_positive("cleanup_timeout", self.cleanup_timeout, unit="seconds")
        if self.cleanup_timeout == math.inf:
            raise ValueError("cleanup_timeout must be finite: a cleanup that hangs would never end")
        if self.max_bytes is not None:
            check_count("max_bytes", self.max_bytes, unit="bytes")
