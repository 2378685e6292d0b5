"""`openai_tokens` and `openai_responses`, against a server that speaks the wire formats."""

from __future__ import annotations

import gc
import gzip
import json
import runpy
import struct
import sys
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import msgspec
import openai
import pytest
import trio
from _events import token, values, whole
from _upstream import (
    CHAT_USAGE,
    END,
    ROLE,
    Upstream,
    break_off,
    chat,
    chat_chunk,
    flood,
    framed,
    hang,
    open_upstream,
    refuse,
    stream,
)
from hypothesis import given
from hypothesis import strategies as st

from flowstream import Block, MissingExtraError, ndjson
from flowstream.decoders import ServerSentEvent, SSEDecoder
from flowstream.llm import Reasoning, Token, ToolCall, Usage
from flowstream.sources.llm import _model_answer as _llm_answer
from flowstream.sources.llm._loose import UpstreamDecoder
from flowstream.sources.llm._model_failures import failure_in_stream, failure_of_status, retry_after
from flowstream.sources.llm._tool_calls import ToolCalls
from flowstream.sources.llm.openai import ChatReader, openai_tokens
from flowstream.sources.llm.openai_responses import ResponseReader, openai_responses
from flowstream.testing import collect, open_stream

KEY = "sk-proj-4f1d0secret"
ASK: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello?"}]}
# What an upstream may say: nothing of that is for our clients.
SECRETS = f"Incorrect API key provided: {KEY}. Organization org-1234 has no such project."


@pytest.fixture
async def client(upstream):
    """A client of the upstream that does not retry."""
    plain = openai.DefaultAsyncHttpxClient(verify=False)  # certificates take 20 ms to load
    async with openai.AsyncOpenAI(
        api_key=KEY, base_url=f"{upstream.url}/v1", max_retries=0, http_client=plain
    ) as one:
        yield one


async def answered(client: Any, **options: Any) -> list[Any]:
    """Return what our client gets, without the `end` of a whole stream."""
    return await whole(openai_tokens(client, **{**ASK, **options}))


USAGE = {"type": "usage", "input_tokens": 19, "output_tokens": 10}
DONE = {"type": "done", "reason": "stop"}

# -- a whole answer ------------------------------------------------------------------------


async def test_an_answer_is_tokens_usage_and_done(upstream: Upstream, client: Any) -> None:
    """The text comes piece by piece, then what it cost and why it ended; usage was asked for."""
    upstream.answer(stream(*chat("Hel", "lo", " \u2028 \N{SNOWMAN}")))
    events = await answered(client, temperature=0.5)
    assert events == [token("Hel"), token("lo"), token(" \u2028 \N{SNOWMAN}"), USAGE, DONE]
    assert upstream.bodies == [
        {**ASK, "temperature": 0.5, "stream": True, "stream_options": {"include_usage": True}}
    ]


