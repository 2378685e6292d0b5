"""What servers that imitate an API send: errors in band, odd calls, loose shapes, cut bytes."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import openai
import pytest
from _events import token, whole
from _upstream import (
    END,
    MESSAGE_START,
    MESSAGE_STOP,
    chat,
    chat_chunk,
    framed,
    message,
    message_delta,
    text_block,
)
from hypothesis import given
from hypothesis import strategies as st
from openai._models import construct_type
from openai.types.chat import ChatCompletionChunk

from flowstream import PublicError
from flowstream.decoders import ServerSentEvent
from flowstream.encoders import AGUI, OpenAIChunks, UIMessages
from flowstream.llm import Done, ModelEvent, Reasoning, Token, ToolCall, Usage
from flowstream.sources.llm._loose import UpstreamDecoder
from flowstream.sources.llm._tool_calls import ToolCalls
from flowstream.sources.llm.anthropic import MessageReader
from flowstream.sources.llm.openai import ChatReader, openai_tokens
from flowstream.sources.llm.openai_responses import ResponseReader

HELLO = chat_chunk({"content": "Hello"})
DONE = {"type": "done", "reason": "stop"}


def text_of(*steps: Any) -> bytes:
    """Return steps as bytes: dicts are framed, text is sent as it is."""
    return b"".join(step.encode() if isinstance(step, str) else framed(step) for step in steps)


async def answered(body: bytes | list[bytes]) -> list[Any]:
    """Return what our client gets when a model's server answers with `body`."""

    async def packets() -> AsyncIterator[bytes]:
        for packet in [body] if isinstance(body, bytes) else body:
            yield packet

    def model(asked: httpx2.Request) -> httpx2.Response:
        head = {"Content-Type": "text/event-stream"}
        return httpx2.Response(200, headers=head, content=packets())

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(model))
    async with openai.AsyncOpenAI(api_key="none", max_retries=0, http_client=http) as client:
        return await whole(openai_tokens(client, model="m", messages=[]))


def read(reader: Any, *chunks: Any) -> list[ModelEvent]:
    """Return the events in chunks, given as JSON text or as what it means."""
    events: list[ModelEvent] = []
    for chunk in chunks:
        data = chunk if isinstance(chunk, str) else json.dumps(chunk)
        events += reader.read(ServerSentEvent("message", data, ""))
    return [*events, *reader.rest()]


# -- errors in band ------------------------------------------------------------------------


