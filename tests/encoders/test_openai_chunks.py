"""Chat completion chunks, one by one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flowstream.abc import Encoder
from flowstream.decoders import SSEDecoder
from flowstream.encoders import OpenAIChunks
from flowstream.llm import Done, Reasoning, Token, ToolCall, Usage


def sent(encoder: Encoder, *items: Any) -> bytes:
    return encoder.join([encoder.encode(item) for item in items])


def bodies(data: bytes) -> list[Any]:
    events = SSEDecoder().feed(data)
    return [event.data if event.data == "[DONE]" else json.loads(event.data) for event in events]


def end(encoder: Encoder, reason: str = "completed") -> bytes:
    return encoder.control("end", {"reason": reason}, id="e.end")


def test_what_the_format_is() -> None:
    """It is SSE to a proxy and to the outlet, without ids."""
    encoder = OpenAIChunks("tiny")
    assert encoder.media_type == "text/event-stream; charset=utf-8"
    assert encoder.in_band
    assert not encoder.automatic_ids
    assert encoder.heartbeat() == encoder.start().heartbeat() == b":\n\n"
    # A `retry:` alone would be an event without data, which the SDK takes for broken JSON.
    assert encoder.start().opening(2000) == b": connected\n\n"


def test_a_chunk() -> None:
    """Each piece is a whole chunk; the first has the role in one of its own before it."""
    role, chunk = bodies(sent(OpenAIChunks("tiny").start(), "Hel"))
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunk == {
        "id": role["id"],
        "object": "chat.completion.chunk",
        "created": role["created"],
        "model": "tiny",
        "choices": [{"index": 0, "delta": {"content": "Hel"}, "finish_reason": None}],
    }


def test_streams_have_ids_of_their_own() -> None:
    """Two streams of one encoder are two completions."""
    encoder = OpenAIChunks("tiny")
    ids = {bodies(sent(encoder.start(), "x"))[0]["id"] for _ in range(2)}
    assert len(ids) == 2


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("tool_calls", "tool_calls"),
        ("content_filter", "content_filter"),
        ("other", "stop"),
    ],
)
def test_finish_reasons(given: Any, written: str) -> None:
    """The reason is written at the end, as the API calls it."""
    encoder = OpenAIChunks("tiny").start()
    assert sent(encoder, Done(given)) == b""
    _, last, done = bodies(end(encoder))
    assert last["choices"] == [{"index": 0, "delta": {}, "finish_reason": written}]
    assert done == "[DONE]"


def test_a_source_without_done_is_done() -> None:
    """An answer that only ends is whole; one that was stopped ends the same."""
    for reason in ("completed", "stopped"):
        encoder = OpenAIChunks("tiny").start()
        sent(encoder, "x")
        last, done = bodies(end(encoder, reason))
        assert (last["choices"][0]["finish_reason"], done) == ("stop", "[DONE]")


def test_usage_is_added_up_and_only_sent_if_wanted() -> None:
    """The usage of all turns is one chunk before the end; the others have null for it."""
    items = [
        Usage(1, 2),
        Done("tool_calls"),
        {"type": "usage", "input_tokens": 10, "output_tokens": 20},
    ]
    wanted, unwanted = (
        OpenAIChunks("tiny", include_usage=True).start(),
        OpenAIChunks("tiny").start(),
    )
    assert sent(wanted, *items) == sent(unwanted, *items) == b""
    role, last, usage, _ = bodies(end(wanted))
    assert role["usage"] is last["usage"] is None
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 11, "completion_tokens": 22, "total_tokens": 33}
    assert all("usage" not in chunk for chunk in bodies(end(unwanted))[:-1])


def test_calls_and_reasoning() -> None:
    """A call's first piece has its id and name, the others have neither; so does what is lost."""
    encoder = OpenAIChunks("tiny").start()
    items = [Reasoning("hm"), ToolCall(0, "", "c-1", "f"), ToolCall(0, '{"a":1}')]
    deltas = [body["choices"][0]["delta"] for body in bodies(sent(encoder, *items))]
    function = {"name": "f", "arguments": ""}
    assert deltas[1:] == [
        {"reasoning_content": "hm"},
        {"tool_calls": [{"index": 0, "id": "c-1", "type": "function", "function": function}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":1}'}}]},
    ]


def test_errors() -> None:
    """A failure, a farewell and a gap are each what the SDK raises for."""
    encoder = OpenAIChunks("tiny").start()
    failed = encoder.control("failed", {"code": "quota", "message": "No more."}, id="e.failed")
    error = {"message": "No more.", "type": "server_error", "param": None, "code": "quota"}
    assert bodies(failed) == [{"error": error}, "[DONE]"]
    error, done = bodies(encoder.control("reconnect", {"reason": "shutdown"}, retry=1))
    assert (error["error"]["code"], done) == ("shutdown", "[DONE]")
    for missed, said in ((3, "3 events"), (None, "a part")):
        (gap,) = bodies(encoder.control("gap", {"missed": missed, "after": None, "before": None}))
        assert gap["error"]["code"] == "gap"
        assert gap["error"]["message"].startswith(said)


def test_a_warning_is_a_comment() -> None:
    """No client has to know of it."""
    warning = OpenAIChunks("tiny").start().control("warning", {"buffered": 8, "limit": 10})
    assert warning == b': the client is slow: {"buffered":8,"limit":10}\n\n'


@pytest.mark.parametrize(
    ("item", "type", "called"),
    [
        (5, None, "a int"),
        (None, None, "a NoneType"),
        (b"x", None, "a bytes"),
        ({"data": "x"}, None, "a mapping of type None"),
        ({"type": "tokn", "data": "x"}, None, "a mapping of type 'tokn'"),
        ({"type": ["token"]}, None, "a mapping of type"),
        ({"rain": True}, "weather", "an Event of type 'weather'"),
        ("text", "note", "an Event of type 'note'"),
    ],
)
def test_what_is_no_event_of_a_model_is_refused(item: Any, type: str | None, called: str) -> None:
    """The error says what is expected and what came."""
    with pytest.raises(TypeError, match=f"an event of a model is expected .*, not {called}"):
        OpenAIChunks("tiny").encode(item, type=type)


@pytest.mark.parametrize(
    "item",
    [
        {"type": "token"},
        {"type": "token", "data": 5},
        {"type": "done", "reason": "tired"},
        {"type": "usage", "input_tokens": "many"},
        {"type": "tool_call", "arguments": "{}"},
        "\ud800",
        Token("\ud800"),
        ToolCall(0, "\ud800"),
    ],
)
def test_an_event_with_wrong_members_is_refused(item: Any) -> None:
    """A mapping is checked as a Struct would be, and a text has to be Unicode."""
    with pytest.raises(ValueError):
        OpenAIChunks("tiny").encode(item)


def test_a_snapshot_has_no_place() -> None:
    """A topic with a snapshot is refused, instead of losing it."""
    with pytest.raises(TypeError, match="an event of a model is expected"):
        OpenAIChunks("tiny").start().control("snapshot", {"state": 1}, id="e.1")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"model": 5}, TypeError),
        ({"model": "\ud800"}, ValueError),
        ({"model": "tiny", "include_usage": 1}, TypeError),
    ],
)
def test_wrong_arguments(arguments: Any, error: Any) -> None:
    """They are found where they are given."""
    with pytest.raises(error):
        OpenAIChunks(**arguments)


def test_it_is_a_value() -> None:
    """It compares by what it would write; its streams share what they encode."""
    one, same, other = OpenAIChunks("a"), OpenAIChunks("a"), OpenAIChunks("a", include_usage=True)
    assert one == same != other
    assert len({one, same, other}) == 2
    assert one != "a"
    assert repr(other) == "OpenAIChunks('a', include_usage=True)"
    assert one.start() == one.start()
    assert one.start() != "a"
    assert len({one.start(), one.start()}) == 1
    assert one.start().encode(Token("x")) == one.encode("x")


def test_an_encoder_that_was_not_started_remembers_nothing() -> None:
    """Each call on the shared value is about a stream of its own."""
    encoder = OpenAIChunks("tiny")
    assert len(bodies(sent(encoder, "x"))) == len(bodies(sent(encoder, "x"))) == 2
    assert bodies(encoder.control("end", {"reason": "completed"}))[-1] == "[DONE]"
