"""NDJSONDecoder: read the values of JSON lines. The chunks may be cut anywhere.

Only LF ends a line. A CR before it is white space in JSON, so CRLF works, too. Lines are split
before they are decoded, because in UTF-8 the byte of an LF is never part of another character.

Parts of an unfinished line are kept in a list and joined once, so that a long line in many
small chunks costs no more than one in a large chunk.
"""

from __future__ import annotations

from typing import Any

import msgspec

from flowstream._errors import DecodingError

__all__ = ["NDJSONDecoder"]

_from_json = msgspec.json.Decoder().decode


class NDJSONDecoder:
    """An incremental parser of newline-delimited JSON.

    Args:
        max_line: most bytes of a line, without its line break.

    Raises:
        ValueError: `max_line` is less than 1.
    """

    heartbeats: int
    """Number of empty lines."""

    def __init__(self, *, max_line: int = 1 << 20) -> None:
        if max_line < 1:
            raise ValueError(f"max_line must be 1 or more bytes, not {max_line}")
        self.heartbeats = 0
        self._max_line = max_line
        self._lines = 0  # finished lines
        self._parts: list[bytes] = []  # the parts of the unfinished line
        self._size = 0
        self._broken: str | None = None

    def feed(self, data: bytes) -> list[Any]:
        """Return the values whose lines `data` completes, in order.

        Raises:
            DecodingError: a line is not JSON, or is longer than `max_line`. The message has the
                line's number, from 1, empty lines included. Nothing can be decoded after that:
                each further call raises it, too.
        """
        self._check()
        values: list[Any] = []
        lines = data.split(b"\n")
        rest = lines.pop()
        if lines and self._parts:
            lines[0] = self._unfinished() + lines[0]
        for line in lines:
            self._read(line, values)
        if rest:
            if self._size + len(rest) > self._max_line:
                raise self._error(f"is longer than {self._max_line} bytes")
            self._parts.append(rest)
            self._size += len(rest)
        return values

    def flush(self) -> list[Any]:
        """Return the value of a last line without a line break, if there is one.

        Call it when the stream has ended properly. If it was cut, the last line may be incomplete.
        Mostly that raises, but ``12`` may have been ``1234``.

        Raises:
            DecodingError: as `feed` does.
        """
        self._check()
        values: list[Any] = []
        if self._parts:
            self._read(self._unfinished(), values)
        return values

    def _unfinished(self) -> bytes:
        line = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        return line

    def _read(self, line: bytes, values: list[Any]) -> None:
        if len(line) > self._max_line:
            raise self._error(f"is longer than {self._max_line} bytes")
        try:
            values.append(_from_json(line))
        # ValueError: msgspec's own error, or bad UTF-8. RecursionError: a line of opening brackets
        # must not look like a fault in our own code.
        except (ValueError, RecursionError) as error:
            if line.strip(b" \t\r"):
                raise self._error(f"is not JSON: {error}") from error
            self.heartbeats += 1
        self._lines += 1

    def _error(self, what: str) -> DecodingError:
        self._broken = f"line {self._lines + 1} {what}"
        self._parts.clear()
        return DecodingError(self._broken)

    def _check(self) -> None:
        if self._broken is not None:
            raise DecodingError(self._broken)