def choice(finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": finish, **more}]}


def data(value: Any) -> str:
    return f"data: {json.dumps(value)}\n\n"


ERRORS = {
    "event: error, JSON": ('event: error\ndata: {"code": 400, "details": "x"}\n\n', "rejected"),
    "event: error, status": ('event: error\ndata: {"status": "429"}\n\n', "busy"),
    "event: error, text": ("event: error\ndata: out of memory\n\n", "failed"),
    "event: error, no body": ("event: error\ndata:\n\n", "failed"),
    "event: error, a chunk": (f"event: error\n{data(choice())}", "failed"),
    "event: of AWS": ('event: throttlingException\ndata: {"message": "x"}\n\n', "busy"),
    "a field of llama.cpp's": ('error: {"code": 503, "message": "x"}\n\n', "busy"),
    "a line of JSON": ('{"error": {"code": 429}}\n', "busy"),
    "reason error": (data(choice("error")), "failed"),
    "reason of DeepSeek": (data(choice("insufficient_system_resource")), "busy"),
    "reason abort": (data(choice("abort")), "failed"),
    "reason of SGLang": (
        data(choice({"type": "abort", "message": "x", "status_code": 503})),  # type: ignore[arg-type]
        "busy",
    ),
    "in the choice": (data(choice("error", error={"code": 429, "message": "x"})), "busy"),
    "in the choice, no reason": (data(choice(None, error={"code": "502"})), "failed"),
    "object: error": (data({"object": "error", "message": "x", "code": 500}), "failed"),
    "object: error, busy": (data({"object": "error", "type": "RateLimitError"}), "busy"),
    "type: error": (data({"type": "error", "error": {"type": "overloaded_error"}}), "busy"),
    "detail": (data({"detail": "Internal Server Error"}), "failed"),
    "detail, a list": (data({"detail": [{"type": "x", "msg": "y"}], "status": 422}), "rejected"),
    "detail, an object": (data({"detail": {"code": 429}}), "busy"),
    "message and code": (data({"message": "x", "code": 429}), "busy"),
    "message and code as text": (data({"message": "x", "code": "503"}), "busy"),
    "message alone": (data({"message": "Internal server error"}), "failed"),
    "code as a float": (data({"error": {"code": 429.0}}), "busy"),
    "of Google": (data([{"error": {"code": 503, "status": "UNAVAILABLE"}}]), "busy"),
    "of Google, a word": (data({"error": {"status": "RESOURCE_EXHAUSTED"}}), "busy"),
    "of TGI": (data({"error": "Model is overloaded", "error_type": "overloaded"}), "busy"),
    "of AWS": (data({"modelTimeoutException": {"message": "x"}}), "timeout"),
    "of MiniMax": (data({"base_resp": {"status_code": 1008, "status_msg": "x"}}), "failed"),
    "of Cloudflare": (data({"success": False, "errors": [{"code": 7}]}), "failed"),
    "of LiteLLM": (data({"error": {"type": "Timeout", "code": "408"}}), "timeout"),
    "with a choice": (data({"error": {"code": 502}, **choice("stop")}), "failed"),
    "plain text": ("data: Internal Server Error\n\n", "broken"),
}


@pytest.mark.parametrize("last", [END, ""], ids=["DONE", "end"])
@pytest.mark.parametrize(("said", "code"), ERRORS.values(), ids=ERRORS)
async def test_an_error_in_band_is_a_failure(said: str, code: str, last: str) -> None:
    """However a server says in a 200 that it failed: what came before it, then `failed`."""
    events = await answered(text_of(HELLO, said, last))
    assert events[0] == token("Hello")
    assert [event["type"] for event in events[1:]] == ["failed"]
    assert events[1]["data"]["code"] == f"upstream_{code}"


@pytest.mark.parametrize(
    "said",
    [
        {"error": {"code": 400, "type": "exceed_context_size_error"}},
        {"error": {"code": 400, "message": "exceeds the available context size"}},
        {"object": "error", "code": 400, "message": "maximum context length is 8 tokens"},
        {"detail": "the prompt is too long", "status_code": 400},
        {"error": {"type": "ContextWindowExceededError"}},
    ],
)
async def test_too_much_text_is_said_in_band_as_well(said: Any) -> None:
    """It has the code that it has as a status: our client can do something about it."""
    events = await answered(text_of(said, END))
    assert events[-1]["data"]["code"] == "context_too_long"


@pytest.mark.parametrize(
    "harmless",
    [
        choice(error=None),
        choice(error={}),
        {"choices": [], "error": None},
        {"type": "notice", "message": "the model is loading"},
        {"choices": [], "code": 200, "message": "success"},
        {"choices": [], "base_resp": {"status_code": 0, "status_msg": ""}},
        {"choices": [], "prompt_filter_results": [{"index": 0}], "object": "", "id": ""},
        "event: ping\ndata: x\n\n",
        "event: error\n\n",  # no data, so no event
        "data: ping\n\n",
        "data:\n\n",
        "data: null\n\n",
        ": OPENROUTER PROCESSING\n\n",
        "id: 3\nretry: 10\nfoo: bar\n\n",
    ],
)
async def test_what_is_no_error_is_none(harmless: Any) -> None:
    """An empty error, a code that says all is well, keep-alives: the answer goes on."""
    events = await answered(text_of(HELLO, harmless, *chat("!")[1:]))
    assert [event["type"] for event in events] == ["token", "token", "usage", "done"]


async def test_text_in_the_chunk_of_an_error_comes_before_it() -> None:
    """The last piece and the error may be one chunk; the piece is not lost."""
    last = choice("error", delta={"content": "lo"}, error={"code": 503})
    events = await answered(text_of(HELLO, last, END))
    assert events[:2] == [token("Hello"), token("lo")]
    assert events[2]["data"]["code"] == "upstream_busy"


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ('event: error\ndata: {"type": "error", "error": {"type": "overloaded_error"}}', "busy"),
        ("event: error\ndata: overloaded", "busy"),
        ('data: {"error": {"type": "rate_limit_error"}}', "busy"),
        ('data: {"type": "error", "message": "x", "code": 429}', "busy"),
        ('data: {"detail": "x"}', "failed"),
        ('data: {"message": "x", "code": "504"}', "timeout"),
        ('data: {"type": "message_delta", "delta": {"stop_reason": "error"}}', "failed"),
    ],
)
def test_an_error_of_anthropics_api_is_a_failure(said: str, code: str) -> None:
    """With and without the type, by the event's name, and bare ones of proxies."""
    (event,) = UpstreamDecoder(max_event=1000).feed(f"{said}\n\n".encode())
    with pytest.raises(PublicError) as caught:
        MessageReader().read(event)
    assert caught.value.code == f"upstream_{code}"


