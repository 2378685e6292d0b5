"""`anthropic_tokens`, against a server that speaks the wire format.

What it shares with `openai_tokens` (timeouts, retries, statuses, what is left of aborts) is
tried more closely there.
"""

from __future__ import annotations

import gc
import json
import sys
from typing import Any

import anthropic
import openai
import pytest
import trio
from _events import token, whole
from _upstream import (
    MESSAGE_START,
    MESSAGE_STOP,
    PING,
    Upstream,
    block,
    break_off,
    framed,
    hang,
    message,
    message_delta,
    refuse,
    stream,
    text_block,
)
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from flowstream import MissingExtraError, ndjson
from flowstream.decoders import ServerSentEvent, SSEDecoder
from flowstream.llm import Reasoning, Token, ToolCall, Usage
from flowstream.sources.llm.anthropic import MessageReader, anthropic_tokens
from flowstream.testing import collect, open_stream

KEY = "sk-ant-api03-secret"
ASK: dict[str, Any] = {
    "model": "claude-opus-4-6",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Hello?"}],
}
SECRETS = f"invalid x-api-key {KEY} of organization 5b8c"


@pytest.fixture
async def client(upstream):
    """A client of the upstream that does not retry."""
    plain = anthropic.DefaultAsyncHttpxClient(verify=False)  # certificates take 20 ms to load
    async with anthropic.AsyncAnthropic(
        api_key=KEY, base_url=upstream.url, max_retries=0, http_client=plain
    ) as one:
        yield one


async def answered(client: Any, **options: Any) -> list[Any]:
    """Return what our client gets, without the `end` of a whole stream."""
    return await whole(anthropic_tokens(client, **{**ASK, **options}))


USAGE = {"type": "usage", "input_tokens": 19, "output_tokens": 15}
DONE = {"type": "done", "reason": "stop"}


async def test_an_answer_is_tokens_usage_and_done(upstream: Upstream, client: Any) -> None:
    """The text comes piece by piece, then what it cost, cached input and all, and the reason."""
    upstream.answer(stream(*message("Hel", "lo", " \u2028 \N{SNOWMAN}")))
    events = await answered(client, stop_sequences=["."])
    assert events == [token("Hel"), token("lo"), token(" \u2028 \N{SNOWMAN}"), USAGE, DONE]
    assert upstream.bodies == [{**ASK, "stop_sequences": ["."], "stream": True}]


async def test_an_answer_is_asked_for_as_it_is(upstream: Upstream, client: Any) -> None:
    """Compressed, tokens would wait for each other; a request of the app's own may want it."""
    upstream.answer(stream(*message("Hello")))
    await answered(client)
    await answered(client, extra_headers={"Accept-Encoding": "gzip"})
    requests = [request for one in upstream.connections for request in one.requests]
    asked = [headers["accept-encoding"] for _, headers, _ in requests]
    assert asked == ["identity", "gzip"]


async def test_the_connection_is_used_again(upstream: Upstream, client: Any) -> None:
    """Whole answers leave their connection to the pool: three requests, one connection."""
    upstream.answer(stream(*message("Hello")))
    for _ in range(3):
        assert await answered(client) == [token("Hello"), USAGE, DONE]
    assert len(upstream.connections) == 1