async def test_little_that_becomes_a_lot_is_read_a_little_at_a_time(
    upstream: Upstream, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A packet of gzip can be a thousand times as much, of which nobody may take notice."""
    fed: list[int] = []

    class Measured(UpstreamDecoder):
        def feed(self, data: bytes) -> list[ServerSentEvent]:
            fed.append(len(data))
            return super().feed(data)

    monkeypatch.setattr(_llm_answer, "UpstreamDecoder", Measured)
    chunks = [chat_chunk({"content": "Hello"}), chat_chunk(finish="stop"), CHAT_USAGE]
    packed = gzip.compress(b": x\n" * 2**18 + b"".join(map(framed, chunks)) + END.encode())
    assert len(packed) < 4096

    async def answer(connection: Any) -> None:
        await connection.begin("text/event-stream\r\ncontent-encoding: gzip")
        await connection.send(packed)
        await connection.end()

    upstream.answer(answer)
    assert await answered(client) == [token("Hello"), USAGE, DONE]
    assert sum(fed) > 2**20
    assert max(fed) <= 2**16


async def test_an_answer_is_asked_for_as_it_is(upstream: Upstream, client: Any) -> None:
    """Compressed, tokens would wait for each other; a request of the app's own may want it."""
    upstream.answer(stream(*chat("Hello")))
    await answered(client)
    await answered(client, extra_headers={"Accept-Encoding": "gzip"})
    requests = [request for one in upstream.connections for request in one.requests]
    asked = [headers["accept-encoding"] for _, headers, _ in requests]
    assert asked == ["identity", "gzip"]


async def test_the_connection_is_used_again(upstream: Upstream, client: Any) -> None:
    """Whole answers leave their connection to the pool: three requests, one connection."""
    upstream.answer(stream(*chat("Hello")))
    for _ in range(3):
        assert await answered(client) == [token("Hello"), USAGE, DONE]
    assert len(upstream.connections) == 1


async def test_options_of_the_stream_can_be_left_out(upstream: Upstream, client: Any) -> None:
    """A server that refuses `stream_options` is asked without; None does so at once."""
    words = {"error": {"message": "body.stream_options: Extra inputs are not permitted"}}
    plain = stream(chat_chunk({"content": "Hi"}), chat_chunk(finish="stop"), END)
    upstream.answer(refuse(422, words), plain)
    assert await answered(client) == [token("Hi"), DONE]
    assert await answered(client, stream_options=None) == [token("Hi"), DONE]
    asked = [body.get("stream_options") for body in upstream.bodies]
    assert asked == [{"include_usage": True}, None, None]
    await answered(client, stream_options={"include_usage": False})
    assert upstream.bodies[-1]["stream_options"] == {"include_usage": False}


async def test_an_answer_is_complete_once_its_reason_is_known(
    upstream: Upstream, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that then hangs, breaks off or just ends takes nothing away from the answer."""
    monkeypatch.setattr(_llm_answer, "_AFTERWORD", 0.05)
    whole = [chat_chunk({"content": "Hi"}), chat_chunk(finish="stop")]
    for last in ([hang], [break_off], [], [CHAT_USAGE, hang], [CHAT_USAGE, END, hang]):
        upstream.answer(stream(*whole, *last))
        usage = [USAGE] if CHAT_USAGE in last else []
        assert await answered(client) == [token("Hi"), *usage, DONE]


class Watched:
    """A stream of the SDK's with somebody in between, as tracing has it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.seen = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)  # as the proxies of tracing do

    async def __aenter__(self) -> Watched:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stream.close()

    async def __aiter__(self) -> Any:
        async for chunk in self._stream:
            self.seen += 1
            yield chunk


# The SDK leaves its generators to the garbage collector, of which Trio warns.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_stream_that_somebody_watches_is_read_by_the_sdk(
    upstream: Upstream, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tracing that wraps the SDK's stream sees each chunk, and the events are the same."""
    create, watched = openai.resources.chat.AsyncCompletions.create, []

    async def traced(*args: Any, **kwargs: Any) -> Any:
        watched.append(Watched(await create(*args, **kwargs)))
        return watched[-1]

    monkeypatch.setattr(openai.resources.chat.AsyncCompletions, "create", traced)
    call = {"index": 0, "id": "call_9", "function": {"name": "now", "arguments": "{}"}}
    steps = [ROLE, chat_chunk({"content": "Hello"}), chat_chunk({"tool_calls": [call]})]
    upstream.answer(stream(*steps, chat_chunk(finish="tool_calls"), CHAT_USAGE, END))
    events = await answered(client)
    assert events[0] == token("Hello")
    assert events[1]["name"] == "now"
    assert events[2:] == [USAGE, {"type": "done", "reason": "tool_calls"}]
    assert watched[0].seen == 5
    upstream.answer(stream(ROLE, {"error": {"message": SECRETS, "type": "server_error"}}))
    assert failed(await answered(client)) == "upstream_failed"
    gc.collect()
    await trio.lowlevel.checkpoint()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_what_is_not_called_sse_is_read_by_the_sdk(upstream: Upstream, client: Any) -> None:
    """SSE under another name is an answer; a whole JSON or a page of HTML is a broken one."""
    upstream.answer(stream(*chat("Hello"), media_type="text/plain"))
    assert await answered(client) == [token("Hello"), USAGE, DONE]
    for body, media_type in [("<h1>Hello</h1>", "text/html"), ("{}", "application/json")]:
        upstream.answer(stream(body, media_type=media_type))
        assert failed(await answered(client)) == "upstream_broken"
    gc.collect()
    await trio.lowlevel.checkpoint()


# -- what may be in an answer --------------------------------------------------------------


def read(reader: Any, *events: Any) -> list[Any]:
    read = []
    for event in events:
        data = event if isinstance(event, str) else json.dumps(event)
        read += reader.read(ServerSentEvent("message", data, ""))
    return read


def test_reasoning_is_told_from_text() -> None:
    """Both names that servers have for it are known; null and empty pieces are no events."""
    deltas = [
        {"role": "assistant", "content": None, "reasoning_content": ""},
        {"content": None, "reasoning_content": "Hm"},
        {"content": "", "reasoning": "m."},
        {"content": "Yes.", "reasoning": None},
    ]
    events = read(ChatReader(), *map(chat_chunk, deltas))
    assert events == [Reasoning("Hm"), Reasoning("m."), Token("Yes.")]


def test_a_refusal_is_text_and_says_so_at_the_end() -> None:
    """What the model says instead of an answer is shown, and the reason is `content_filter`."""
    reader = ChatReader()
    events = read(reader, chat_chunk({"refusal": "I can't."}), chat_chunk(finish="stop"))
    assert events == [Token("I can't.")]
    assert reader.reason == "content_filter"


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("tool_calls", "tool_calls"),
        ("function_call", "tool_calls"),
        ("content_filter", "content_filter"),
        ("eos_token", "other"),
    ],
)
def test_reasons_have_one_name(finish: str, reason: str) -> None:
    """Each reason of the API is one of ours, and what is none of them is `other`."""
    reader = ChatReader()
    read(reader, chat_chunk(finish=finish))
    assert reader.reason == reason


