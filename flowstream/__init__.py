"""flowstream: backpressure-aware streaming over HTTP, on Trio.

Give a producer to `sse`, `ndjson`, `csv` or `raw`, and return the result from a view.
"""

# Annotations of public classes use these names, and are looked up here: see _lazy.py.
from collections.abc import Callable, Hashable, Mapping  # noqa: F401
from typing import TYPE_CHECKING, Any, ClassVar, Literal  # noqa: F401

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
from flowstream._lazy import lazy_names, name_publicly
from flowstream.abc import Policy  # noqa: F401
from flowstream.limits import Buffer, Limits, Replay

if TYPE_CHECKING:
    from flowstream._live_stream import BufferStatistics, LiveStream, StreamStatistics
    from flowstream._registry import (
        StreamsStatistics,
        add_instrument,
        live_streams,
        remove_instrument,
        streams_statistics,
    )
    from flowstream.asgi.formats import StreamOptions, csv, ndjson, raw, sse, stream
    from flowstream.asgi.receive import SharedReceive
    from flowstream.asgi.response import StreamResponse
    from flowstream.buffer._outlet import Outlet
    from flowstream.encoders import CSV, NDJSON, SSE, Raw
    from flowstream.event_types import EventTypes
    from flowstream.policies import (
        Block,
        CatchUp,
        Conflate,
        Disconnect,
        DropNewest,
        DropOldest,
        Sample,
    )
    from flowstream.runs.runs import (
        LostRun,
        NoSuchRunError,
        Run,
        RunExistsError,
        Runs,
        RunsStatistics,
        RunStatistics,
        TooManyRunsError,
    )
    from flowstream.server import serve
    from flowstream.sources import SourceLike, resumable
    from flowstream.topics._app_log import log_statistics
    from flowstream.topics._subscription import SlowConsumerError, Subscription
    from flowstream.topics.topic import (
        Feeder,
        FeederStatistics,
        LatestByKey,
        LogStatistics,
        Retry,
        Topic,
        TopicStatistics,
    )
    from flowstream.topics.topics import (
        NotAuthorizedError,
        TooManyTopicsError,
        TopicNameError,
        Topics,
        TopicsStatistics,
    )

__getattr__: Callable[[str], Any]
__dir__: Callable[[], list[str]]
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Block": "flowstream.policies",
        "BufferStatistics": "flowstream._live_stream",
        "CSV": "flowstream.encoders.csv",
        "CatchUp": "flowstream.policies",
        "Conflate": "flowstream.policies",
        "Disconnect": "flowstream.policies",
        "DropNewest": "flowstream.policies",
        "DropOldest": "flowstream.policies",
        "EventTypes": "flowstream.event_types",
        "Feeder": "flowstream.topics.topic",
        "FeederStatistics": "flowstream.topics.topic",
        "LatestByKey": "flowstream.topics._snapshots",
        "LiveStream": "flowstream._live_stream",
        "LostRun": "flowstream.runs._lost_run",
        "NDJSON": "flowstream.encoders.ndjson",
        "NoSuchRunError": "flowstream.runs._run_errors",
        "NotAuthorizedError": "flowstream.topics.topics",
        "Outlet": "flowstream.buffer._outlet",
        "Raw": "flowstream.encoders.raw",
        "Retry": "flowstream.tasks._retry",
        "Run": "flowstream.runs._run",
        "RunExistsError": "flowstream.runs._run_errors",
        "RunStatistics": "flowstream.runs._run",
        "Runs": "flowstream.runs.runs",
        "RunsStatistics": "flowstream.runs._runs_statistics",
        "SSE": "flowstream.encoders.sse",
        "Sample": "flowstream.policies",
        "SharedReceive": "flowstream.asgi.receive",
        "SlowConsumerError": "flowstream.topics._subscription",
        "SourceLike": "flowstream.sources._source_like",
        "StreamOptions": "flowstream.asgi.formats",
        "StreamResponse": "flowstream.asgi.response",
        "StreamStatistics": "flowstream._live_stream",
        "StreamsStatistics": "flowstream._registry",
        "Subscription": "flowstream.topics._subscription",
        "TooManyRunsError": "flowstream.runs._run_errors",
        "TooManyTopicsError": "flowstream.topics.topics",
        "TopicNameError": "flowstream.topics.topics",
        "Topic": "flowstream.topics.topic",
        "LogStatistics": "flowstream.topics.topic",
        "log_statistics": "flowstream.topics._app_log",
        "TopicStatistics": "flowstream.topics.topic",
        "Topics": "flowstream.topics.topics",
        "TopicsStatistics": "flowstream.topics.topics",
        "add_instrument": "flowstream._registry",
        "csv": "flowstream.asgi.formats",
        "live_streams": "flowstream._registry",
        "ndjson": "flowstream.asgi.formats",
        "raw": "flowstream.asgi.formats",
        "remove_instrument": "flowstream._registry",
        "resumable": "flowstream.sources._as_source",
        "serve": "flowstream.server",
        "sse": "flowstream.asgi.formats",
        "stream": "flowstream.asgi.formats",
        "streams_statistics": "flowstream._registry",
    },
    submodules=(
        "asgi",
        "buffer",
        "encoders",
        "event_types",
        "policies",
        "runs",
        "server",
        "sources",
        "topics",
    ),
    moved={
        "AGUI": "from flowstream.encoders import AGUI",
        "Events": "from flowstream import EventTypes",
        "Frames": "from flowstream.encoders import Frames",
        "JSONSequence": "from flowstream.encoders import JSONSequence",
        "OpenAIChunks": "from flowstream.encoders import OpenAIChunks",
        "UIMessages": "from flowstream.encoders import UIMessages",
    },
)

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
    # for producers
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
    "LogStatistics",
    "TopicStatistics",
    "Retry",
    "Feeder",
    "FeederStatistics",
    "Topics",
    "TopicsStatistics",
    # runs
    "Runs",
    "Run",
    "LostRun",
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
    "EventTypes",
    # how a stream ended, and how it is doing
    "CloseReason",
    "StreamReport",
    "StreamStatistics",
    "BufferStatistics",
    "LiveStream",
    "live_streams",
    "StreamsStatistics",
    "log_statistics",
    "streams_statistics",
    "add_instrument",
    "remove_instrument",
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
    "TopicNameError",
    "NoSuchRunError",
    "RunExistsError",
    "TooManyRunsError",
]

name_publicly(__name__, globals(), __all__)