# The SDK leaves its generators to the garbage collector, of which Trio warns.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_what_is_not_called_sse_is_read_by_the_sdk(upstream: Upstream, client: Any) -> None:
    """As on Bedrock, which has another framing: the events are the same, failures too."""
    whole = message("Hello")
    tool = block(1, {"type": "tool_use", "id": "t", "name": "now", "input": {}})
    upstream.answer(stream(*whole[:-2], *tool, *whole[-2:], media_type="text/plain"))
    *events, usage, done = await answered(client)
    assert events[0] == token("Hello")
    assert [event["type"] for event in events[1:]] == ["tool_call", "tool_call"]
    assert (usage, done) == (USAGE, DONE)
    error = {"type": "error", "error": {"type": "overloaded_error", "message": SECRETS}}
    upstream.answer(stream(*whole[:4], error, media_type="text/plain"))
    assert failed(await answered(client)) == "upstream_busy"
    gc.collect()
    await trio.lowlevel.checkpoint()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_another_framing_is_left_to_the_sdk(
    upstream: Upstream, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is no SSE, as on Bedrock, goes through the decoder that the client has for it."""

    class Lines:
        async def aiter_bytes(self, parts: Any) -> Any:
            data = b"".join([part async for part in parts])
            for line in data.splitlines():
                event = json.loads(line)
                yield anthropic._streaming.ServerSentEvent(event=event["type"], data=line.decode())

    monkeypatch.setattr(anthropic.AsyncAnthropic, "_make_sse_decoder", lambda self: Lines())
    lines = (json.dumps(event) + "\n" for event in message("Hello"))
    upstream.answer(stream(*lines, media_type="application/vnd.amazon.eventstream"))
    assert await answered(client) == [token("Hello"), USAGE, DONE]
    gc.collect()
    await trio.lowlevel.checkpoint()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_the_sdks_own_tracing_sees_the_answer(upstream: Upstream, client: Any) -> None:
    """With OpenTelemetry on, the SDK's span has what only the stream's events say."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    traced = client.with_options(open_telemetry={"tracer_provider": provider})
    upstream.answer(stream(*message("Hello")))
    assert await answered(traced) == [token("Hello"), USAGE, DONE]
    (span,) = exporter.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["gen_ai.usage.output_tokens"] == 15
    gc.collect()
    await trio.lowlevel.checkpoint()


def read(*events: Any) -> tuple[MessageReader, list[Any]]:
    reader, read = MessageReader(), []
    for event in events:
        read += reader.read(ServerSentEvent(event["type"], json.dumps(event), ""))
    return reader, read


def test_thinking_is_told_from_text() -> None:
    """Thinking is `reasoning`; its signature, what is redacted and citations are nothing."""
    _, events = read(
        *block(
            0,
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "thinking_delta", "thinking": "Hm"},
            {"type": "signature_delta", "signature": "EqQBCgIYAhIM1gbcDa9GJwZA2b3h"},
        ),
        *block(1, {"type": "redacted_thinking", "data": "EmwKAhgBEgy3va3pzix"}),
        *block(
            2,
            {"type": "text", "text": "Y"},
            {"type": "text_delta", "text": "es."},
            {"type": "citations_delta", "citation": {"type": "page_location"}},
        ),
        *block(3, {"type": "thinking", "thinking": "m."}),
    )
    assert events == [Reasoning("Hm"), Token("Y"), Token("es."), Reasoning("m.")]


def test_tool_calls_are_numbered_and_have_arguments() -> None:
    """Blocks of tools are numbered; no arguments are `{}`; a server's own are none."""

    def tool(index: int, *pieces: str, type: str = "tool_use", **fields: Any) -> list[Any]:
        deltas = ({"type": "input_json_delta", "partial_json": piece} for piece in pieces)
        start = {"type": type, "id": f"toolu_{index}", "name": "f", "input": {}, **fields}
        return block(index, start, *deltas)

    _, events = read(
        *text_block(0, "Let me see."),
        *tool(1, "", '{"city":', ' "Rome"}'),
        *tool(2, '{"query": "x"}', type="server_tool_use"),
        *tool(3, ""),
        *tool(4, input={"x": 1}),
    )
    assert events == [
        Token("Let me see."),
        ToolCall(0, "", "toolu_1", "f"),
        ToolCall(0, '{"city":'),
        ToolCall(0, ' "Rome"}'),
        ToolCall(1, "", "toolu_3", "f"),
        ToolCall(1, "{}"),
        ToolCall(2, '{"x":1}', "toolu_4", "f"),
    ]


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("pause_turn", "other"),
    ],
)
def test_reasons_have_one_name(stop: str, reason: str) -> None:
    """Each reason of the API is one of ours, and what is none of them is `other`."""
    reader, _ = read(message_delta(stop), MESSAGE_STOP)
    assert (reader.reason, reader.over) == (reason, True)