def test_servers_that_imitate_the_api_are_understood() -> None:
    """Missing fields, usage with each chunk, a comment for a model, no reason but `[DONE]`."""
    reader = ChatReader()
    events = read(
        reader,
        {"choices": [{"delta": {"content": "a"}}], "usage": {"prompt_tokens": 1}},
        {"choices": [{"index": 1, "delta": {"content": "other answer"}}]},
        {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}},
        {"choices": None, "model": "x"},
        {},
        "[DONE]",
    )
    assert events == [Token("a")]
    assert reader.usage == Usage(1, 2)
    assert reader.over
    assert reader.reason == "other"


def test_what_is_no_chunk_is_an_error() -> None:
    """Nonsense is told from an answer."""
    for data in ["{", "[]", '"text"', '{"choices": 3}', '{"choices": [{"delta": {"content": 1}}]}']:
        with pytest.raises(msgspec.MsgspecError):
            read(ChatReader(), data)


def test_tool_calls_are_numbered_whatever_the_server_does() -> None:
    """Repeated names, a number that all calls share, no number, no id: the pieces are right."""

    def call(**fields: Any) -> dict[str, Any]:
        name, arguments = fields.pop("name", None), fields.pop("arguments", None)
        return chat_chunk(
            {"tool_calls": [{**fields, "function": {"name": name, "arguments": arguments}}]}
        )

    openai_style = [
        call(index=0, id="a", name="f", arguments=""),
        call(index=0, arguments='{"x"'),
        call(index=1, id="b", name="g"),
        call(index=0, id="a", name="f", arguments=":1}"),
    ]
    assert read(ChatReader(), *openai_style) == [
        ToolCall(0, "", "a", "f"),
        ToolCall(0, '{"x"'),
        ToolCall(1, "", "b", "g"),
        ToolCall(0, ":1}"),
    ]
    for numbered in ({"index": 0}, {}):
        whole = [
            call(**numbered, id="a", name="f", arguments="{}"),
            call(**numbered, id="b", name="g", arguments="{}"),
            call(**numbered, arguments=" "),
        ]
        assert read(ChatReader(), *whole) == [
            ToolCall(0, "{}", "a", "f"),
            ToolCall(1, "{}", "b", "g"),
            ToolCall(1, " "),
        ]
    assert read(ChatReader(), call(index=4, name="f")) == [ToolCall(0, "", "call_0", "f")]


@st.composite
def interleaved(draw: st.DrawFn) -> tuple[list[list[str]], list[tuple[int, str]]]:
    """Some calls, each in pieces, and an order in which all the pieces come."""
    calls = draw(st.lists(st.lists(st.text('{}":1,', max_size=3), min_size=1), max_size=4))
    left = [(number, piece) for number, pieces in enumerate(calls) for piece in pieces]
    order = draw(st.permutations([number for number, _ in left]))
    queues = [iter(pieces) for pieces in calls]
    return calls, [(number, next(queues[number])) for number in order]


@given(interleaved(), st.booleans())
def test_pieces_of_tool_calls_stay_together(
    made: tuple[list[list[str]], list[tuple[int, str]]], repeats: bool
) -> None:
    """However calls interleave: dense numbers, one id and name each, and whole arguments."""
    calls, pieces = made
    reader, seen = ToolCalls(), []
    joined: dict[int, str] = {}
    for number, piece in pieces:
        first = number not in seen
        id = f"id-{number}" if first or repeats else None
        event = reader.piece(number, id, "f" if id else None, piece)
        if first:
            seen.append(number)
        assert event.index == seen.index(number)
        assert (event.id, event.name) == ((f"id-{number}", "f") if first else (None, None))
        joined[number] = joined.get(number, "") + event.arguments
    assert joined == {number: "".join(pieces) for number, pieces in enumerate(calls)}


