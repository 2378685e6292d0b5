"""Decoders: bytes in, events out, however the bytes were cut into chunks. No I/O.

CSV and raw bytes need none of ours: the standard library's `csv.reader`, and nothing.
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
