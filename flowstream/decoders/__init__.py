"""Decoders: bytes in, events out, however the bytes were cut into chunks. No I/O.

CSV and raw bytes need none of ours: the standard library's `csv.reader`, and nothing.
"""

from flowstream.decoders.ndjson import NDJSONDecoder
from flowstream.decoders.sse import ServerSentEvent, SSEDecoder

__all__ = ["NDJSONDecoder", "SSEDecoder", "ServerSentEvent"]