# -- tool calls ----------------------------------------------------------------------------


def piece(arguments: Any = None, name: Any = None, **more: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {**more, "function": {key: v for key, v in function.items() if v is not None}}


A, B = '{"city": "{Paris"}', '{"city": "\\"Oslo]"}'
CALLS: dict[str, list[list[dict[str, Any]]]] = {
    "as OpenAI": [
        [piece("", "f", index=0, id="a")],
        [piece(A[:5], index=0)],
        [piece(A[5:], index=0)],
        [piece("", "g", index=1, id="b")],
        [piece(B, index=1)],
    ],
    "whole, neither ids nor numbers": [[piece(A, "f")], [piece(B, "g")]],
    "whole, in one chunk": [[piece(A, "f"), piece(B, "g")]],
    "whole, one tool, all numbered 0": [[piece(A, "f", index=0)], [piece(B, "f", index=0)]],
    "whole, one tool, no numbers": [[piece(A, "f")], [piece(B, "f")]],
    "whole, one tool, one chunk": [[piece(A, "f"), piece(B, "f")]],
    "in pieces, neither ids nor numbers": [
        [piece("", "f")],
        [piece(A[:9])],
        [piece(A[9:])],
        [piece("", "g")],
        [piece(B)],
    ],
    "the name with each piece": [
        [piece(A[:9], "f")],
        [piece(A[9:], "f")],
        [piece(B[:9], "f")],
        [piece(B[9:], "f")],
    ],
    "the name with each piece, numbered": [
        [piece(A[:9], "f", index=0)],
        [piece(B[:9], "f", index=1)],
        [piece(A[9:], "f", index=0)],
        [piece(B[9:], "f", index=1)],
    ],
    "numbers as text": [
        [piece(A[:9], "f", index="0", id="a"), piece(B[:9], "g", index="1", id="b")],
        [piece(B[9:], index="1"), piece(A[9:], index="0")],
    ],
    "numbers as floats": [[piece(A, "f", index=0.0)], [piece(B, "g", index=1.0)]],
    "one number, new ids": [[piece(A, "f", index=0, id="a")], [piece(B, "g", index=0, id="b")]],
    "one number, new ids, in pieces": [
        [piece(A[:9], "f", index=0, id="a")],
        [piece(A[9:], index=0)],
        [piece(B[:9], "f", index=0, id="b")],
        [piece(B[9:], index=0)],
    ],
    "all of it with each piece": [
        [piece(A[:9], "f", index=0, id="a")],
        [piece(A[9:], "f", index=0, id="a")],
        [piece(B[:9], "f", index=1, id="b")],
        [piece(B[9:], "f", index=1, id="b")],
    ],
    "one id for all": [
        [piece(A, "f", index=0, id="call")],
        [piece(B, "f", index=1, id="call")],
    ],
    "one id for all, no numbers": [[piece(A, "f", id="call")], [piece(B, "f", id="call")]],
    "empty ids": [[piece(A, "f", index=0, id="")], [piece(B, "f", index=1, id="")]],
    "a new id for each piece": [
        [piece(A[:9], "f", index=0, id="1")],
        [piece(A[9:], index=0, id="2")],
        [piece(B[:9], "g", index=1, id="3")],
        [piece(B[9:], index=1, id="4")],
    ],
    "a new number for each piece": [
        [piece(A[:9], "f", index=0)],
        [piece(A[9:], index=1)],
        [piece(B[:9], "f", index=2)],
        [piece(B[9:], index=3)],
    ],
    "no numbers, ids with each piece": [
        [piece(A[:9], "f", id="a")],
        [piece(B[:9], "g", id="b")],
        [piece(A[9:], id="a")],
        [piece(B[9:], id="b")],
    ],
    "the name after the id": [
        [piece(index=0, id="a")],
        [piece(name="f", index=0)],
        [piece(A, index=0)],
        [piece(B, "g", index=1)],
    ],
    "arguments as objects": [[piece(json.loads(A), "f")], [piece(json.loads(B), "f")]],
    "ids as numbers": [[piece(A, "f", index=0, id=1)], [piece(B, "f", index=1, id=2)]],
    "an object in place of a list": [piece(A, "f"), piece(B, "f")],  # type: ignore[list-item]
}


@pytest.mark.parametrize("chunks", CALLS.values(), ids=CALLS)
def test_two_calls_are_two(chunks: list[Any]) -> None:
    """Dense numbers, distinct ids, names once, and each call has its own arguments, whole."""
    events = read(ChatReader(), *(chat_chunk({"tool_calls": calls}) for calls in chunks))
    pieces = [event for event in events if isinstance(event, ToolCall)]
    assert len(pieces) == len(events)
    assert {one.index for one in pieces} == {0, 1}
    joined = ["".join(one.arguments for one in pieces if one.index == n) for n in (0, 1)]
    assert [json.loads(text) for text in joined] == [json.loads(A), json.loads(B)]
    firsts = [next(one for one in pieces if one.index == n) for n in (0, 1)]
    assert all(one.id and one.name in ("f", "g") for one in firsts)
    assert firsts[0].id != firsts[1].id
    assert [one for one in pieces if one.id or one.name] == firsts


def test_the_older_way_to_call_is_read() -> None:
    """`delta.function_call` is a call; a server that sends both ways has one call."""
    old = [{"name": "w", "arguments": ""}, {"arguments": '{"x"'}, {"arguments": ":1}"}]
    first = ToolCall(0, "", "call_0", "w")
    want = [first, ToolCall(0, '{"x"'), ToolCall(0, ":1}")]
    assert read(ChatReader(), *(chat_chunk({"function_call": one}) for one in old)) == want
    both = [
        chat_chunk({"function_call": one, "tool_calls": [{"index": 0, "function": one}]})
        for one in old
    ]
    assert read(ChatReader(), *both) == want


CUSTOM = [
    {"index": 0, "id": "c1", "type": "custom", "custom": {"name": "code", "input": 'print("'}},
    {"index": 0, "custom": {"input": '")\n'}},
]


def test_a_tool_that_takes_text_is_called() -> None:
    """A custom tool's name and input come, and are marked as text and no JSON."""
    events = read(ChatReader(), *(chat_chunk({"tool_calls": [one]}) for one in CUSTOM))
    want = [ToolCall(0, 'print("', "c1", "code", True), ToolCall(0, '")\n', custom=True)]
    assert events == want
    item = {"type": "custom_tool_call", "call_id": "c1", "name": "code", "input": ""}
    name = "response.custom_tool_call_input"
    events = read(
        ResponseReader(),
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": f"{name}.delta", "output_index": 0, "delta": 'print("'},
        {"type": f"{name}.delta", "output_index": 0, "delta": '")\n'},
        {"type": f"{name}.done", "output_index": 0, "input": 'print("")\n'},
    )
    assert events == [
        ToolCall(0, "", "c1", "code", True),
        *(ToolCall(0, w.arguments, custom=True) for w in want),
    ]


def test_a_call_that_comes_whole_is_read() -> None:
    """Servers that imitate the Responses API send no pieces: it is in what begins or ends it."""
    item = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": A}
    added = {
        "type": "response.output_item.added",
        "output_index": 0,
        "item": {**item, "arguments": ""},
    }
    done = {"type": "response.output_item.done", "output_index": 0, "item": item}
    ended = {"type": "response.function_call_arguments.done", "output_index": 0, "arguments": A}
    for events in ([done], [added, done], [added, ended], [added, ended, done]):
        pieces = read(ResponseReader(), *events)
        assert "".join(one.arguments for one in pieces) == A  # type: ignore[union-attr]
        assert [one.id for one in pieces if one.id] == ["c1"]  # type: ignore[union-attr]


def sent(format: Any, events: list[ModelEvent]) -> list[Any]:
    """Return the chunks that a client of a format gets."""
    stream = format.start()
    body = stream.join([stream.encode(event) for event in events])
    body += stream.control("end", {"reason": "completed"}, id="e")
    texts = [line[6:] for line in body.decode().split("\n") if line.startswith("data: ")]
    return [json.loads(text) for text in texts if text != "[DONE]"]


def test_a_call_with_text_is_read_again() -> None:
    """What the chat API's format sends of it, and of all else, the reader of that API reads."""
    events: list[ModelEvent] = [
        Reasoning("Hm."),
        Token("Yes"),
        ToolCall(0, 'print("', "c1", "code", True),
        ToolCall(0, '")\n', custom=True),
        ToolCall(1, A, "c2", "f"),
    ]
    reader = ChatReader()
    chunks = sent(OpenAIChunks("m", include_usage=True), [*events, Usage(3, 4), Done("tool_calls")])
    assert read(reader, *chunks) == events
    assert (reader.usage, reader.reason) == (Usage(3, 4), "tool_calls")


def test_a_call_with_text_reaches_front_ends() -> None:
    """Its input is a string, whole, in the formats whose calls have JSON for arguments."""
    events: list[ModelEvent] = [
        ToolCall(0, 'print("', "c1", "code", True),
        ToolCall(0, '")\n\u2028', custom=True),
        Done("tool_calls"),
    ]
    chunks = sent(UIMessages(), events)
    (call,) = [one for one in chunks if one["type"] == "tool-input-available"]
    assert (call["toolName"], call["input"]) == ("code", 'print("")\n\u2028')
    chunks = sent(AGUI(), events)
    arguments = "".join(one["delta"] for one in chunks if one["type"] == "TOOL_CALL_ARGS")
    assert json.loads(arguments) == 'print("")\n\u2028'
    kinds = [one["type"] for one in chunks]
    assert kinds.index("TOOL_CALL_END") > kinds.index("TOOL_CALL_ARGS")
    assert kinds[-1] == "RUN_FINISHED"


def test_many_pieces_cost_little_each() -> None:
    """Each character of the arguments is looked at once, however often a name is repeated."""
    calls, scanned = ToolCalls(), 0

    whole = '{"a":"' + "x" * 40_000 + '"}'
    for start in range(0, len(whole), 4):
        calls.piece(None, None, "f", whole[start : start + 4])
        (call,) = calls._calls
        scanned = max(scanned, sum(map(len, call._left)))
    assert scanned <= 8
    event = calls.piece(None, None, "f", "{}")
    assert event is not None
    assert event.index == 1


# -- loose shapes --------------------------------------------------------------------------

LOOSE: dict[str, tuple[Any, list[ModelEvent]]] = {
    "Mistral's thinking": (
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]},
        [Reasoning("hm")],
    ),
    "parts": (
        {"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "x"}, "y"]},
        [Reasoning("hm"), Token("x"), Token("y")],
    ),
    "parts of Databricks": (
        {"content": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "s"}]}]},
        [Reasoning("s")],
    ),
    "parts without text": ({"content": [{"type": "reference", "reference_ids": [1]}, None]}, []),
    "one part": ({"content": {"type": "text", "text": "x"}}, [Token("x")]),
    "an empty list": ({"content": []}, []),
    "thinking": ({"thinking": "hm"}, [Reasoning("hm")]),
    "thinking as an object": ({"reasoning": {"content": "hm"}}, [Reasoning("hm")]),
    "thinking twice": ({"reasoning": "hm", "reasoning_content": "hm"}, [Reasoning("hm")]),
    "an odd role": ({"role": 3, "content": "x"}, [Token("x")]),
    "calls are null": ({"tool_calls": None, "function_call": None, "content": "x"}, [Token("x")]),
    "calls are empty": ({"tool_calls": {}, "function_call": {}, "content": "x"}, [Token("x")]),
    "a raw line break": ('{"choices": [{"delta": {"content": "a\tb"}}]}', [Token("a\tb")]),
    "NUL": ('{"choices": [{"delta": {"content": "a\0b"}}]}', [Token("a\0b")]),
    "NaN": ('{"choices": [{"delta": {"content": "x"}, "logprobs": NaN}]}', [Token("x")]),
    "padding": ('\ufeff{"choices": [{"delta": {"content": "x"}}]}\0', [Token("x")]),
    "an index as text": ({"choices": [{"index": "0", "delta": {"content": "x"}}]}, [Token("x")]),
    "another answer": ({"choices": [{"index": "1", "delta": {"content": "x"}}]}, []),
    "one choice, no list": ({"choices": {"index": None, "delta": {"content": "x"}}}, [Token("x")]),
    "a list of one chunk": ([{"choices": [{"delta": {"content": "x"}}]}], [Token("x")]),
    "null choices": ({"choices": None}, []),
    "no choices": ({"id": "x"}, []),
    "a null choice": ({"choices": [None]}, []),
    "a null delta": ({"choices": [{"delta": None}]}, []),
    "an empty delta": ({"choices": [{"delta": ""}]}, []),
    "a whole message": ({"choices": [{"message": {"content": "x"}}]}, [Token("x")]),
    "the API before": ({"choices": [{"text": "x"}]}, [Token("x")]),
}


