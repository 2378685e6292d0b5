"""FramesDecoder: read items from length-prefixed frames. The chunks may be cut anywhere.

`flowstream.encoders.frames` has the table of what a frame is. A length is checked as soon as it
arrives, before a byte of its frame is kept. After an error nothing more can be read, because a
wrong length hides where the next frame begins.
"""

from __future__ import annotations

from typing import Any

import msgspec

from flowstream._errors import DecodingError
from flowstream.encoders.frames import BYTES, CONTROL, ENVELOPE, JSON, PREFIXES

__all__ = ["Frame", "FramesDecoder"]


class Frame(msgspec.Struct, frozen=True):
    """One item, or one of flowstream's own events."""

    data: Any
    """Bytes, or a JSON value."""

    type: str | None = None
    """The event's name, if it has one."""

    id: str | None = None
    """The event's id, if it has one."""

    control: bool = False
    """Whether it is one of flowstream's own: ``gap``, ``failed``, ``end``, ..."""

    retry: int | None = None
    """In a control event: milliseconds to wait before coming back."""


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    type: str | None = None
    id: str | None = None


class _Control(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    data: Any
    id: str | None = None
    retry: int | None = None


_json = msgspec.json.Decoder()
_envelope = msgspec.json.Decoder(_Envelope)
_control = msgspec.json.Decoder(_Control)


class FramesDecoder:
    """An incremental parser of the format that `Frames` writes.

    A stream with control events ends with one named ``end``, ``failed`` or ``reconnect``. If it has
    none of these, or if `flush` raises, it was cut.

    Args:
        prefix: bytes of each length, as `Frames` has it.
        max_frame: most bytes of a frame, without its length.

    Raises:
        ValueError: `prefix` is not 2, 4 or 8, or `max_frame` is less than 1.
    """

    heartbeats: int
    """Number of heartbeats: lengths of 0."""

    def __init__(self, *, prefix: int = 4, max_frame: int = 1 << 20) -> None:
        if prefix not in PREFIXES:
            raise ValueError(f"prefix must be 2, 4 or 8 bytes, not {prefix!r}")
        if max_frame < 1:
            raise ValueError(f"max_frame must be 1 or more bytes, not {max_frame}")
        self.heartbeats = 0
        self._prefix = prefix
        self._max_frame = max_frame
        self._rest = bytearray()  # the unfinished frame
        self._frames = 0  # finished frames
        self._next: _Envelope | None = None  # the envelope of the item that comes next
        self._broken: str | None = None

    def feed(self, data: bytes) -> list[Frame]:
        """Return the items and control events that `data` completes, in order.

        Raises:
            DecodingError: the bytes are not frames, or a frame is longer than `max_frame`. The
                message has the frame's number, from 1. Nothing can be decoded after that:
                each further call raises it, too.
        """
        self._check()
        self._rest += data
        try:
            return self._frames_in_rest()
        except DecodingError:
            self._rest = bytearray()
            raise

    def _frames_in_rest(self) -> list[Frame]:
        found: list[Frame] = []
        prefix, start = self._prefix, 0
        with memoryview(self._rest) as view:
            while len(view) - start >= prefix:
                length = int.from_bytes(view[start : start + prefix], "big")
                if length > self._max_frame:
                    raise self._error(f"is longer than {self._max_frame} bytes")
                end = start + prefix + length
                if end > len(view):
                    break
                if length:
                    body = start + prefix + 1
                    self._read(bytes(view[body - 1 : body]), bytes(view[body:end]), found)
                else:
                    self.heartbeats += 1
                self._frames += 1
                start = end
        del self._rest[:start]
        return found

    def flush(self) -> None:
        """Check that the bytes ended at the end of a frame.

        Raises:
            DecodingError: the stream was cut inside a frame, or between an envelope and its item.
        """
        self._check()
        if self._rest or self._next is not None:
            raise self._error("was cut")

    def _read(self, kind: bytes, body: bytes, found: list[Frame]) -> None:
        envelope, self._next = self._next, None
        try:
            if kind in (BYTES, JSON):
                data = body if kind == BYTES else _json.decode(body)
                if envelope is None:
                    found.append(Frame(data))
                else:
                    found.append(Frame(data, envelope.type, envelope.id))
                return
            if envelope is not None:
                raise self._error("is no item, but an envelope was in front of it")
            if kind == ENVELOPE:
                self._next = _envelope.decode(body)
            elif kind == CONTROL:
                control = _control.decode(body)
                found.append(Frame(control.data, control.type, control.id, True, control.retry))
            else:
                raise self._error(f"is of an unknown kind, {kind!r}")
        except DecodingError:
            raise
        # ValueError: msgspec's own errors and that of bad UTF-8; RecursionError: a frame of
        # nothing but opening brackets.
        except (ValueError, RecursionError) as error:
            raise self._error(f"is not what its kind {kind!r} says: {error}") from error

    def _error(self, what: str) -> DecodingError:
        self._broken = f"frame {self._frames + 1} {what}"
        return DecodingError(self._broken)

    def _check(self) -> None:
        if self._broken is not None:
            raise DecodingError(self._broken)
