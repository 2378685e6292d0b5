"""Encoders: events in, bytes of one wire format out. One file a format, no I/O."""

from flowstream.encoders.ag_ui import AGUI
from flowstream.encoders.csv import CSV
from flowstream.encoders.frames import Frames
from flowstream.encoders.json_seq import JSONSequence
from flowstream.encoders.ndjson import NDJSON
from flowstream.encoders.openai_chunks import OpenAIChunks
from flowstream.encoders.raw import Raw
from flowstream.encoders.sse import SSE
from flowstream.encoders.ui_messages import UIMessages

__all__ = [
    "AGUI",
    "CSV",
    "Frames",
    "JSONSequence",
    "NDJSON",
    "OpenAIChunks",
    "Raw",
    "SSE",
    "UIMessages",
]
