"""Encoders: events in, bytes of one wire format out. One file a format, no I/O."""

from flowstream.encoders.csv import CSV
from flowstream.encoders.frames import Frames
from flowstream.encoders.json_seq import JSONSequence
from flowstream.encoders.ndjson import NDJSON
from flowstream.encoders.raw import Raw
from flowstream.encoders.sse import SSE

__all__ = ["CSV", "Frames", "JSONSequence", "NDJSON", "SSE", "Raw"]