@given(st.lists(st.text(min_size=1)), st.integers(1, 40))
def test_text_is_whole_however_it_is_cut(texts: list[str], size: int) -> None:
    """The bytes of a stream, in chunks of any size, are the text that was said."""
    data = b"".join(
        step.encode() if isinstance(step, str) else framed(step) for step in chat(*texts)
    )
    decoder, reader, events = SSEDecoder(), ChatReader(), []
    for start in range(0, len(data), size):
        for event in decoder.feed(data[start : start + size]):
            events += reader.read(event)
    assert events == [Token(text) for text in texts]
    assert (reader.reason, reader.usage, reader.over) == ("stop", Usage(19, 10), True)


# -- what goes wrong -----------------------------------------------------------------------


def failed(events: list[Any]) -> str:
    """Return the code with which a stream failed."""
    last = events[-1]
    assert last["type"] == "failed"
    for secret in ("sk-", "org-", "Incorrect", "127.0.0.1"):
        assert secret not in json.dumps(events)
    return str(last["data"]["code"])


BODY = {"error": {"message": SECRETS, "type": "x", "param": None, "code": "invalid_api_key"}}
TOO_LONG = {"error": {"message": SECRETS, "code": "context_length_exceeded"}}
VLLM = {
    "object": "error",
    "message": "This model's maximum context length is 8 tokens",
    "code": 400,
}


@pytest.mark.parametrize(
    ("upstream_status", "body", "status", "code"),
    [
        (400, BODY, 502, "upstream_rejected"),
        (401, BODY, 502, "upstream_rejected"),
        (402, None, 502, "upstream_rejected"),
        (403, "<html>", 502, "upstream_rejected"),
        (404, [], 502, "upstream_rejected"),
        (429, {"error": {"code": "insufficient_quota"}}, 502, "upstream_rejected"),
        (400, TOO_LONG, 413, "context_too_long"),
        (400, VLLM, 413, "context_too_long"),
        (413, "", 413, "context_too_long"),
        (400, {"error": {"code": "content_filter"}}, 400, "content_filter"),
        (408, BODY, 504, "upstream_timeout"),
        (504, BODY, 504, "upstream_timeout"),
        (429, BODY, 503, "upstream_busy"),
        (503, BODY, 503, "upstream_busy"),
        (500, BODY, 502, "upstream_failed"),
        (520, 3, 502, "upstream_failed"),
    ],
)
async def test_a_refusal_of_the_upstream_has_a_status(
    upstream: Upstream, client: Any, upstream_status: int, body: Any, status: int, code: str
) -> None:
    """Before the first item it is the answer's status, with a code and none of its words."""
    upstream.answer(refuse(upstream_status, body, retry_after="7"))
    answer = await collect(ndjson(openai_tokens(client, **ASK), prime=20))
    assert answer.status == status
    assert json.loads(answer.body).keys() == {"code", "message"}
    assert json.loads(answer.body)["code"] == code
    for secret in ("sk-", "org-", "Incorrect", "127.0.0.1"):
        assert secret not in answer.body.decode()
    waits = code in ("upstream_busy", "upstream_failed")
    assert answer.headers.get("retry-after") == ("7" if waits else None)


async def test_an_upstream_that_is_not_there_has_a_status(unused_url: str) -> None:
    """Nobody listens: 502, and the client may try again."""
    client = openai.AsyncOpenAI(api_key=KEY, base_url=unused_url, max_retries=0)
    answer = await collect(ndjson(openai_tokens(client, **ASK), prime=20))
    assert (answer.status, json.loads(answer.body)["code"]) == (502, "upstream_unreachable")
    await client.close()


@pytest.fixture
async def unused_url():
    async with open_upstream() as upstream:
        pass
    return upstream.url


async def test_an_upstream_that_says_nothing_has_a_status(
    upstream: Upstream, client: Any, aeventually: Any
) -> None:
    """It is 504 after `first_timeout`, whether the head has come or not, and the role."""
    for answer in (hang, stream(hang), stream(ROLE, ": keep-alive\n\n", hang)):
        upstream.answer(answer)
        source = openai_tokens(client, first_timeout=0.05, **ASK)
        reply = await collect(ndjson(source, prime=20))
        assert (reply.status, json.loads(reply.body)["code"]) == (504, "upstream_timeout")
        await aeventually(upstream.all_closed, "its connection is closed")


