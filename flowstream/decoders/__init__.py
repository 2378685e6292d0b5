"""Decoders: bytes in, events out. The chunks may be cut anywhere. No I/O.

For CSV use the standard library's `csv.reader`; raw bytes need no decoder.
"""

from flowstream.decoders._frames_decoder import Frame, FramesDecoder
from flowstream.decoders._json_seq_decoder import JSONSequenceDecoder
from flowstream.decoders._ndjson_decoder import NDJSONDecoder
from flowstream.decoders._sse_decoder import ServerSentEvent, SSEDecoder

__all__ = [
    "Frame",
    "FramesDecoder",
    "JSONSequenceDecoder",
    "NDJSONDecoder",
    "SSEDecoder",
    "ServerSentEvent",
]
