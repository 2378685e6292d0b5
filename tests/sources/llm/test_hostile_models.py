"""Model servers that send too much: what is held of it is bounded, and the connection is closed."""

from __future__ import annotations

import gzip
import json
import logging
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import openai
import pytest
import trio
from _events import token, whole
from _upstream import CHAT_USAGE, END, Connection, Upstream, chat_chunk, framed, stream

from flowstream.decoders import ServerSentEvent
from flowstream.sources.llm import _model_body as _llm_body
from flowstream.sources.llm._model_body import MAX_ERROR, _bound, _Inflate
from flowstream.sources.llm._tool_calls import ToolCalls
from flowstream.sources.llm.anthropic import MessageReader
from flowstream.sources.llm.openai import ChatReader, openai_tokens

ASK: dict[str, Any] = {"model": "m", "messages": []}
HELLO = b"".join(
    map(framed, (chat_chunk({"content": "Hello"}), chat_chunk(finish="stop"), CHAT_USAGE))
)
WHOLE = [token("Hello"), {"type": "usage", "input_tokens": 19, "output_tokens": 10}]


@pytest.fixture
async def client(upstream: Upstream) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key="none", base_url=upstream.url, max_retries=0) as made:
        yield made


def endless(status: int, media_type: str, data: bytes = b" " * 65536) -> Any:
    async def answer(connection: Connection) -> None:
        await connection.begin(media_type, status)
        while True:
            await connection.send(data)

    return answer


def packed(data: bytes, head: str, status: int = 200) -> Any:
    async def answer(connection: Connection) -> None:
        await connection.begin(head, status)
        await connection.send(data)
        await connection.end()

    return answer


def code_of(events: list[Any]) -> Any:
    assert events[-1]["type"] == "failed"
    return events[-1]["data"]["code"]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (endless(429, "application/json"), "upstream_busy"),
        (endless(404, "text/html"), "upstream_rejected"),
        (endless(307, "text/html\r\nlocation: /elsewhere"), "upstream_unreachable"),
        (endless(200, "text/html"), "upstream_broken"),
        (endless(200, "text/event-stream"), "upstream_broken"),
    ],
    ids=["busy", "page", "redirect", "no events", "one event"],
)
async def test_a_body_without_an_end_is_not_kept(
    upstream: Upstream,
    client: openai.AsyncOpenAI,
    monkeypatch: pytest.MonkeyPatch,
    aeventually: Any,
    answer: Any,
    code: str,
) -> None:
    """Its connection is closed when it is longer than any; an error is known by its status."""
    monkeypatch.setattr(_llm_body, "MAX_EVENT", 1 << 20)
    upstream.answer(answer)
    source = openai_tokens(client, **ASK)
    tracemalloc.start()
    try:
        assert code_of(await whole(source)) == code
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert held < 24 << 20  # an event has up to 16 MiB
    await aeventually(upstream.all_closed, "the connection is closed")


async def test_a_bomb_for_an_error_is_read_as_far_as_an_error_goes(
    upstream: Upstream, client: openai.AsyncOpenAI
) -> None:
    """32 KiB of gzip that stand for 32 MiB take no more memory than a long error."""
    head = "application/json\r\ncontent-encoding: gzip"
    upstream.answer(packed(gzip.compress(b" " * (32 << 20)), head, 503))
    await whole(openai_tokens(client, **ASK))  # what is imported with the first
    tracemalloc.start()
    try:
        assert code_of(await whole(openai_tokens(client, **ASK))) == "upstream_busy"
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert held < 2 << 20


@pytest.mark.parametrize(
    ("coding", "data"),
    [
        ("gzip", gzip.compress(HELLO + END.encode())),
        ("X-GZIP", gzip.compress(HELLO) + gzip.compress(END.encode())),
        ("deflate", zlib.compress(HELLO + END.encode())),
        ("deflate", zlib.compressobj(wbits=-15).compress(b"") + zlib.compress(HELLO)[2:-4]),
        ("identity", HELLO + END.encode()),
    ],
    ids=["gzip", "two members", "deflate", "deflate without a head", "identity"],
)
async def test_what_is_compressed_is_read(
    upstream: Upstream, client: openai.AsyncOpenAI, coding: str, data: bytes
) -> None:
    """Nobody has asked for it, but there are proxies that compress everything."""
    upstream.answer(packed(data, f"text/event-stream\r\ncontent-encoding: {coding}"))
    assert (await whole(openai_tokens(client, **ASK)))[:2] == WHOLE


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "compress"])
async def test_what_cannot_be_bounded_is_not_read(
    upstream: Upstream,
    client: openai.AsyncOpenAI,
    caplog: pytest.LogCaptureFixture,
    coding: str,
) -> None:
    """The log says which coding it was."""
    upstream.answer(packed(b"x", f"text/event-stream\r\ncontent-encoding: {coding}"))
    with caplog.at_level(logging.ERROR):
        assert code_of(await whole(openai_tokens(client, **ASK))) == "upstream_broken"
    assert repr(coding) in caplog.text


