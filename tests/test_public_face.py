"""The public face: names and keywords that apps rely on do not change by accident."""

import inspect
import pickle
import subprocess
import sys
import typing

import pytest

import flowstream
from flowstream.asgi._response_plan import make_response_plan
from flowstream.asgi.formats import StreamOptions
from flowstream.asgi.plan import make_plan

NAMES = [
    "stream",
    "sse",
    "ndjson",
    "csv",
    "raw",
    "StreamResponse",
    "SourceLike",
    "StreamOptions",
    "Where",
    "Event",
    "Outlet",
    "SharedReceive",
    "PublicError",
    "NotFoundError",
    "UpstreamError",
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
    "Runs",
    "Run",
    "LostRun",
    "RunsStatistics",
    "RunStatistics",
    "Block",
    "DropOldest",
    "DropNewest",
    "Sample",
    "Conflate",
    "Disconnect",
    "CatchUp",
    "Buffer",
    "Limits",
    "SSE",
    "NDJSON",
    "CSV",
    "Raw",
    "EventTypes",
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
    "serve",
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

OPTIONS = {
    "buffer": 256,
    "policy": None,
    "heartbeat": 15.0,
    "limits": flowstream.Limits(),
    "status": 200,
    "headers": (),
    "filename": None,
    "compress": None,
    "prime": None,
    "controls": True,
    "on_reconnect": "refuse",
    "direct": None,
    "retry": None,
    "on_close": None,
    "where": None,
    "events": None,
}

SIGNATURES = {
    "stream": "(source, *, encoder, **options)",
    "sse": "(source, *, encode=None, big_integers='number', **options)",
    "ndjson": "(source, *, encode=None, big_integers='number', **options)",
    "csv": "(source, *, columns=None, header=True, delimiter=',', spreadsheet_safe=False, "
    "bom=None, encode=None, **options)",
    "raw": "(source, *, media_type='application/octet-stream', **options)",
    "Event": "(data, *, id=None, type=None, key=None, essential=False, retry=None)",
    "SharedReceive": "(receive)",
    "PublicError": "(code, message, *, retryable=False, status=500, retry_after=None)",
    "Topic": "(name, *, replay=Replay(items=1000, seconds=inf, bytes=8388608), snapshot=None, "
    "presence=None, snapshot_timeout=30.0, log=None)",
    "Replay": "(items=1000, seconds=inf, bytes=8388608)",
    "LatestByKey": "(keys=10000, bytes=8388608)",
    "Retry": "(first=1.0, longest=60.0)",
    "resumable": "(function)",
    "Topics": "(factory=<class 'flowstream.Topic'>, *, idle=60.0, limit=10000, authorize=None, "
    "subject=None, name_limit=256, log=None)",
    "Runs": "(name='runs', *, grace=30.0, replay=Replay(items=10000, seconds=inf, "
    "bytes=1048576), max_running=1000, keep=60.0, max_kept=1000, cleanup_timeout=5.0, log=None, "
    "lease=15.0, on_owner_lost='close')",
    "Block": "(timeout=None)",
    "DropOldest": "(max_age=None)",
    "DropNewest": "(max_age=None)",
    "Sample": "(*, every=None, interval=None, max_age=None)",
    "Conflate": "(max_age=None)",
    "Disconnect": "()",
    "CatchUp": "()",
    "Buffer": "(items=256, bytes=1048576, warn_at=None)",
    "Limits": "(max_duration=None, max_bytes=None, stall_timeout=30.0, cleanup_timeout=5.0)",
    "SSE": "(*, names={}, encode=None, big_integers='number')",
    "NDJSON": "(*, names={}, encode=None, big_integers='number')",
    "CSV": "(columns=None, *, header=True, delimiter=',', spreadsheet_safe=False, "
    "bom=None, encode=None)",
    "Raw": "(media_type='application/octet-stream')",
    "EventTypes": "(*types, snapshot=None)",
}

OF_ENCODERS = {
    "JSONSequence": "(*, names={}, encode=None, big_integers='number')",
    "Frames": "(*, prefix=4, media_type=None, names={}, encode=None, big_integers='number')",
    "OpenAIChunks": "(model, *, include_usage=False, encode=None)",
    "UIMessages": "(*, message_id=None, names={}, encode=None, big_integers='number')",
    "AGUI": "(*, thread_id=None, run_id=None, names={}, encode=None, big_integers='number')",
}
"""Formats that few import: they are public in `flowstream.encoders`."""


def bare(callable_):
    """Return the signature of `callable_` without its annotations."""
    signature = inspect.signature(callable_)
    parameters = [
        parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()
    ]
    return str(signature.replace(parameters=parameters, return_annotation=signature.empty))


def test_the_names_are_those():
    """`__all__` is the public face, and each of its names is there."""
    assert sorted(flowstream.__all__) == sorted(NAMES)
    assert all(hasattr(flowstream, name) for name in NAMES)


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_keywords_are_those(name):
    """Names, order and defaults of the arguments are what apps were written against."""
    assert bare(getattr(flowstream, name)) == SIGNATURES[name]


@pytest.mark.parametrize("name", OF_ENCODERS)
def test_the_keywords_of_further_formats_are_those(name):
    """A format of `flowstream.encoders` has the arguments that apps were written against."""
    assert bare(getattr(flowstream.encoders, name)) == OF_ENCODERS[name]


@pytest.mark.parametrize("name", [*OF_ENCODERS, "Events"])
def test_a_name_that_has_moved_says_where(name):
    """A name that was public once is missing, and its error has the import to write."""
    assert not hasattr(flowstream, name)
    with pytest.raises(AttributeError, match=r"write `from [\w.]+ import \w+`$") as raised:
        getattr(flowstream, name)
    instead = str(raised.value).split("`")[1]
    names: dict[str, object] = {}
    exec(instead, names)
    assert names.keys() >= {name if name in OF_ENCODERS else "EventTypes"}


def test_the_options_of_a_stream_are_those():
    """Every kind of stream takes the same keywords, with the same defaults."""
    parameters = [
        parameter
        for make in (make_plan, make_response_plan)
        for parameter in inspect.signature(make).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    assert {parameter.name: parameter.default for parameter in parameters} == OPTIONS
    assert len(parameters) == len(OPTIONS)
    assert set(StreamOptions.__annotations__) == set(OPTIONS)


def test_the_close_reasons_are_a_closed_set():
    """Their words are on the wire, in logs and in metrics."""
    assert [reason.value for reason in flowstream.CloseReason] == [
        "completed",
        "client_disconnected",
        "slow_consumer",
        "stalled",
        "max_duration",
        "max_bytes",
        "rate_limited",
        "refused",
        "cancelled",
        "stopped",
        "shutdown",
        "error",
    ]


def public_members():
    for name in NAMES:
        member = getattr(flowstream, name)
        yield name, member
        if inspect.isclass(member):
            for attribute, value in vars(member).items():
                value = getattr(value, "__func__", value)
                if not attribute.startswith("_") and (
                    inspect.isfunction(value) or isinstance(value, property)
                ):
                    yield f"{name}.{attribute}", value


# Type aliases, which are no objects of their own to have a docstring.
ALIASES = {"SourceLike", "Where"}
MEMBERS = [(name, member) for name, member in public_members() if name not in ALIASES]


@pytest.mark.parametrize(("name", "member"), MEMBERS, ids=[name for name, _ in MEMBERS])
def test_every_public_name_has_a_docstring(name, member):
    """What an app may use says what it does."""
    doc = inspect.getdoc(member)
    assert doc
    # A dataclass without a docstring gets its own signature for one.
    assert not doc.startswith(f"{name}(")


@pytest.mark.parametrize("name", sorted({*NAMES} - ALIASES))
def test_a_public_name_says_where_it_is_public(name):
    """Its module is `flowstream`, where its annotations can be looked up, too."""
    member = getattr(flowstream, name)
    assert member.__module__ == "flowstream"
    if inspect.isclass(member):
        typing.get_type_hints(member)
        assert pickle.loads(pickle.dumps(member)) is member


@pytest.mark.parametrize("module", ["flowstream", "flowstream.testing"])
def test_importing_it_imports_no_optional_package(module):
    """Quart, Starlette, Rich and their like are imported by who uses them."""
    optional = ["quart", "quart_trio", "starlette", "fastapi", "rich", "pytest"]
    code = f"import sys, {module}; print(*[m for m in {optional} if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.split() == []