@pytest.mark.parametrize(("chunk", "events"), LOOSE.values(), ids=LOOSE)
def test_loose_shapes_are_read(chunk: Any, events: list[ModelEvent]) -> None:
    """What is needed is read in each shape that servers give it; what is not needed is ignored."""
    if isinstance(chunk, dict) and not chunk.keys() & {"choices", "id"}:
        chunk = chat_chunk(chunk)
    assert read(ChatReader(), chunk) == events


@pytest.mark.parametrize(
    ("said", "usage"),
    [
        ({"prompt_tokens": "3", "completion_tokens": "4"}, Usage(3, 4)),
        ({"prompt_tokens": 3.0, "completion_tokens": 4.5}, Usage(3, 4)),
        ({"prompt_tokens": 3}, Usage(3, 0)),
        ({"prompt_tokens": None, "completion_tokens": 4}, Usage(0, 4)),
        ({"prompt_tokens": -1, "completion_tokens": 1e400}, None),
        ({"prompt_tokens": 10**40, "completion_tokens": True}, None),
        ({"prompt_tokens": {}, "completion_tokens": []}, None),
        ({}, None),
        (None, None),
        ("", None),
        ([3, 4], None),
    ],
)
def test_usage_is_read_or_ignored(said: Any, usage: Usage | None) -> None:
    """Numbers as text and floats are numbers; what is none costs nobody an answer."""
    reader = ChatReader()
    chunk = json.dumps({"choices": [{"delta": {"content": "x"}}], "usage": said})
    assert read(reader, chunk) == [Token("x")]
    assert reader.usage == usage
    names = {"prompt_tokens": "input_tokens", "completion_tokens": "output_tokens"}
    renamed = {names[k]: v for k, v in said.items()} if isinstance(said, dict) else said
    messages = MessageReader()
    assert read(messages, json.dumps({**message_delta("end_turn"), "usage": renamed})) == []
    assert messages.reason == "stop"
    if usage is not None:
        assert messages.usage == usage