async def test_what_is_not_compressed_as_it_says_is_broken(
    upstream: Upstream, client: openai.AsyncOpenAI
) -> None:
    """It is the server's fault, and no traceback of ours."""
    upstream.answer(packed(b"\xff" * 100, "text/event-stream\r\ncontent-encoding: gzip"))
    assert code_of(await whole(openai_tokens(client, **ASK))) == "upstream_broken"


async def test_others_run_while_a_body_is_inflated(
    upstream: Upstream, client: openai.AsyncOpenAI
) -> None:
    """Whatever a packet becomes, there is a turn for others after each piece of it."""
    comments = b": x\n" * (1 << 20)
    data = gzip.compress(comments + HELLO + END.encode())
    upstream.answer(packed(data, "text/event-stream\r\ncontent-encoding: gzip"))
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        assert (await whole(openai_tokens(client, **ASK)))[:2] == WHOLE
        nursery.cancel_scope.cancel()
    assert turns >= len(comments) // 65536


def test_a_step_of_inflating_is_small() -> None:
    """One packet becomes many pieces, none of them larger than a step."""
    pieces = list(_Inflate().pieces(gzip.compress(b"x" * 5_000_000)))
    assert b"".join(pieces) == b"x" * 5_000_000
    assert max(map(len, pieces)) <= 65536


async def test_other_requests_of_the_app_are_its_own(
    upstream: Upstream, client: openai.AsyncOpenAI
) -> None:
    """The hook is there once, and leaves alone what no stream of ours has asked for."""
    upstream.answer(stream(HELLO.decode(), END))
    for _ in range(3):
        await whole(openai_tokens(client, **ASK))
    assert client._client.event_hooks["response"].count(_bound) == 1
    long = json.dumps({"error": {"message": "x" * 2 * MAX_ERROR}}).encode()
    upstream.answer(packed(gzip.compress(long), "application/json\r\ncontent-encoding: gzip", 400))
    with pytest.raises(openai.BadRequestError, match="x" * 1000):
        await client.chat.completions.create(**ASK)


def read(reader: Any, data: str) -> list[Any]:
    return list(reader.read(ServerSentEvent("message", data, "")))


@pytest.mark.parametrize(
    "data",
    [
        '{"usage":[' + "{}," * (1 << 19) + "{}]}",
        '{"choices":[' + "{}," * (1 << 19) + "{}]}",
        '{"usage":{' + '"":"",' * (1 << 18) + '"":""}}',
        '{"usage":' + "9" * (2 << 20) + "}",
        "[" * (2 << 20),
        '{"a":' * (1 << 19),
    ],
    ids=["objects", "choices", "members", "digits", "lists in lists", "objects in objects"],
)
def test_an_event_has_no_more_structure_than_an_answer(data: str) -> None:
    """A million objects of a few bytes would take the time and memory of a thousand answers."""
    with pytest.raises(msgspec.ValidationError, match="outside of its texts"):
        read(ChatReader(), data)


@pytest.mark.parametrize(
    "text", ["x" * (8 << 20), '{"a": ["b\\\\"]},\n' * (1 << 18)], ids=["plain", "looks like JSON"]
)
def test_a_text_may_be_long(text: str) -> None:
    """What is inside of a text is not structure, whatever it looks like."""
    call = {"index": 0, "id": "a", "function": {"name": "write", "arguments": text}}
    (event,) = read(ChatReader(), json.dumps(chat_chunk({"tool_calls": [call]})))
    assert event.arguments == text


def test_calls_have_a_bound() -> None:
    """What is remembered of each call must not grow for as long as a server likes."""
    calls = ToolCalls()
    for number in range(1000):
        calls.piece(number, f"id{number}", "f", "")
    with pytest.raises(msgspec.ValidationError, match="more than 1000 tool calls"):
        calls.piece(1000, "id1000", "f", "")


def test_ids_of_calls_have_a_bound() -> None:
    """A server that gives each piece another id may do so for a long answer, not for ever."""
    calls = ToolCalls()
    for number in range(1500):
        calls.piece(0, f"{number:600}", "f" if not number else None, "x")
    with pytest.raises(msgspec.ValidationError, match="ids and names"):
        calls.piece(0, "x" * 200_000, None, "x")


def test_calls_of_anthropics_api_have_a_bound() -> None:
    """The same for its blocks."""
    reader = MessageReader()
    block = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
    events = [
        json.dumps({"type": "content_block_start", "index": number, "content_block": block})
        for number in range(1001)
    ]
    for event in events[:-1]:
        read(reader, event)
    with pytest.raises(msgspec.ValidationError, match="more than 1000 tool calls"):
        read(reader, events[-1])
