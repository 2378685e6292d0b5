"""The events of a model without an encoder for them: NDJSON and SSE, as the README shows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flowstream import ndjson, sse
from flowstream.decoders import SSEDecoder
from flowstream.llm import Done, Reasoning, Token, ToolCall, Usage
from flowstream.testing import collect

EVENTS: list[Any] = [
    Reasoning("hm"),
    Token("Hel"),
    {"type": "token", "data": "lo"},
    ToolCall(0, "{", "call-1", "f"),
    ToolCall(0, "}"),
    Usage(1, 2),
    Done(),
]
WRITTEN = [
    {"type": "reasoning", "data": "hm"},
    {"type": "token", "data": "Hel"},
    {"type": "token", "data": "lo"},
    {"type": "tool_call", "index": 0, "arguments": "{", "id": "call-1", "name": "f"},
    {"type": "tool_call", "index": 0, "arguments": "}"},
    {"type": "usage", "input_tokens": 1, "output_tokens": 2},
    {"type": "done", "reason": "stop"},
]


@pytest.mark.parametrize("format", ["ndjson", "sse"])
async def test_events_are_plain_json(format: str) -> None:
    """Structs and mappings alike are objects with a type, which a page reads without a library."""
    if format == "ndjson":
        body = (await collect(ndjson(EVENTS))).body
        *got, end = [json.loads(line) for line in body.splitlines()]
        assert end["type"] == "end"
    else:
        body = (await collect(sse(EVENTS))).body
        *events, last = SSEDecoder().feed(body)
        got = [json.loads(event.data) for event in events]
        assert {event.type for event in events} == {"message"}
        assert last.type == "end"
    assert got == WRITTEN