HELLO = chat_chunk({"content": "Hello"})


def error(**fields: Any) -> str:
    return f"data: {json.dumps({'error': {'message': SECRETS, **fields}})}\n\n"


@pytest.mark.parametrize(
    ("steps", "code"),
    [
        ([break_off], "upstream_broken"),
        ([], "upstream_broken"),
        (["data: {\n\n"], "upstream_broken"),
        (['data: {"error": ' + "[" * 40_000 + "\n\n"], "upstream_broken"),
        (["data: " + "x" * 100_000], "upstream_broken"),
        ([hang], "upstream_timeout"),
        ([": keep-alive\n\n", hang], "upstream_timeout"),
        ([ROLE, hang], "upstream_timeout"),
        ([error(type="server_error")], "upstream_failed"),
        ([error(code="rate_limit_exceeded")], "upstream_busy"),
        ([error(type="overloaded_error")], "upstream_busy"),
        ([error(code=502)], "upstream_failed"),
        ([error(code="504")], "upstream_timeout"),
        ([error(type="BadRequestError", code=400)], "upstream_rejected"),
        ([error(code="context_length_exceeded")], "context_too_long"),
        ([f"data: {json.dumps({'error': SECRETS})}\n\n"], "upstream_failed"),
    ],
)
async def test_a_failure_in_the_middle_is_told_in_band(
    upstream: Upstream,
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
    steps: list[Any],
    code: str,
) -> None:
    """What was said before comes whole, then `failed`; the connection is not left open."""
    monkeypatch.setattr(_llm_answer, "MAX_EVENT", 50_000)
    upstream.answer(stream(ROLE, HELLO, *steps))
    events = await answered(client, token_timeout=0.05 if hang in steps else 10)
    assert events[0] == token("Hello")
    assert len(events) == 2
    assert failed(events) == code
    assert client._client._transport._pool.connections == [] or steps == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (stream(ROLE, error(code="server_error")), KEY),
        (stream(HELLO, hang), "token_timeout: nothing for 0.05 s"),
        (stream(hang), "first_timeout: nothing for 0.05 s"),
        (hang, "first_timeout: nothing for 0.05 s"),
        (stream(HELLO), "text/event-stream, has ended without a finish reason"),
        (stream("<html>", media_type="text/html"), "text/html, has ended without a finish reason"),
    ],
)
async def test_the_log_has_what_the_client_is_not_told(
    upstream: Upstream, client: Any, caplog: pytest.LogCaptureFixture, answer: Any, words: str
) -> None:
    """What the upstream said, how long it said nothing, or what it sent in the place of events."""
    upstream.answer(answer)
    patience = 0.05 if "first_timeout" in words else 20
    events = await answered(client, first_timeout=patience, token_timeout=0.05)
    assert words not in json.dumps(events)
    assert words in caplog.text


async def test_the_clients_own_timeout_is_a_timeout(upstream: Upstream, client: Any) -> None:
    """A read that the HTTP client gives up is `upstream_timeout`, too, before and after."""
    for answer in (hang, stream(HELLO, hang)):
        upstream.answer(answer)
        events = await answered(client, timeout=0.05)
        assert failed(events) == "upstream_timeout"


async def test_a_slow_client_is_not_the_upstreams_fault(upstream: Upstream, client: Any) -> None:
    """The time for which our client takes nothing does not count."""
    upstream.answer(stream(*chat(*"Hello!")))
    response = ndjson(openai_tokens(client, token_timeout=0.3, **ASK), buffer=1)
    async with open_stream(response, window=0) as reader:
        await reader.wait_blocked()
        await trio.sleep(0.4)
        got = [await reader.next_value() for _ in range(6)]
    assert "".join(event["data"] for event in got) == "Hello!"


# -- retries -------------------------------------------------------------------------------


@pytest.fixture
def patient(client: Any) -> Any:
    """The same client with the SDK's own number of retries."""
    return client.with_options(max_retries=2)


async def test_what_is_soon_over_is_tried_again(upstream: Upstream, patient: Any) -> None:
    """A failure, a busy server and a reset: nobody notices, as with the SDK."""
    soon = {"retry_after_ms": "1"}
    upstream.answer(refuse(500, BODY, **soon), refuse(429, BODY, **soon), stream(*chat("Hello")))
    assert await answered(patient) == [token("Hello"), USAGE, DONE]
    assert len(upstream.bodies) == 3


