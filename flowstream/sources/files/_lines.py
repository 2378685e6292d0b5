"""Cut a stream of bytes into lines, in whatever pieces the bytes come. Sans-I/O.

Parts of an unfinished line are kept in a list and joined once, so that a long line in many
small pieces costs no more than one in a large piece.
"""

from __future__ import annotations

MAX_LINE = 64 * 1024
"""Bytes of an incomplete line that are held back."""


class LineSplitter:
    """Cuts bytes into lines. Only LF ends one, so what a program overwrites with CR stays whole.

    Args:
        max_line: the most bytes that are held back. A longer line comes in pieces, each cut at the
            end of a UTF-8 character if there is one.
    """

    __slots__ = ("_max_line", "_parts", "_size")

    def __init__(self, max_line: int) -> None:
        self._max_line = max_line
        self._parts: list[bytes] = []  # of the unfinished line
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return the complete lines, each with its LF, and pieces of a line that is too long."""
        *whole, rest = data.split(b"\n")
        if whole:
            whole[0] = self._unfinished() + whole[0]
        lines: list[bytes] = []
        for line in whole:
            if len(line) > self._max_line:
                line = self._cut(line, lines)
            lines.append(line + b"\n")
        if rest:
            self._hold(rest)
            if self._size > self._max_line:
                self._hold(self._cut(self._unfinished(), lines))
        return lines

    def flush(self) -> list[bytes]:
        """Return the last line, which has no LF, if there is one: no more bytes will come."""
        rest = self._unfinished()
        return [rest] if rest else []

    def _hold(self, part: bytes) -> None:
        self._parts.append(part)
        self._size += len(part)

    def _unfinished(self) -> bytes:
        """Return the held bytes, and forget them."""
        line = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        return line

    def _cut(self, line: bytes, pieces: list[bytes]) -> bytes:
        """Put pieces of `line` into `pieces`; return the rest of it."""
        start = 0
        while len(line) - start > self._max_line:
            end = start + self._max_line
            # RFC 3629 § 3: after a character's first byte come at most three of the form 10xxxxxx.
            for at in range(end, max(start, end - 4), -1):
                if line[at] & 0xC0 != 0x80:
                    end = at
                    break
            pieces.append(line[start:end])
            start = end
        return line[start:]


def text_of(line: bytes, encoding: str) -> str:
    """Return a line as text, without its end; what is not in `encoding` becomes U+FFFD."""
    if line.endswith(b"\n"):
        line = line[:-2] if line.endswith(b"\r\n") else line[:-1]
    return line.decode(encoding, "replace")


def check_lines(max_line: int, encoding: str) -> None:
    """Check an app's arguments about lines.

    Raises:
        TypeError, ValueError: `max_line` is not an int of 16 or more, or a line of `encoding` does
            not end with the byte LF.
        LookupError: there is no such encoding.
    """
    if isinstance(max_line, bool) or not isinstance(max_line, int):
        raise TypeError(f"max_line must be an int (bytes), not {max_line!r}")
    if max_line < 16:
        raise ValueError(f"max_line must be at least 16 bytes, not {max_line}")
    if "\n".encode(encoding) != b"\n":
        raise ValueError(f"lines of {encoding} do not end with the byte 10")