def test_usage_is_what_was_said_last() -> None:
    """Figures are sums: a later one replaces the one before, and what is missing does not."""
    reader, _ = read(MESSAGE_START)
    assert reader.usage == Usage(19, 1)
    _, _ = read(PING)
    reader.read(ServerSentEvent("message_delta", json.dumps(message_delta("end_turn", 7)), ""))
    assert reader.usage == Usage(19, 7)
    later = {"type": "message_delta", "delta": {}, "usage": {"input_tokens": 100}}
    reader.read(ServerSentEvent("message_delta", json.dumps(later), ""))
    assert reader.usage == Usage(107, 7)


@given(st.lists(st.text(min_size=1)), st.integers(1, 40))
def test_text_is_whole_however_it_is_cut(texts: list[str], size: int) -> None:
    """The bytes of a stream, in chunks of any size, are the text that was said."""
    data = b"".join(map(framed, message(*texts)))
    decoder, reader, events = SSEDecoder(), MessageReader(), []
    for start in range(0, len(data), size):
        for event in decoder.feed(data[start : start + size]):
            events += reader.read(event)
    assert events == [Token(text) for text in texts]
    assert (reader.reason, reader.usage, reader.over) == ("stop", Usage(19, 15), True)


# -- what goes wrong -----------------------------------------------------------------------


def failed(events: list[Any]) -> str:
    """Return the code with which a stream failed."""
    last = events[-1]
    assert last["type"] == "failed"
    assert "sk-" not in json.dumps(events)
    assert "organization" not in json.dumps(events)
    return str(last["data"]["code"])


def body(type: str, words: str = SECRETS) -> dict[str, Any]:
    return {"type": "error", "error": {"type": type, "message": words}}


@pytest.mark.parametrize(
    ("upstream_status", "kind", "status", "code"),
    [
        (400, "invalid_request_error", 502, "upstream_rejected"),
        (401, "authentication_error", 502, "upstream_rejected"),
        (403, "permission_error", 502, "upstream_rejected"),
        (413, "request_too_large", 413, "context_too_long"),
        (429, "rate_limit_error", 503, "upstream_busy"),
        (500, "api_error", 502, "upstream_failed"),
        (504, "timeout_error", 504, "upstream_timeout"),
        (529, "overloaded_error", 503, "upstream_busy"),
    ],
)
async def test_a_failure_is_the_same_before_and_in_the_stream(
    upstream: Upstream, client: Any, upstream_status: int, kind: str, status: int, code: str
) -> None:
    """As a status of the upstream's or as an event in its stream: one code, none of its words."""
    upstream.answer(
        refuse(upstream_status, body(kind), retry_after="7"),
        stream(body(kind)),
        stream(*message("Hello")[:4], body(kind)),
    )
    for waits in ("7", None):
        answer = await collect(ndjson(anthropic_tokens(client, **ASK), prime=20))
        assert (answer.status, json.loads(answer.body)["code"]) == (status, code)
        assert b"sk-" not in answer.body
        told = waits if code in ("upstream_busy", "upstream_failed") else None
        assert answer.headers.get("retry-after") == told
    events = await answered(client)
    assert events[0] == token("Hello")
    assert failed(events) == code


async def test_a_prompt_that_is_too_long_is_told_from_a_wrong_one(
    upstream: Upstream, client: Any
) -> None:
    """It has no type of its own, but the client can do something about it."""
    words = "prompt is too long: 208310 tokens > 200000 maximum"
    upstream.answer(refuse(400, body("invalid_request_error", words)))
    answer = await collect(ndjson(anthropic_tokens(client, **ASK), prime=20))
    assert (answer.status, json.loads(answer.body)["code"]) == (413, "context_too_long")
    assert b"208310" not in answer.body


