"""JSONSequenceDecoder: read the values of a JSON text sequence, and skip what is broken.

RFC 7464, as an incremental parser. Easy to get wrong:

* § 2.1: an element goes from one RS to the next. Bytes before the first RS are the end of an
  element that began earlier: ``34`` there may have been ``1234``. A text that does not parse is
  skipped, and the stream goes on.
* § 2.4: a number, ``true``, ``false`` and ``null`` do not mark their own end. Without white space
  after it, such a text may be incomplete, and is skipped, too.
* A live stream must not wait for the next RS, which comes with the next value. So the decoder
  tries to parse a text at its LF. A text with line breaks inside is tried again, but only when it
  has doubled, so that a peer cannot make the decoder parse a text a million times. The next RS, or
  the end of the stream, ends a text in any case.
"""

from __future__ import annotations

import enum
from typing import Any

import msgspec

__all__ = ["JSONSequenceDecoder"]

_from_json = msgspec.json.Decoder().decode

_RS, _LF = b"\x1e", b"\n"
_WHITE = b" \t\r\n"
_ENDS_ITSELF = (b"{", b"[", b'"')


class _State(enum.Enum):
    OUTSIDE = "before the first RS"
    READING = "in an element"
    TAKEN = "behind the value of an element"
    SKIPPING = "in what is passed over"


class JSONSequenceDecoder:
    """An incremental parser of ``application/json-seq``. It never raises: it counts errors.

    Args:
        max_text: most bytes of an element, with white space. A longer one is skipped, and takes
            no more memory than that.

    Raises:
        ValueError: `max_text` is less than 1.
    """

    heartbeats: int
    """Number of RS with only white space before the next one."""

    spoiled: int
    """Number of elements skipped: not JSON, perhaps cut short, or too long."""

    def __init__(self, *, max_text: int = 1 << 20) -> None:
        if max_text < 1:
            raise ValueError(f"max_text must be 1 or more bytes, not {max_text}")
        self.heartbeats = 0
        self.spoiled = 0
        self._max_text = max_text
        self._state = _State.OUTSIDE
        self._text = bytearray()  # the text of the current element
        self._try_at = 0  # the size from which it is parsed at an LF

    def feed(self, data: bytes) -> list[Any]:
        """Return the values whose texts `data` completes, in order."""
        values: list[Any] = []
        first, *others = data.split(_RS)
        self._read(first, values)
        for element in others:
            if self._state is _State.READING and not self._text.strip(_WHITE):
                self.heartbeats += 1
            else:
                self._end(values)
            self._state, self._try_at = _State.READING, 0
            self._text.clear()
            self._read(element, values)
        return values

    def flush(self) -> list[Any]:
        """Return the value of a last element without an LF, if it is certainly complete.

        Call it when the stream is over, also if it was cut. An incomplete text counts as broken.
        """
        values: list[Any] = []
        self._end(values)
        self._state = _State.OUTSIDE
        return values

    def _read(self, data: bytes, values: list[Any]) -> None:
        """Add `data`, in which there is no RS, to the element."""
        start = 0
        while start < len(data) and self._state is _State.READING:
            end = data.find(_LF, start) + 1 or len(data)
            if len(self._text) + end - start > self._max_text:
                self._skip()
                return
            self._text += data[start:end]
            if data[end - 1] == _LF[0] and len(self._text) >= self._try_at:
                self._try(values)
            start = end
        if start < len(data) and self._state is not _State.SKIPPING and data[start:].strip(_WHITE):
            self._skip()  # outside of an element, or a second text inside one

    def _try(self, values: list[Any]) -> None:
        """Take the element's value if the text so far is complete."""
        try:
            value = _from_json(self._text)
        except (ValueError, RecursionError):
            self._try_at = 2 * len(self._text)
        else:
            values.append(value)
            self._state = _State.TAKEN
            self._text.clear()

    def _end(self, values: list[Any]) -> None:
        """End the element: take its value, or skip it."""
        text = self._text.lstrip(_WHITE)
        if self._state is not _State.READING or not text:
            return
        if text.startswith(_ENDS_ITSELF) or text[-1] in _WHITE:
            self._try(values)
        if self._state is _State.READING:
            self._skip()

    def _skip(self) -> None:
        self.spoiled += 1
        self._state = _State.SKIPPING
        self._text.clear()