async def test_retries_come_to_an_end(upstream: Upstream, patient: Any) -> None:
    """As many as the client has; then it is what the last one was."""
    upstream.answer(*(refuse(status, BODY, retry_after_ms="1") for status in (500, 500, 429)))
    assert failed(await answered(patient)) == "upstream_busy"
    assert len(upstream.bodies) == 3


@pytest.mark.parametrize(
    ("status", "wait", "timeout"),
    [(429, "9", 60), (503, "5", 4), (401, "0", 60), (500, None, 0.3)],
)
async def test_a_retry_that_comes_too_late_is_not_waited_for(
    upstream: Upstream, patient: Any, status: int, wait: str | None, timeout: float
) -> None:
    """More than 8 s, or than the time that is left: our client is told at once, and when."""
    upstream.answer(refuse(status, BODY, **({} if wait is None else {"retry_after": wait})))
    with trio.fail_after(3):
        source = openai_tokens(patient, first_timeout=timeout, **ASK)
        answer = await collect(ndjson(source, prime=20))
    assert answer.status == {429: 503, 503: 503, 401: 502, 500: 502}[status]
    assert answer.headers.get("retry-after") == (wait if answer.status == 503 else None)
    assert len(upstream.bodies) == 1


async def test_a_failure_of_ours_is_not_the_upstreams(upstream: Upstream, client: Any) -> None:
    """An error that is none of the SDK's is raised as it is, to the app's own handlers."""

    def explode(request: httpx2.Request) -> httpx2.Response:
        raise openai.OpenAIError("the credentials are missing")

    own = openai.AsyncOpenAI(
        api_key=KEY, http_client=httpx2.AsyncClient(transport=httpx2.MockTransport(explode))
    )
    with pytest.raises(openai.OpenAIError, match="credentials"):
        await collect(ndjson(openai_tokens(own, **ASK), prime=20))
    await own.close()


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "-5"}, 0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "99999999999"}, 86_400),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:10 GMT"}, 10),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "?", "retry-after": "9"}, 9),
    ],
)
def test_when_to_ask_again_is_read_from_headers(
    headers: dict[str, str], seconds: float | None
) -> None:
    """Milliseconds, seconds or a date; nonsense is nothing, and a year is a day."""
    assert retry_after(headers, now=60.0) == seconds


BODIES = st.recursive(
    st.none() | st.text() | st.integers() | st.booleans(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["error", "code", "type", "message"]), inner)
    ),
    max_leaves=6,
)


@given(BODIES)
def test_any_body_of_an_error_is_a_failure(body: Any) -> None:
    """Whatever an upstream sends for an error, it becomes one of ours."""
    assert failure_in_stream(body).status in (400, 413, 502, 503, 504)
    for status in (400, 401, 429, 500, 529):
        assert failure_of_status(status, body).status in (400, 413, 502, 503)


# -- what is wrong at the call -------------------------------------------------------------


@pytest.mark.parametrize("source", [openai_tokens, openai_responses])
def test_a_wrong_client_is_refused_at_the_call(source: Any) -> None:
    """A synchronous client, another SDK's, a class, a coroutine, nothing: a clear TypeError."""

    async def request() -> None: ...

    with openai.OpenAI(api_key=KEY) as blocking, pytest.raises(TypeError, match="a OpenAI can't"):
        source(blocking, model="m")
    with pytest.raises(TypeError, match=r"not a anthropic\.AsyncAnthropic"):
        source(anthropic.AsyncAnthropic(api_key=KEY), model="m")
    with pytest.raises(TypeError, match="not the class AsyncOpenAI"):
        source(openai.AsyncOpenAI, model="m")
    with pytest.raises(TypeError, match="not a coroutine"):
        source(request(), model="m")
    with pytest.raises(TypeError, match="not a NoneType"):
        source(None, model="m")


def test_wrong_arguments_are_refused_at_the_call() -> None:
    """What the SDK's call does not take, or can't do without, and what makes no sense."""
    client = openai.AsyncOpenAI(api_key=KEY)
    with pytest.raises(TypeError, match="stream= is not yours to give"):
        openai_tokens(client, **ASK, stream=True)
    with pytest.raises(TypeError, match="'temprature'"):
        openai_tokens(client, **ASK, temprature=1)
    with pytest.raises(TypeError, match="'messages'"):
        openai_tokens(client, model="m")
    with pytest.raises(ValueError, match="n must be 1"):
        openai_tokens(client, **ASK, n=2)
    with pytest.raises(ValueError, match="first_timeout must be more than 0"):
        openai_tokens(client, **ASK, first_timeout=0)
    with pytest.raises(TypeError, match="token_timeout must be a number"):
        openai_tokens(client, **ASK, token_timeout="1")  # type: ignore[arg-type]
    openai_tokens(client, **ASK, n=1, first_timeout=None, token_timeout=None)


