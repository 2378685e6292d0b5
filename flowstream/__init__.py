"""flowstream: backpressure-aware streaming over HTTP, on Trio.

Hand `sse`, `ndjson`, `csv` or `raw` a producer; return what they give from a view.
"""

# Annotations of public classes name these, and are looked up here (see `__module__` below).
from collections.abc import Callable, Hashable, Mapping  # noqa: F401
from typing import TYPE_CHECKING, ClassVar, Literal  # noqa: F401

from flowstream._buffer import BufferStatistics
from flowstream._closing import CloseReason, StreamReport
from flowstream._errors import (
    DecodingError,
    EncodingError,
    FlowstreamError,
    MissingExtraError,
    NotFoundError,
    PublicError,
    SourceError,
    StreamUsedError,
    UpstreamError,
)
from flowstream._event import Event, Where
from flowstream._lazy import lazy_names
from flowstream._outlet import Outlet
from flowstream._subscription import SlowConsumerError, Subscription
from flowstream.abc import Policy  # noqa: F401
from flowstream.asgi._statistics import StreamStatistics
from flowstream.asgi.plan import StreamOptions
from flowstream.asgi.receive import SharedReceive
from flowstream.asgi.response import StreamResponse, csv, ndjson, raw, sse, stream
from flowstream.encoders import (
    AGUI,
    CSV,
    NDJSON,
    SSE,
    Frames,
    JSONSequence,
    OpenAIChunks,
    Raw,
    UIMessages,
)
from flowstream.events import Events
from flowstream.limits import Buffer, Limits
from flowstream.policies import (
    Block,
    CatchUp,
    Conflate,
    Disconnect,
    DropNewest,
    DropOldest,
    Sample,
)
from flowstream.runs import (
    NoSuchRunError,
    Run,
    RunExistsError,
    Runs,
    RunsStatistics,
    RunStatistics,
    TooManyRunsError,
)
from flowstream.sources import SourceLike, resumable
from flowstream.topic import LatestByKey, Replay, Topic, TopicStatistics
from flowstream.topics import NotAuthorizedError, TooManyTopicsError, Topics, TopicsStatistics

if TYPE_CHECKING:
    from flowstream.server import serve

__getattr__, __dir__ = lazy_names(__name__, {"serve": "flowstream.server"})

__version__ = "0.1.0"

__all__ = [
    # make a streaming response
    "stream",
    "sse",
    "ndjson",
    "csv",
    "raw",
    "StreamResponse",
    "SourceLike",
    "StreamOptions",
    "Where",
    # what producers use
    "Event",
    "Outlet",
    "SharedReceive",
    "PublicError",
    "NotFoundError",
    "UpstreamError",
    # topics
    "Topic",
    "Replay",
    "LatestByKey",
    "resumable",
    "Subscription",
    "TopicStatistics",
    "Topics",
    "TopicsStatistics",
    # runs
    "Runs",
    "Run",
    "RunsStatistics",
    "RunStatistics",
    # slow consumers
    "Block",
    "DropOldest",
    "DropNewest",
    "Sample",
    "Conflate",
    "Disconnect",
    "CatchUp",
    # bounds
    "Buffer",
    "Limits",
    # formats
    "SSE",
    "NDJSON",
    "CSV",
    "Raw",
    "JSONSequence",
    "Frames",
    "OpenAIChunks",
    "UIMessages",
    "AGUI",
    "Events",
    # how a stream ended, and how it is doing
    "CloseReason",
    "StreamReport",
    "StreamStatistics",
    "BufferStatistics",
    # serve
    "serve",
    # errors
    "FlowstreamError",
    "SourceError",
    "EncodingError",
    "DecodingError",
    "StreamUsedError",
    "MissingExtraError",
    "NotAuthorizedError",
    "SlowConsumerError",
    "TooManyTopicsError",
    "NoSuchRunError",
    "RunExistsError",
    "TooManyRunsError",
]

# What is public says where: in tracebacks, in a repr, and to tools that make documentation.
for _name in __all__:
    _public = globals().get(_name)
    if getattr(_public, "__module__", "").startswith(f"{__name__}."):
        _public.__module__ = __name__
del _name, _public