def test_numbers_of_blocks_may_be_text() -> None:
    """Anthropic's API with odd indexes, arguments as an object, and the same id twice."""

    def block(index: Any, id: Any) -> list[dict[str, Any]]:
        start = {"type": "tool_use", "id": id, "name": "f", "input": {}}
        return [
            {"type": "content_block_start", "index": index, "content_block": start},
            {"type": "content_block_delta", "index": index, "delta": {"partial_json": {"x": 1}}},
            {"type": "content_block_stop", "index": index},
        ]

    for places in (("0", "1"), (None, None), (0.0, 1.0), (0, 0)):
        events = read(MessageReader(), *block(places[0], "a"), *block(places[1], "a"))
        assert [one.index for one in events] == [0, 0, 1, 1]  # type: ignore[union-attr]
        assert [one.id for one in events] == ["a", None, "a_1", None]  # type: ignore[union-attr]
        assert events[1] == ToolCall(0, '{"x":1}')


# -- halves of characters ------------------------------------------------------------------

HIGH, LOW, EMOJI = "\ud83d", "\ude00", "\U0001f600"


@pytest.mark.parametrize("member", ["content", "reasoning_content", "arguments"])
@pytest.mark.parametrize(
    ("pieces", "want"),
    [
        (["a " + HIGH, LOW + " b"], f"a {EMOJI} b"),
        ([HIGH, LOW], EMOJI),
        ([HIGH, "", LOW], EMOJI),
        (["x" + HIGH, LOW + HIGH, LOW], f"x{EMOJI}{EMOJI}"),
        ([HIGH, "b"], "\ufffdb"),
        (["a" + LOW], "a\ufffd"),
        ([HIGH + HIGH, LOW], f"\ufffd{EMOJI}"),
        ([LOW + HIGH], "\ufffd\ufffd"),
        (["a", HIGH], "a\ufffd"),
        ([EMOJI], EMOJI),
    ],
)
def test_halves_of_characters_are_joined(member: str, pieces: list[str], want: str) -> None:
    """A character that is cut into two escapes is whole again; half of one is U+FFFD."""
    chunks = []
    for text in pieces:
        call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": text}}
        chunks.append(
            chat_chunk({"tool_calls": [call]} if member == "arguments" else {member: text})
        )
    events = read(ChatReader(), *chunks)
    joined = "".join(
        getattr(one, "arguments" if member == "arguments" else "data") for one in events
    )
    assert joined == want
    assert len({type(one) for one in events}) == 1


