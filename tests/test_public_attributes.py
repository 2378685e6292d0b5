"""What an app sees of each public class: nothing that only flowstream calls slips out.

A name without an underscore is a promise. A new one is listed here, and is in docs/reference.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from importlib import import_module

import pytest

MODULES = [
    "flowstream",
    "flowstream.abc",
    "flowstream.decoders",
    "flowstream.encoders",
    "flowstream.event_types",
    "flowstream.llm",
    "flowstream.quart",
    "flowstream.server",
    "flowstream.sources",
    "flowstream.starlette",
    "flowstream.testing",
]

ENCODER = (
    "automatic_ids control encode header headers heartbeat in_band join media_type numbered "
    "opening start verbatim"
)
POLICY = "keyed max_age rereads start timeout"
# What a home of streams calls.
HOME = "answer_empty context empty_answer headers_for open prime transport"
SOURCE = "discard headers length repeatable run status typed"

PUBLIC = {
    "Block": POLICY,
    "Buffer": "bytes items of warn_at",
    "BufferStatistics": "bytes dropped gaps items max_bytes max_items offered",
    "CSV": ENCODER,
    "CatchUp": POLICY,
    "CloseReason": (
        "CANCELLED CLIENT_DISCONNECTED COMPLETED ERROR MAX_BYTES MAX_DURATION "
        "RATE_LIMITED REFUSED SHUTDOWN SLOW_CONSUMER STALLED STOPPED"
    ),
    "Conflate": POLICY,
    "DecodingError": "",
    "Disconnect": POLICY,
    "DropNewest": POLICY,
    "DropOldest": POLICY,
    "EncodingError": "",
    "Event": "data essential id key retry type",
    "EventTypes": "asyncapi check check_snapshot encoder json_schema openapi tag_of types",
    "Feeder": "statistics stop",
    "FeederStatistics": "bad_items failures failures_in_a_row over published running topic",
    "FlowstreamError": "",
    "LatestByKey": "bytes keys",
    "Limits": "cleanup_timeout max_bytes max_duration stall_timeout",
    "LiveStream": "path since statistics",
    "MissingExtraError": "",
    "NDJSON": ENCODER + " wire_name",
    "NoSuchRunError": "code headers message retry_after retryable status",
    "NotAuthorizedError": "name",
    "NotFoundError": "code headers message retry_after retryable status",
    "Outlet": "reject send send_each send_nowait statistics",
    "PublicError": "code headers message retry_after retryable status",
    "Raw": ENCODER,
    "Replay": "bytes items seconds",
    "Retry": "first longest",
    "Run": "attached epoch key reason statistics stop subscribe wait",
    "RunExistsError": "code headers message retry_after retryable status",
    "RunStatistics": "age attached key published reason replay_bytes replay_items unattended",
    "Runs": "get get_or_start start statistics stop",
    "RunsStatistics": "attached ended kept limit running started",
    "SSE": ENCODER + " wire_name",
    "Sample": POLICY + " every interval",
    "SharedReceive": "disconnected",
    "SlowConsumerError": "",
    "SourceError": "",
    "StreamOptions": (
        "buffer compress controls direct events filename headers heartbeat limits "
        "on_close on_reconnect policy prime retry status where"
    ),
    "StreamReport": (
        "bytes detail dropped duration error first_byte gaps items longest_wait reason"
    ),
    "StreamResponse": (
        "answer_empty context empty_answer headers headers_for open prime statistics status stop "
        "transport"
    ),
    "StreamStatistics": (
        "buffer bytes direct_items dropped duration gaps heartbeats items longest_wait "
        "reason sending_for state why_not_direct"
    ),
    "StreamUsedError": "",
    "StreamsStatistics": "closed open",
    "Subscription": "statistics",
    "TooManyRunsError": "code headers message retry_after retryable status",
    "TooManyTopicsError": "",
    "Topic": (
        "aclose closed epoch name publish publish_from publish_from_thread "
        "publish_nowait statistics subscribe subscribers"
    ),
    "TopicNameError": "length limit",
    "TopicStatistics": (
        "bad_items catching_up closed deliveries direct_deliveries feed_failures "
        "feeders name published replay_bytes replay_first replay_items subscribers"
    ),
    "Topics": "aclose open publish revoke statistics",
    "TopicsStatistics": "forgotten limit opened subscribers topics",
    "UpstreamError": "code headers message retry_after retryable status",
    "abc.Encoder": ENCODER,
    "abc.Instrument": "stream_ended stream_started",
    "abc.Judge": "arrive behind drained",
    "abc.Policy": POLICY,
    "abc.Verdict": "DISCONNECT DROP_ARRIVING EVICT_NEWEST EVICT_OLDEST REPLACE_NEWEST WAIT",
    "decoders.Frame": "control data id retry type",
    "decoders.FramesDecoder": "feed flush heartbeats",
    "decoders.JSONSequenceDecoder": "feed flush heartbeats spoiled",
    "decoders.NDJSONDecoder": "feed flush heartbeats",
    "decoders.SSEDecoder": "comments feed last_event_id retry",
    "decoders.ServerSentEvent": "data id type",
    "encoders.AGUI": ENCODER + " run_id thread_id",
    "encoders.Frames": ENCODER + " wire_name",
    "encoders.JSONSequence": ENCODER + " wire_name",
    "encoders.OpenAIChunks": ENCODER + " include_usage model",
    "encoders.UIMessages": ENCODER + " message_id",
    "llm.Done": "reason",
    "llm.Reasoning": "data",
    "llm.Token": "data",
    "llm.ToolCall": "arguments custom id index name",
    "llm.Usage": "input_tokens output_tokens",
    "quart.Flowstream": "init_app statistics",
    "quart.FlowstreamStatistics": "closed left open",
    "server.ServerConfig": (
        "access_log_format backlog body_timeout forwarded_allow_ips graceful_timeout "
        "h2_max_header_list_size h2c keep_alive_probes lame_duck log_format "
        "logger_class max_request_fields max_requests proxy_headers read_timeout readyz "
        "shutdown_timeout worker_class worker_timeout write_timeout"
    ),
    "sources.Progress": "fraction items rate seconds seconds_left total",
    "sources.Resumable": SOURCE + " resumed",
    "sources.Source": SOURCE,
    "sources.ThreadPoolStatistics": "busy exhausted exhausted_total left limit waiting",
    "sources.ThreadStatistics": "closing cursors files iterables processes",
    "starlette.SharedBody": "",
    "testing.ClientStatistics": (
        "bytes_pending largest_send received sends sends_pending swallowed unread window"
    ),
    "testing.CollectedResponse": "body complete headers status",
    "testing.EndOfBody": "partial",
    "testing.Headers": "raw",
    "testing.StreamClient": (
        "abort complete error finished grant half_close headers next_event next_value "
        "read read_all received resume stall started statistics status wait_blocked "
        "wait_finished"
    ),
}


def classes() -> Iterator[tuple[str, type]]:
    """Yield each public class under the name that an app imports."""
    found: set[type] = set()
    for module in MODULES:
        for name in getattr(import_module(module), "__all__", ()):
            one = getattr(import_module(module), name)
            if isinstance(one, type) and one not in found:
                found.add(one)
                yield f"{module}.{name}".removeprefix("flowstream."), one


def set_on_self(kind: type) -> Iterator[str]:
    """Yield the attributes that the methods of `kind` set on its objects."""
    for member in vars(kind).values():
        function = inspect.unwrap(member.fget if isinstance(member, property) else member)
        if not inspect.isfunction(function) or function.__code__.co_filename == "<string>":
            continue  # made at run time: a dataclass, whose fields are annotated
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and isinstance(node.value, ast.Name)
                and node.value.id == "self"
            ):
                yield node.attr


def attributes(kind: type) -> set[str]:
    """Return all names without an underscore that flowstream gives a class and its objects."""
    names: set[str] = set()
    for one in kind.__mro__:
        if one.__module__.partition(".")[0] == "flowstream":
            names |= {*vars(one), *vars(one).get("__annotations__", {}), *set_on_self(one)}
    return {name for name in names if not name.startswith("_")}


CLASSES = dict(classes())


@pytest.mark.parametrize("name", sorted({*CLASSES, *PUBLIC}))
def test_a_public_class_shows_no_more_than_it_promises(name: str) -> None:
    """Each public class has the attributes of the table, and no others without an underscore."""
    assert name in PUBLIC, f"{name} is new: list here what apps may use of it"
    assert attributes(CLASSES[name]) == set(PUBLIC[name].split())


def test_an_attribute_that_slips_out_is_seen() -> None:
    """Methods, class attributes, annotations and what a method sets on itself are all found."""

    class One:
        annotated: int
        given = 1

        def __init__(self) -> None:
            self.kept, self._hidden = 1, 2

        def method(self) -> None:
            self.later = 1

    One.__module__ = "flowstream.one"
    assert attributes(One) == {"annotated", "given", "kept", "method", "later"}