@pytest.mark.parametrize("source", [openai_tokens, openai_responses])
def test_a_missing_package_is_named(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the SDK the message says what to install."""
    client = openai.AsyncOpenAI(api_key=KEY)
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'flowstream-trio\[openai\]'"):
        source(client, **ASK)


async def test_nothing_is_asked_for_a_head_request(upstream: Upstream, client: Any) -> None:
    """The request is made when the stream runs, and not before."""
    answer = await collect(ndjson(openai_tokens(client, **ASK)), method="HEAD")
    assert answer.status == 200
    assert upstream.connections == []


# -- the client goes -----------------------------------------------------------------------

RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 seconds: close() sends RST
AT_ONCE = 1.0  # seconds: slack for a busy machine; benchmarks/llm_tokens.py measures it


async def connect(url: str) -> trio.SocketStream:
    """Connect a client with a small receive buffer, and ask."""
    connection = trio.socket.socket()
    connection.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
    await connection.connect(("127.0.0.1", int(url.rpartition(":")[2])))
    stream = trio.SocketStream(connection)
    await stream.send_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
    return stream


def reset(stream: trio.SocketStream) -> None:
    stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, RESET)
    stream.socket.close()


class App:
    """Streams a source to each client, and counts what becomes of them."""

    def __init__(self, make: Any) -> None:
        self.make = make
        self.reports: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            response = ndjson(self.make(), policy=Block(), on_close=self.reports.append)
            await response(scope, receive, send)


@pytest.mark.parametrize("when", ["before the head", "before a token", "between", "stalled"])
async def test_the_upstream_is_closed_with_the_client(
    upstream: Upstream, client: Any, server: Any, aeventually: Any, when: str
) -> None:
    """From socket to socket: an abort closes the upstream's connection, whatever it does."""
    upstream.answer(
        {
            "before the head": hang,
            "before a token": stream(ROLE, hang),
            "between": stream(HELLO, hang),
            "stalled": flood,
        }[when]
    )
    app = App(lambda: openai_tokens(client, **ASK))
    reader = await connect(await server(app))
    await aeventually(lambda: upstream.bodies, "the upstream is asked")
    if when == "between":
        while b"Hello" not in await reader.receive_some():
            pass
    elif when == "before a token":
        await reader.receive_some()
    elif when == "stalled":
        sent = -1
        while sent != upstream.latest.sent:  # until nothing moves any more
            sent = upstream.latest.sent
            await trio.sleep(0.1)
    aborted = trio.current_time()
    reset(reader)
    await upstream.latest.closed.wait()
    assert upstream.latest.closed_at is not None
    assert upstream.latest.closed_at - aborted < AT_ONCE
    await aeventually(lambda: app.reports, "the stream has ended")
    assert app.reports[0].reason == "client_disconnected"
    assert app.reports[0].error is None


async def test_nothing_is_left_of_two_hundred_aborts(
    upstream: Upstream, client: Any, server: Any, aeventually: Any
) -> None:
    """Before the head, before a token, in between and in a flood: no connection, no task."""
    kinds = [*[hang, stream(ROLE, hang), stream(HELLO, hang)] * 3, flood]
    upstream.answer(*(kinds[number % 10] for number in range(200)), hang)
    app = App(lambda: openai_tokens(client, **ASK))
    url = await server(app)
    for number in range(0, 200, 20):
        readers = [await connect(url) for _ in range(20)]
        await aeventually(lambda n=number: len(upstream.bodies) == n + 20, "all are asked")
        for reader in readers:
            reset(reader)
    await aeventually(lambda: len(app.reports) == 200, "all streams have ended")
    assert {report.reason for report in app.reports} == {"client_disconnected"}
    assert client._client._transport._pool.connections == []
    await aeventually(upstream.all_closed, "the upstream's connections are closed")
    gc.collect()  # a generator that was left would warn, which is an error here
    upstream.answer(stream(*chat("Hello")))
    assert await answered(client) == [token("Hello"), USAGE, DONE]


# -- the Responses API ---------------------------------------------------------------------


def response(type: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{type}", "sequence_number": 1, **fields}


RESPONSE = {"usage": {"input_tokens": 3, "output_tokens": 4}, "status": "completed"}


async def test_a_response_is_tokens_usage_and_done(upstream: Upstream, client: Any) -> None:
    """The events of the Responses API become the same as those of a chat completion."""
    item = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "now"}
    upstream.answer(
        stream(
            response("created", response={"status": "in_progress", "usage": None}),
            response("output_item.added", output_index=0, item={"type": "reasoning"}),
            response("reasoning_summary_text.delta", output_index=0, delta="Hm."),
            response("output_text.delta", output_index=1, delta="Hel"),
            response("output_text.delta", output_index=1, delta="lo"),
            response("output_item.added", output_index=2, item={**item, "arguments": ""}),
            response("function_call_arguments.delta", output_index=2, delta="{}"),
            response("function_call_arguments.done", output_index=2, arguments="{}"),
            response("completed", response=RESPONSE),
        )
    )
    answer = await collect(ndjson(openai_responses(client, model="gpt-5", input="Hello?")))
    assert values(answer.body)[:-1] == [
        {"type": "reasoning", "data": "Hm."},
        token("Hel"),
        token("lo"),
        {"type": "tool_call", "index": 0, "id": "call_1", "name": "now"},
        {"type": "tool_call", "index": 0, "arguments": "{}"},
        {"type": "usage", "input_tokens": 3, "output_tokens": 4},
        {"type": "done", "reason": "tool_calls"},
    ]
    assert upstream.bodies == [{"model": "gpt-5", "input": "Hello?", "stream": True}]


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([response("completed")], "stop"),
        ([response("refusal.delta", delta="No."), response("completed")], "content_filter"),
        ([response("incomplete", response={})], "stop"),
        *(
            ([response("incomplete", response={"incomplete_details": {"reason": said}})], reason)
            for said, reason in [
                ("max_output_tokens", "length"),
                ("content_filter", "content_filter"),
                ("?", "other"),
            ]
        ),
    ],
)
def test_a_response_says_why_it_ends(events: list[Any], reason: str) -> None:
    """Each way in which a response ends has one of our reasons."""
    reader = ResponseReader()
    read(reader, *events)
    assert (reader.reason, reader.over) == (reason, True)


