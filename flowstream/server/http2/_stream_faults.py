"""HTTP/2 faults of a client that end one of its streams, where h2 would end the connection.

A proxy sends the requests of many users over one connection: what one of them does wrong is not to
cut the others. RFC 9113 has these reset their stream; h2 ends the connection:

* a request, or trailers, with fields that are none: a name in capitals, a pseudo-header that is
  missing, there twice or unknown, ``connection`` (§ 8.1.1);
* a body that is longer or shorter than its ``content-length`` (§ 8.1.1);
* a request beyond the number of streams that are allowed at a time (§ 5.1.2).

Data without a byte needs no window (§ 6.9.1), also where h2 finds the window to be below 0.

And a client's GOAWAY ends nothing that is open (§ 6.8); h2 sends nothing more behind it. What HPACK
can't read ends the connection, since later blocks depend on it, with a code of its own (§ 4.3).

A fault costs the server more than the client, so who hears of one counts it (`ResetLimit`).
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
"""What a frame leads to: frames to send, and events."""


@dataclass(kw_only=True)
class StreamFault(Event):
    """A stream was reset for what its client sent."""

    stream_id: int
    size: int = 0
    """Bytes that were taken of the connection's window, and are to be given back."""


class CompressionError(ProtocolError):
    """A header block could not be read."""

    error_code = ErrorCodes.COMPRESSION_ERROR


def keep_apart(connection: H2Connection, most_fields: int) -> None:
    """Have faults of a stream end that stream alone, and be told by a `StreamFault`.

    Args:
        connection: h2's, on which nothing was received yet.
        most_fields: of a request; h2 checks one more, and the rest is dropped unseen.
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
            # h2 takes 8 µs for each. One too many is enough to refuse the request.
            return list(super().decode(data, raw))[: self.most_fields + 1]
        except OversizedHeaderListError:
            raise  # h2 knows it for what it is
        except HPACKError as error:
            raise CompressionError(f"a header block could not be read: {error}") from error


class _Streams:
    """Stands between a connection's frames and h2."""

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
                raise  # no new stream
            return self._refuse(frame)
        except ProtocolError as error:
            # h2 has no class for what is malformed. Others mean more than the stream, or h2 resets
            # it by itself.
            if type(error) is not ProtocolError or stream_id not in connection.streams:
                raise
            return self._reset(stream_id)
        if stream and announced not in (None, stream._actual_content_length):
            return self._reset(stream_id)  # h2 compares them at the end of data alone
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
        # The window was narrowed meanwhile. h2 takes nothing then, and the client may still say
        # that there is nothing more to come.
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
        """Refuse a stream, of which h2 has seen nothing, as if it had been opened and reset."""
        connection, stream_id = self._connection, frame.stream_id
        connection.decoder.decode(frame.data, raw=True)  # its table is that of all streams
        connection.highest_inbound_stream_id = stream_id
        connection._closed_streams[stream_id] = StreamClosedBy.SEND_RST_STREAM
        refusal = RstStreamFrame(stream_id, error_code=int(ErrorCodes.REFUSED_STREAM))
        return [refusal], [StreamFault(stream_id=stream_id)]