def test_halves_of_different_texts_stay_apart() -> None:
    """Each call's arguments, the text and the reasoning wait for their own second half."""

    def call(index: int, text: str, **more: Any) -> dict[str, Any]:
        return {"index": index, "function": {"arguments": text, **more}}

    events = read(
        ChatReader(),
        chat_chunk({"tool_calls": [call(0, HIGH, name="f"), call(1, HIGH, name="g")]}),
        chat_chunk({"content": HIGH, "reasoning_content": HIGH}),
        chat_chunk({"content": LOW}),
        chat_chunk({"tool_calls": [call(1, LOW)]}),
        chat_chunk({"tool_calls": [call(0, "x")]}),
    )
    assert events == [
        ToolCall(0, "", "call_0", "f"),
        ToolCall(1, "", "call_1", "g"),
        Token(EMOJI),
        ToolCall(1, EMOJI),
        ToolCall(0, "\ufffdx"),
        Reasoning("\ufffd"),
    ]


def test_halves_in_ids_and_names_do_no_harm() -> None:
    """They are replaced: no format can write them."""
    call = {"index": 0, "id": f"a{HIGH}", "function": {"name": LOW, "arguments": "{}"}}
    assert read(ChatReader(), chat_chunk({"tool_calls": [call]})) == [
        ToolCall(0, "{}", "a\ufffd", "\ufffd")
    ]