@pytest.mark.parametrize(
    ("steps", "code"),
    [
        ([break_off], "upstream_broken"),
        ([], "upstream_broken"),
        ([MESSAGE_STOP], "upstream_broken"),
        (["event: message_delta\ndata: {\n\n"], "upstream_broken"),
        ([PING, hang], "upstream_timeout"),
    ],
)
async def test_an_answer_that_breaks_off_is_told_in_band(
    upstream: Upstream, client: Any, steps: list[Any], code: str
) -> None:
    """What was said before comes whole, then `failed`; pings are no sign of a token."""
    upstream.answer(stream(*message("Hello")[:4], *steps))
    events = await answered(client, token_timeout=0.05 if hang in steps else 10)
    assert events[0] == token("Hello")
    assert failed(events) == code


async def test_an_upstream_that_says_nothing_has_a_status(
    upstream: Upstream, client: Any, aeventually: Any
) -> None:
    """It is 504 after `first_timeout`, whatever pings there are."""
    for answer in (hang, stream(MESSAGE_START, PING, hang)):
        upstream.answer(answer)
        source = anthropic_tokens(client, first_timeout=0.05, **ASK)
        reply = await collect(ndjson(source, prime=20))
        assert (reply.status, json.loads(reply.body)["code"]) == (504, "upstream_timeout")
        await aeventually(upstream.all_closed, "its connection is closed")


async def test_what_is_soon_over_is_tried_again(upstream: Upstream, client: Any) -> None:
    """As often as the client has it; what takes longer is our client's to wait for."""
    patient = client.with_options(max_retries=1)
    busy = body("overloaded_error")
    upstream.answer(refuse(529, busy, retry_after_ms="1"), stream(*message("Hello")))
    assert await answered(patient) == [token("Hello"), USAGE, DONE]
    upstream.answer(refuse(529, busy, retry_after="30"))
    with trio.fail_after(3):
        reply = await collect(ndjson(anthropic_tokens(patient, **ASK), prime=20))
    assert (reply.status, reply.headers["retry-after"]) == (503, "30")


@pytest.mark.parametrize("when", ["before the head", "before a token", "between"])
async def test_the_upstream_is_closed_with_the_client(
    upstream: Upstream, client: Any, aeventually: Any, when: str
) -> None:
    """An abort closes the upstream's connection, and leaves nothing in the pool."""
    steps = {"before the head": hang, "before a token": stream(MESSAGE_START, PING, hang)}
    upstream.answer(steps.get(when, stream(*message("Hello")[:4], hang)))
    async with open_stream(ndjson(anthropic_tokens(client, **ASK))) as reader:
        await aeventually(lambda: upstream.bodies, "the upstream is asked")
        if when == "between":
            assert await reader.next_value() == token("Hello")
        reader.abort()
        with trio.fail_after(10):
            await upstream.latest.closed.wait()
        await reader.wait_finished()
    assert client._client._transport._pool.connections == []


def test_a_wrong_client_is_refused_at_the_call() -> None:
    """A synchronous client, another SDK's, a coroutine: a clear TypeError."""

    async def request() -> None: ...

    with (
        anthropic.Anthropic(api_key=KEY) as blocking,
        pytest.raises(TypeError, match="a Anthropic can't be awaited"),
    ):
        anthropic_tokens(blocking, **ASK)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"not a openai\.AsyncOpenAI"):
        anthropic_tokens(openai.AsyncOpenAI(api_key=KEY), **ASK)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not a coroutine"):
        anthropic_tokens(request(), **ASK)  # type: ignore[arg-type]
    own = anthropic.AsyncAnthropic(api_key=KEY)
    with pytest.raises(TypeError, match="stream= is not yours to give"):
        anthropic_tokens(own, **ASK, stream=False)
    with pytest.raises(TypeError, match="'max_tokens'"):
        anthropic_tokens(own, model="m", messages=[])


def test_clients_for_other_clouds_are_taken() -> None:
    """Those that don't derive from `AsyncAnthropic`, too."""
    cloud = anthropic.AsyncAnthropicVertex(region="europe-west1", project_id="p", access_token="t")
    anthropic_tokens(cloud, **ASK)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the SDK the message says what to install."""
    client = anthropic.AsyncAnthropic(api_key=KEY)
    monkeypatch.setitem(sys.modules, "anthropic", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'flowstream-trio\[anthropic\]'"):
        anthropic_tokens(client, **ASK)
