"""What an app sees of each public class: nothing that only flowstream calls slips out.

A name without an underscore is a promise. A new one is listed here, and two things show that it is
meant for apps: the docs say what it does, and its signature has no type that apps can't import.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from flowstream.abc import Encoder, Instrument, Judge, Log, Policy
from flowstream.asgi._exchange import StreamExchange
from flowstream.sources import Source

DOCS = Path(__file__).parent.parent / "docs"

MODULES = [
    "flowstream",
    "flowstream.abc",
    "flowstream.decoders",
    "flowstream.encoders",
    "flowstream.event_types",
    "flowstream.llm",
    "flowstream.logs",
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
LOG = (
    "aclose append beat claim delete end heads latest leases outbox_statement read run topics trim "
    "unwatch watch"
)
POLICY = "keyed max_age rereads start timeout"
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
    "EventTypes": "asyncapi check encoder json_schema openapi types",
    "Feeder": "statistics stop",
    "FeederStatistics": "bad_items failures failures_in_a_row over published running topic",
    "FlowstreamError": "",
    "LatestByKey": "bytes keys",
    "Limits": "cleanup_timeout max_bytes max_duration stall_timeout",
    "LiveStream": "path since statistics",
    "LogStatistics": (
        "appended appends control_heard control_sent duplicates fitting_hints followed lost "
        "lost_seams other_hints pages_read pages_shared queued reads refused retries "
        "trimmed_seams unreadable unsure window_hits window_misses"
    ),
    "LostRun": "after events key",
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
    "Runs": "claim get get_or_start open start statistics stop",
    "RunsStatistics": "attached ended kept limit lost reaped resumed running started",
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
    "StreamResponse": "headers statistics status stop",
    "StreamStatistics": (
        "buffer bytes direct_items dropped duration gaps heartbeats items longest_wait "
        "reason sending_for sliced_items state why_not_direct"
    ),
    "StreamUsedError": "",
    "StreamsStatistics": "closed open",
    "Subscription": "statistics",
    "TooManyRunsError": "code headers message retry_after retryable status",
    "TooManyTopicsError": "",
    "Topic": (
        "aclose closed delete epoch name outbox position publish publish_from publish_from_thread "
        "publish_many publish_nowait publish_soon statistics subscribe subscribers "
        "total_subscribers"
    ),
    "TopicNameError": "length limit",
    "TopicStatistics": (
        "bad_items catching_up closed deliveries direct_deliveries feed_failures "
        "feeders log name published replay_bytes replay_first replay_items subscribers"
    ),
    "Topics": "aclose delete open publish revoke revoke_subject statistics",
    "TopicsStatistics": "forgotten limit opened subscribers topics",
    "UpstreamError": "code headers message retry_after retryable status",
    "abc.Appended": "duplicate epoch number",
    "abc.Encoder": ENCODER,
    "abc.Head": "epochs first number",
    "abc.Instrument": "stream_ended stream_started",
    "abc.Judge": "arrive behind drained",
    "abc.LatestPage": "cursor head records",
    "abc.Log": LOG,
    "abc.Lease": "ended owner seconds token",
    "abc.OutboxStatement": "parameters sql",
    "abc.LogEntry": "data idempotency_key idempotency_seconds key",
    "abc.Policy": POLICY,
    "abc.Record": "age data epoch number",
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
    "logs.FencedError": "",
    "logs.LogFullError": "maybe",
    "logs.LogUnavailableError": "maybe",
    "logs.MemoryLog": LOG,
    "logs.PostgresLog": f"{LOG} new_epoch outbox",
    "logs.SQLiteLog": f"{LOG} new_epoch path",
    "logs.ValkeyLog": f"{LOG} new_epoch where",
    "logs.ValkeyTimeouts": "answer connect reply silence start",
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


# They are written by apps, too, and `flowstream.abc` says what each method is for.
INTERFACES = (Encoder, Policy, Judge, Instrument, Log, Source)

# What a signature may speak of although no app can import it, and why.
UNNAMED = {
    "AnswerStream": "an `Encoder`",
    "Encode": "a function",
    "Feed": "what `sse` takes; apps have `Topic` and `Run`",
    "Schema": "a dict",
    "SubscriptionManager": "what `async with` and `sse` take",
    "_Data": "a type variable",
}

# The variable that has such an object in the docs, where that is not its class in lower case.
VARIABLES = {"Outlet": "out", "StreamClient": "client"}


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


def functions(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the methods and properties without an underscore that flowstream gives a class."""
    for one in kind.__mro__:
        if one.__module__.partition(".")[0] == "flowstream":
            for name, member in vars(one).items():
                plain = member.fget if isinstance(member, property) else member
                plain = getattr(plain, "__func__", plain)
                if inspect.isfunction(plain) and not name.startswith("_"):
                    yield name, plain


