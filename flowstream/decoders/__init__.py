"""Decoders: bytes in, events out, however the bytes were cut into chunks. No I/O.

CSV and raw bytes need none of ours: the standard library's `csv.reader`, and nothing.
"""

from flowstream.decoders.frames import Frame, FramesDecoder
from flowstream.decoders.json_seq import JSONSequenceDecoder
from flowstream.decoders.ndjson import NDJSONDecoder
from flowstream.decoders.sse import ServerSentEvent, SSEDecoder

__all__ = [
    "Frame",
    "FramesDecoder",
    "JSONSequenceDecoder",
    "NDJSONDecoder",
    "SSEDecoder",
    "ServerSentEvent",
]
