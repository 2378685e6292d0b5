"""End one stream, and not the whole connection, when an HTTP/2 client makes a mistake.

A proxy sends the requests of many users over one connection, and a mistake of one must not cut the
others. For these mistakes RFC 9113 resets the stream, while h2 ends the connection:

* a request, or trailers, with invalid fields: a name in capitals, a pseudo-header that is missing,
  repeated or unknown, ``connection`` (§ 8.1.1);
* a body that is longer or shorter than its ``content-length`` (§ 8.1.1);
* a request beyond the allowed number of streams (§ 5.1.2).

An empty DATA frame needs no window (§ 6.9.1), so it is accepted even if the window is below 0, when
h2 would refuse it.

A client's GOAWAY ends no open stream (§ 6.8); h2 would send nothing more after it. A header block
that HPACK can't read ends the connection, with a code of its own (§ 4.3), since later blocks depend
on it.

A fault costs the server more than the client, so each one is counted (`ResetLimit`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, Event
from h2.exceptions import InvalidBodyLengthError, ProtocolError, TooManyStreamsError
from h2.stream import StreamClosedBy
from hpack import Decoder
from hpack.exceptions import HPACKError, OversizedHeaderListError
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, RstStreamFrame

Received = tuple[list[Frame], list[Event]]
"""What h2 returns for a frame: frames to send, and events."""


@dataclass(kw_only=True)
class StreamFault(Event):
    """A stream was reset because of what its client sent."""

    stream_id: int
    size: int = 0
    """Bytes of the connection's window to give back."""


class CompressionError(ProtocolError):
    """A header block could not be read."""

    error_code = ErrorCodes.COMPRESSION_ERROR


def keep_apart(connection: H2Connection, most_fields: int) -> None:
    """Make a fault of a stream end that stream alone, with the event `StreamFault`.

    Args:
        connection: h2's connection, before anything was received.
        most_fields: the most fields of a request. h2 checks one more; further ones are dropped.
    """
    decoder = _Decoder()
    decoder.most_fields = most_fields
    vars(decoder).update(vars(connection.decoder))
    connection.decoder = decoder
    _Streams(connection)


class _Decoder(Decoder):
    most_fields: int

    def decode(self, data: bytes, raw: bool = False) -> Any:
        try:
            # h2 takes 8 µs for each field. One too many is enough to refuse the request.
            return list(super().decode(data, raw))[: self.most_fields + 1]
        except OversizedHeaderListError:
            raise  # h2 handles this one
        except HPACKError as error:
            raise CompressionError(f"a header block could not be read: {error}") from error


class _Streams:
    """Takes a connection's frames before h2 does."""

    def __init__(self, connection: H2Connection) -> None:
        self._connection = connection
        frames: dict[type[Frame], Any] = connection._frame_dispatch_table
        self._headers, self._data = frames[HeadersFrame], frames[DataFrame]
        frames[HeadersFrame], frames[DataFrame] = self.headers, self.data
        frames[GoAwayFrame] = self.goaway

    def headers(self, frame: HeadersFrame) -> Received:
        """Take a request or trailers."""
        connection, stream_id = self._connection, frame.stream_id
        stream: Any = connection.streams.get(stream_id)  # there is one if these are trailers
        announced: int | None = stream._expected_content_length if stream else None
        try:
            found: Received = self._headers(frame)
        except TooManyStreamsError:
            if not stream_id % 2 or stream_id <= connection.highest_inbound_stream_id:
                raise  # it is not a new stream
            return self._refuse(frame)
        except ProtocolError as error:
            # h2 raises the base class for a malformed request. Other classes concern more than the
            # stream, or h2 resets the stream by itself.
            if type(error) is not ProtocolError or stream_id not in connection.streams:
                raise
            return self._reset(stream_id)
        if stream and announced not in (None, stream._actual_content_length):
            return self._reset(stream_id)  # h2 compares them only at the end of DATA
        return found

    def data(self, frame: DataFrame) -> Received:
        """Take a piece of a body."""
        try:
            found: Received = (self._data if frame.flow_controlled_length else self._empty)(frame)
        except InvalidBodyLengthError:
            return self._reset(frame.stream_id, frame.flow_controlled_length)
        return found

    def _empty(self, frame: DataFrame) -> Received:
        stream: Any = self._connection.streams.get(frame.stream_id)
        if stream is None or stream._inbound_window_manager.current_window_size >= 0:
            found: Received = self._data(frame)
            return found
        # The window was narrowed meanwhile. h2 then refuses every DATA frame, though the client
        # may still say that its body has ended.
        window = stream._inbound_window_manager
        missing, window.current_window_size = window.current_window_size, 0
        try:
            found = self._data(frame)
        finally:
            window.current_window_size += missing
        return found

    def goaway(self, frame: GoAwayFrame) -> Received:
        """Take a goodbye."""
        event = ConnectionTerminated()
        event.error_code = frame.error_code
        event.last_stream_id = frame.last_stream_id
        return [], [event]

    def _reset(self, stream_id: int, size: int = 0) -> Received:
        self._connection.reset_stream(stream_id, ErrorCodes.PROTOCOL_ERROR)
        return [], [StreamFault(stream_id=stream_id, size=size)]

    def _refuse(self, frame: HeadersFrame) -> Received:
        """Refuse a stream that h2 has not seen, as if it had been opened and reset."""
        connection, stream_id = self._connection, frame.stream_id
        connection.decoder.decode(frame.data, raw=True)  # all streams share the decoder's table
        connection.highest_inbound_stream_id = stream_id
        connection._closed_streams[stream_id] = StreamClosedBy.SEND_RST_STREAM
        refusal = RstStreamFrame(stream_id, error_code=int(ErrorCodes.REFUSED_STREAM))
        return [refusal], [StreamFault(stream_id=stream_id)]