def importable() -> set[str]:
    """Return what the public modules have to import."""
    return {name for module in MODULES for name in getattr(import_module(module), "__all__", ())}


def internal_types(function: Callable[..., Any]) -> set[str]:
    """Return the names in a function's annotations that are flowstream's and that no app has."""
    names: set[str] = set()
    for annotation in function.__annotations__.values():
        tree = ast.parse(str(annotation))
        names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return {name for name in names - importable() if is_ours(name, function.__globals__)}


def is_ours(name: str, variables: dict[str, Any]) -> bool:
    """Return whether `name` is neither a builtin nor a class or module of another library."""
    found = variables.get(name)
    if found is None:
        return not hasattr(builtins, name)
    home = found.__name__ if inspect.ismodule(found) else found.__module__
    by_us = home.partition(".")[0] == "flowstream"
    return by_us or not (home == "typing" or inspect.isclass(found) or inspect.ismodule(found))


def documented(kind: str, pages: list[str]) -> set[str]:
    """Return what the docs say of a class.

    That is every word in code in a section with the class in its heading, and in the row of a table
    that begins with it; and elsewhere ``Class.name`` or ``variable.name``.
    """
    variable = VARIABLES.get(kind, kind.lower())
    found: set[str] = set()
    for page in pages:
        found |= set(re.findall(rf"\b(?:{kind}|{variable})\b(?:\([^`\n]*\))?\.(\w+)", page))
        sections = re.split(r"^(?=#+ )", page, flags=re.MULTILINE)
        blocks = [one for one in sections if re.match(rf"#+ .*`{kind}\b", one)]
        blocks += re.findall(rf"^\| `(?:[\w.]+`: `)?{kind}\b.*", page, re.MULTILINE)
        for block in blocks:
            found.update(*(re.findall(r"\w+", code) for code in re.findall(r"`[^`]+`", block)))
    return found


CLASSES = dict(classes())
PAGES = [path.read_text() for path in sorted(DOCS.rglob("*.md"))]
# What an app is given by flowstream, and calls.
GIVEN = sorted(
    name
    for name, kind in CLASSES.items()
    if not issubclass(kind, INTERFACES) and any(functions(kind))
)


@pytest.mark.parametrize("name", sorted({*CLASSES, *PUBLIC}))
def test_a_public_class_shows_no_more_than_it_promises(name: str) -> None:
    """Each public class has the attributes of the table, and no others without an underscore."""
    assert name in PUBLIC, f"{name} is new: list here what apps may use of it"
    assert attributes(CLASSES[name]) == set(PUBLIC[name].split())


@pytest.mark.parametrize("name", GIVEN)
def test_the_docs_say_what_a_public_method_is_for(name: str) -> None:
    """Whatever an app may call of an object is in the docs; the rest is for flowstream alone."""
    methods = {method for method, _ in functions(CLASSES[name])}
    for kind in CLASSES[name].__mro__:
        methods -= documented(kind.__name__, PAGES)
    assert methods == set()


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_a_public_method_speaks_of_public_types(name: str) -> None:
    """A signature names what apps can import: what takes or gives more, is for flowstream alone."""
    for method, function in functions(CLASSES[name]):
        assert internal_types(function) <= UNNAMED.keys(), f"{name}.{method}"


def test_the_exceptions_are_needed() -> None:
    """Each type that no app can import, and that is let through, is in some signature."""
    used = {
        type_
        for kind in CLASSES.values()
        for _, function in functions(kind)
        for type_ in internal_types(function)
    }
    assert used == UNNAMED.keys()


def test_a_step_of_a_home_is_seen() -> None:
    """A method of the kind that homes of streams call is found by its types or by the docs."""
    steps = dict(functions(StreamExchange))
    assert internal_types(steps["open"]) == {"Scope", "Stream", "Tally"}
    assert internal_types(steps["transport"]) == {"HTTPTransport", "Scope", "Send"}
    said = documented("StreamResponse", PAGES)
    assert said >= {"headers", "statistics", "status", "stop"}
    once = {"answer_empty", "context", "empty_answer", "headers_for", "open", "prime", "transport"}
    assert said.isdisjoint({*once, *steps})


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