@pytest.mark.parametrize(
    ("last", "code"),
    [
        (response("failed", response={"error": {"code": "server_error"}}), "upstream_failed"),
        (response("failed", response=None), "upstream_failed"),
        ({"type": "error", "code": "rate_limit_exceeded", "message": SECRETS}, "upstream_busy"),
        ({"type": "error", "error": {"code": "invalid_prompt"}}, "upstream_rejected"),
        (response("output_text.delta", delta={}), "upstream_broken"),
    ],
)
async def test_a_response_that_fails_says_so(
    upstream: Upstream, client: Any, last: Any, code: str
) -> None:
    """What was said before comes, then `failed`."""
    upstream.answer(stream(response("output_text.delta", delta="Hello"), last))
    answer = await collect(ndjson(openai_responses(client, model="gpt-5", input="Hello?")))
    events = values(answer.body)
    assert events[0] == token("Hello")
    assert failed(events) == code


# -- the example ---------------------------------------------------------------------------


async def test_the_example_answers(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch, aeventually: Any
) -> None:
    """It streams an answer, has a status for what fails at once, and lets go of the model."""
    monkeypatch.setenv("OPENAI_BASE_URL", f"{upstream.url}/v1")
    path = Path(__file__).parents[3] / "examples" / "13_llm_tokens.py"
    example = runpy.run_path(str(path))
    app = example["app"]
    upstream.answer(
        stream(*chat("Forty-", "two.")),
        refuse(401, BODY),
        refuse(429, BODY, retry_after="30"),
        stream(HELLO, hang),
    )
    answer = await collect(app, "/answer?q=What+is+it")
    assert values(answer.body)[:4] == [token("Forty-"), token("two."), USAGE, DONE]
    assert upstream.bodies[0]["messages"] == [{"role": "user", "content": "What is it"}]
    assert (await collect(app, "/answer?q=x")).status == 502
    busy = await collect(app, "/answer?q=x")
    assert (busy.status, busy.headers["retry-after"]) == (503, "30")
    assert (await collect(app, "/answer")).status == 400
    async with open_stream(app, "/answer?q=x") as reader:
        assert await reader.next_value() == token("Hello")
        reader.abort()
        await aeventually(upstream.latest.closed.is_set, "the upstream is closed")
    await example["client"].close()
