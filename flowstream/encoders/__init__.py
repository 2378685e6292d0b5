"""Encoders: events in, bytes of one wire format out. One file a format, no I/O."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flowstream._lazy import lazy_names
from flowstream.encoders.csv import CSV
from flowstream.encoders.frames import Frames
from flowstream.encoders.json_seq import JSONSequence
from flowstream.encoders.ndjson import NDJSON
from flowstream.encoders.raw import Raw
from flowstream.encoders.sse import SSE

if TYPE_CHECKING:
    from flowstream.encoders.ag_ui import AGUI
    from flowstream.encoders.openai_chunks import OpenAIChunks
    from flowstream.encoders.ui_messages import UIMessages

__getattr__: Callable[[str], Any]
__dir__: Callable[[], list[str]]
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "AGUI": "flowstream.encoders.ag_ui",
        "OpenAIChunks": "flowstream.encoders.openai_chunks",
        "UIMessages": "flowstream.encoders.ui_messages",
    },
)

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
