"""HTTP/2's bytes in pieces that take about as long as one another.

h2 looks at all that it is given before anybody else runs. 64 KiB of DATA are four frames; of pings
they are 3,800, which take 50 ms. So frames are counted as they come, without a look at what is in
them but for their length and type (RFC 9113 § 4.1).
"""

from __future__ import annotations

from collections.abc import Iterator

_PREFACE = 24
_HEAD = 9
_DATA, _HEADERS = 0, 1
_BELONGS_TO_HEADERS = (b"\x03", b"\x09")  # RST_STREAM, CONTINUATION

# What a piece may cost: half a millisecond, more or less. A byte of DATA is one.
_MOST = 16 * 1024
_FRAME = 512
_REQUEST = 2048
_BYTE = 4  # one that is not of DATA: a setting has six of them, a header one or more


class FramePieces:
    """Cuts what comes on one connection, from its preface on."""

    __slots__ = ("_head", "_kind", "_left")

    def __init__(self) -> None:
        self._left = _PREFACE  # bytes that are yet to come of what is at hand
        self._head = b""  # of the next frame, as far as it has come
        self._kind = _DATA

    def cut(self, data: bytes) -> Iterator[bytes]:
        """Yield `data` in pieces."""
        start = at = cost = 0
        while at < len(data):
            if self._left:
                size = min(self._left, len(data) - at)
                self._left -= size
                cost += size if self._kind == _DATA else size * _BYTE
            else:
                size = min(_HEAD - len(self._head), len(data) - at)
                self._head += data[at : at + size]
                if len(self._head) == _HEAD:
                    self._left = int.from_bytes(self._head[:3], "big")
                    self._kind = self._head[3]
                    self._head = b""
                    cost += _REQUEST if self._kind == _HEADERS else _FRAME
            at += size
            if cost >= _MOST and not self._left and not self._goes_on(data, at):
                yield data[start:at]
                start, cost = at, 0
        if start < len(data):
            yield data[start:]

    def _goes_on(self, data: bytes, at: int) -> bool:
        """Whether a request came last, and the rest of its head or its reset is next.

        Of a request with its reset h2 makes nothing.
        """
        return self._kind == _HEADERS and data[at + 3 : at + 4] in _BELONGS_TO_HEADERS
