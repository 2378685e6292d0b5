"""Cut the bytes of HTTP/2 into pieces that take equally long, and refuse excessive frames.

h2 handles all bytes that it is given before any other task runs. 64 KiB of DATA are four frames;
64 KiB of pings are 3,800, which take 50 ms. So this module counts frames as they come. It reads
only their length and type (RFC 9113 § 4.1).

A single frame can't be cut. So three kinds end the connection as soon as the nine bytes of their
head have come, before h2 keeps any of the frame:

* SETTINGS with more than 32 entries. HTTP/2 knows ten; 2,700, which fit into a frame, take 20 ms.
* More than 8 CONTINUATION frames of one header block. A client needs one for each further 16 KiB,
  and the whole block may have no more than two of those.
* A frame longer than allowed (RFC 9113 § 4.2). h2 waits for the frame's end before it checks the
  length, which may be 16 MiB.

The first two bounds are nghttp2's.
"""

from __future__ import annotations

from collections.abc import Iterator

from h2.errors import ErrorCodes

_PREFACE = 24
_HEAD = 9
_DATA, _HEADERS, _SETTINGS, _CONTINUATION = 0, 1, 4, 9
_BELONGS_TO_HEADERS = (b"\x03", b"\x09")  # RST_STREAM, CONTINUATION

# What a piece may cost: about half a millisecond. A byte of DATA costs 1.
_MOST = 16 * 1024
_FRAME = 512
_REQUEST = 2048
# The cost of a byte. A setting has six bytes. A header field has four, or one if it is in HPACK's
# table, and takes 8 µs.
_BYTES = {_DATA: 1, _HEADERS: 64, _CONTINUATION: 64}
_BYTE = 4  # of any other frame

_MOST_SETTINGS = 32
_SETTING = 6  # bytes
_MOST_CONTINUATIONS = 8


class ExcessError(Exception):
    """A client has sent more than any client needs.

    Attributes:
        code: the error code for GOAWAY.
    """

    def __init__(self, code: ErrorCodes) -> None:
        super().__init__(code.name)
        self.code = code


class FramePieces:
    """Cuts the bytes that come on one connection, from its preface on.

    Args:
        longest: bytes that a frame's payload may have.
    """

    __slots__ = ("_continuations", "_head", "_kind", "_left", "_longest")

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._left = _PREFACE  # bytes of the current frame that have not come yet
        self._head = b""  # of the next frame, as far as it has come
        self._kind = _DATA
        self._continuations = 0  # of the current header block

    def cut(self, data: bytes) -> Iterator[bytes]:
        """Yield `data` in pieces.

        Raises:
            ExcessError: the next frame is excessive. Everything before it has been yielded.
        """
        start = at = cost = 0
        while at < len(data):
            if self._left:
                size = min(self._left, len(data) - at)
                self._left -= size
                cost += size * _BYTES.get(self._kind, _BYTE)
            else:
                size = min(_HEAD - len(self._head), len(data) - at)
                self._head += data[at : at + size]
                if len(self._head) == _HEAD:
                    excess = self._begin_frame()
                    if excess is not None:
                        if start < at:
                            yield data[start:at]
                        raise ExcessError(excess)
                    cost += _REQUEST if self._kind == _HEADERS else _FRAME
            at += size
            if cost >= _MOST and not self._left and not self._goes_on(data, at):
                yield data[start:at]
                start, cost = at, 0
        if start < len(data):
            yield data[start:]

    def _begin_frame(self) -> ErrorCodes | None:
        """Read the head of a frame; return an error code if the frame is excessive."""
        self._left, self._kind = int.from_bytes(self._head[:3], "big"), self._head[3]
        self._head = b""
        if self._left > self._longest:
            return ErrorCodes.FRAME_SIZE_ERROR
        self._continuations = self._continuations + 1 if self._kind == _CONTINUATION else 0
        too_many = self._continuations > _MOST_CONTINUATIONS or (
            self._kind == _SETTINGS and self._left > _MOST_SETTINGS * _SETTING
        )
        return ErrorCodes.ENHANCE_YOUR_CALM if too_many else None

    def _goes_on(self, data: bytes, at: int) -> bool:
        """Whether a request came last, and the rest of its head, or its reset, comes next.

        They stay in one piece: h2 starts nothing for a request that comes with its reset.
        """
        return self._kind == _HEADERS and data[at + 3 : at + 4] in _BELONGS_TO_HEADERS