def test_objects_of_the_sdk_are_read_as_loosely() -> None:
    """Where somebody watches the SDK's stream: lists of parts, halves, text for numbers, errors."""
    thinking = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]
    chunks = [
        chat_chunk({"content": thinking}),
        chat_chunk({"content": "a" + HIGH}),
        chat_chunk({"content": LOW}, usage={"prompt_tokens": "3", "completion_tokens": 4.0}),
        chat_chunk({"tool_calls": [{"index": "0", "function": {"name": "f", "arguments": {}}}]}),
        chat_chunk({"tool_calls": [CUSTOM[0]]}),
    ]
    made = [construct_type(type_=ChatCompletionChunk, value=chunk) for chunk in chunks]
    for objects in (made, chunks):
        reader = ChatReader()
        events = [event for one in objects for event in reader.read_object(one)]
        assert events == [
            Reasoning("hm"),
            Token("a"),
            Token(EMOJI),
            ToolCall(0, "{}", "call_0", "f"),
            ToolCall(1, 'print("', "c1", "code", True),
        ]
        assert reader.usage == Usage(3, 4)
    for bad in (choice("error"), {"object": "error", "message": "x", "code": 500}):
        with pytest.raises(PublicError):
            ChatReader().read_object(construct_type(type_=ChatCompletionChunk, value=bad))


async def test_half_a_character_at_the_end_is_told() -> None:
    """It comes before `done`; a stream with halves is written in each plain format."""
    events = await answered(text_of(chat_chunk({"content": "a" + HIGH}), chat_chunk(finish="stop")))
    assert events == [token("a"), token("\ufffd"), DONE]


# -- after the end, and packets ------------------------------------------------------------

WHOLE = [HELLO, chat_chunk(finish="stop")]
AFTER = [
    "data: garbage\n\n",
    "data: {\n\n",
    "data: {}}\n\n",
    "<html>\n\n",
    "data: " + "x" * 100 + "\n\n",
    'data: {"error": {"code": 500}}\n\n',
    "event: error\ndata: x\n\n",
    "data: \ud83d\n\n".encode("utf-8", "surrogatepass").decode("latin-1"),
    "data: [[[[",
    data({"choices": 3}),
    data({"choices": [{"delta": {"content": {"x": {}}}}]}),
    data({"choices": [{"delta": {"content": True}}]}),
]


def ways(body: bytes) -> Iterator[list[bytes]]:
    """Give all ways to cut `body` into two packets, and that into single bytes."""
    yield [body]
    yield [body[n : n + 1] for n in range(len(body))]
    yield from ([body[:n], body[n:]] for n in range(1, len(body), 7))


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("done", ["", END], ids=["reason", "DONE"])
async def test_what_follows_an_answer_takes_nothing_away(after: str, done: str) -> None:
    """Garbage, errors, more chunks after the reason or `[DONE]`: the answer is whole."""
    for body in (text_of(*WHOLE, done, after), text_of(*WHOLE, done, after, after, END)):
        assert await answered(body) == [token("Hello"), DONE]
        assert await answered([text_of(*WHOLE, done), body[len(text_of(*WHOLE, done)) :]]) == [
            token("Hello"),
            DONE,
        ]


async def test_text_after_done_is_not_read() -> None:
    """Nothing follows `[DONE]`, in the same packet or in another."""
    body = text_of(*WHOLE, END)
    for packets in ([body + text_of(HELLO)], [body, text_of(HELLO)]):
        assert await answered(packets) == [token("Hello"), DONE]


