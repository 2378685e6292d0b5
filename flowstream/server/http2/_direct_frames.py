"""Direct writes over HTTP/2: publishers hand DATA frames to a connection, which writes them.

Without them an event goes a long way. Its stream's writer wakes and puts the bytes into a
buffer; then the sending task of the connection wakes and makes a frame. This way is short::

    publisher ──DATA──► DirectFrames ──one write for all streams──► connection
        └── refused: into the client's own buffer, under its policy

A frame is refused if the client's windows are not open for all of it, if the stream still has bytes
in its buffer, which go first, and while somebody writes to the connection. So a client that reads
nothing can hold no more here than one batch of frames. A frame that is taken counts as sent, so it
is written before anything that h2 makes later.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Protocol

from flowstream.asgi._direct_write import DirectWrite
from flowstream.framing import UNFRAMED
from flowstream.server.http2._stream_buffer import BoundedStreamBuffer

# RFC 9113 § 4.1: length (24 bits), type, flags, stream. DATA is type 0; none of its flags is used.
_HEAD = Struct(">BHBBL").pack

# What waits for one write at the most: a turn of a publisher is 256 deliveries or a millisecond.
MOST = 64 * 1024


class Windowed(Protocol):
    """What has a window for what is sent (RFC 9113 § 5.2): h2's connection, and its streams."""

    outbound_flow_control_window: int


class WindowedConnection(Windowed, Protocol):
    """h2's connection."""

    max_outbound_frame_size: int


class WindowedStream(Windowed, Protocol):
    """One of h2's streams."""

    stream_id: int

    @property
    def closed(self) -> bool:
        """Whether nothing may be sent on it any more."""
        ...


class DirectFrames:
    """The DATA frames that publishers have handed to one connection.

    Args:
        connection: h2's.
        is_busy: whether somebody writes to the connection, or waits to.
        write_soon: has a task of the connection `take` them and write them.
    """

    __slots__ = ("_connection", "_frames", "_is_busy", "_size", "_write_soon")

    def __init__(
        self,
        connection: WindowedConnection,
        is_busy: Callable[[], bool],
        write_soon: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._is_busy = is_busy
        self._write_soon = write_soon
        self._frames: list[bytes] = []
        self._size = 0

    def add(self, stream: WindowedStream, data: bytes) -> bool:
        """Add `data` as a frame of `stream`; return False, with nothing done, if that can't be."""
        size = len(data)
        connection = self._connection
        if (
            size > stream.outbound_flow_control_window
            or size > connection.outbound_flow_control_window
            or size > connection.max_outbound_frame_size
            or self._size + size > MOST
            or stream.closed
            or self._is_busy()
        ):
            return False
        stream.outbound_flow_control_window -= size
        connection.outbound_flow_control_window -= size
        if not self._frames:
            self._write_soon()
        self._frames += (_HEAD(size >> 16, size & 0xFFFF, 0, 0, stream.stream_id), data)
        self._size += size
        return True

    def take(self) -> bytes:
        """Return the frames, in order, to be written before anything else."""
        data = b"".join(self._frames)
        self._frames.clear()
        self._size = 0
        return data


class StreamDirectWrite(DirectWrite):
    """The direct writes to one response over HTTP/2.

    Args:
        frames: those of the connection.
        stream: h2's.
        buffer: the bytes that go first.
    """

    __slots__ = ("_buffer", "_frames", "_stream")

    def __init__(
        self, frames: DirectFrames, stream: WindowedStream, buffer: BoundedStreamBuffer
    ) -> None:
        super().__init__(0, _keep_nothing)  # no socket of its own: the connection writes
        self._frames = frames
        self._stream = stream
        self._buffer = buffer
        self.framing = UNFRAMED
        self.free()  # `DirectFrames` knows whether somebody writes

    def write(self, data: bytes) -> bool:
        """Hand `data` to the connection; return whether it took all of it."""
        if self._fd < 0 or self._buffer.buffer or self._buffer.completed:
            return False
        return self._frames.add(self._stream, data)


def _keep_nothing(rest: bytes) -> None:
    raise AssertionError("a frame is taken whole, or not at all")