async def test_an_answer_may_end_without_a_blank_line() -> None:
    """A last line that is whole is read where the response ends in order; `[DONE]` is optional."""
    for body in (
        text_of(*WHOLE)[:-1],
        text_of(*WHOLE)[:-2],
        text_of(*WHOLE, END)[:-2],
        text_of(HELLO, END)[:-2],
    ):
        events = await answered(body)
        assert [event["type"] for event in events] == ["token", "done"]
    broken = await answered(text_of(HELLO, chat_chunk(finish="stop"))[:-20])
    assert broken[-1]["data"]["code"] == "upstream_broken"


@pytest.mark.parametrize("said", ["[DONE]", " [DONE] ", '"[DONE]"', "[DONE]\0", "[DONE] x"])
async def test_done_is_known_in_each_spelling(said: str) -> None:
    """With spaces, quotes or something behind it."""
    assert (await answered(text_of(HELLO, f"data:{said}\n\n", "data: {\n\n")))[-1]["type"] == "done"


CHAT = (
    text_of(
        "\ufeff: OPENROUTER PROCESSING\r\n\r\n",
        *chat("Hel", "lo \N{SNOWMAN}"),
    ).replace(b"\n", b"\r\n")
    + b"data: {\n\ndata: x\n\n"
)
CUT = (
    b'data:{"choices":[{"delta":{"content":"a \\ud83d"}}]}\n\n'
    b'data:{"choices":[{"delta":\ndata: {"content":"\\ude00 b"}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":"c"}}]}\n'
    b'data: {"choices":[{"delta":{"content":"d"}}]}\n\n'
    b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\r'
    b"\r: x\n\ndata: [DONE]\n\nerror: {}\n\n{}\n"
)
LARGE = text_of(HELLO, *WHOLE) + b"data: " + b"x" * 5000 + b"\n\n"
MESSAGE = text_of(MESSAGE_START, *text_block(0, "Hel", "lo"), *message()[-2:], "data: {\n\n")


def all_of(reader: Any, packets: list[bytes]) -> Any:
    """Return all that a reader makes of packets, and whether the answer is whole."""
    decoder, events = UpstreamDecoder(max_event=4000), []
    try:
        for packet in packets:
            for event in decoder.feed(packet):
                if not reader.over:
                    events += reader.read(event)
    except Exception:
        if reader.reason is None:
            raise
    return [*events, *reader.rest()], reader.reason, reader.usage


@pytest.mark.parametrize(
    ("reader", "body"),
    [(ChatReader, CHAT), (ChatReader, CUT), (ChatReader, LARGE), (MessageReader, MESSAGE)],
    ids=["chat", "cut", "large", "message"],
)
def test_packets_make_no_difference(reader: Any, body: bytes) -> None:
    """The same bytes are the same events, whole, cut at each place, and byte by byte."""
    want = all_of(reader(), [body])
    assert want[1] == "stop"
    assert want[0]
    for packets in ways(body):
        assert all_of(reader(), packets) == want


@given(st.sampled_from([CHAT, CUT, LARGE]), st.lists(st.integers(1, 400), max_size=8))
def test_packets_of_any_size_make_no_difference(body: bytes, places: list[int]) -> None:
    """However often and wherever the bytes are cut."""
    cuts = [0, *sorted({min(place, len(body)) for place in places}), len(body)]
    packets = [body[a:b] for a, b in itertools.pairwise(cuts)]
    assert all_of(ChatReader(), packets) == all_of(ChatReader(), [body])


async def test_packets_make_no_difference_to_our_client() -> None:
    """Through the source itself: what it gets is the same, however the packets came."""
    for body in (CHAT, CUT):
        want = await answered(body)
        assert want[-1] == DONE
        for n in range(1, len(body), 61):
            assert await answered([body[:n], body[n:]]) == want


async def test_lines_may_be_long() -> None:
    """A megabyte in one line is a token; it may come in any packets."""
    body = text_of(chat_chunk({"content": "x" * 2**20}), chat_chunk(finish="stop"), END)
    events = await answered([body[n : n + 65_521] for n in range(0, len(body), 65_521)])
    assert [len(event.get("data", "")) for event in events] == [2**20, 0]


async def test_nothing_said_after_message_stop_counts() -> None:
    """Anthropic's API likewise: what follows the stop reason is ignored."""
    reader = MessageReader()
    assert read(reader, MESSAGE_START, message_delta("end_turn"), MESSAGE_STOP) == []
    assert (reader.reason, reader.over) == ("stop", True)
