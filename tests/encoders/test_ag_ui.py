"""AG-UI events, one by one, checked by the protocol's own models for Python.

In tests/sources/llm its client for JavaScript reads them, and checks their grammar.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from ag_ui.core import Event as ProtocolEvent
from ag_ui.core import EventType
from pydantic import TypeAdapter

from flowstream import Event
from flowstream.abc import Encoder
from flowstream.decoders import SSEDecoder
from flowstream.encoders import AGUI
from flowstream.llm import Done, Reasoning, Token, ToolCall, Usage

_CHECK: TypeAdapter[Any] = TypeAdapter(ProtocolEvent)


def sent(encoder: Encoder, *items: Any) -> bytes:
    return encoder.join(
        [
            encoder.encode(item.data, id=item.id, type=item.type, key=item.key)
            if isinstance(item, Event)
            else encoder.encode(item)
            for item in items
        ]
    )


def events(data: bytes) -> list[Any]:
    """Return what is in the stream; every event has the members that the protocol knows."""
    found = [json.loads(event.data) for event in SSEDecoder().feed(data)]
    for event in found:
        known = {field.alias for field in type(_CHECK.validate_python(event)).model_fields.values()}
        assert set(event) <= known
    return found


def kinds(data: bytes) -> list[str]:
    return [event["type"] for event in events(data)]


def end(encoder: Encoder, reason: str = "completed") -> bytes:
    return encoder.control("end", {"reason": reason}, id="e.end")


def gap(encoder: Encoder) -> bytes:
    return encoder.control("gap", {"missed": 1, "after": None, "before": None})


def test_a_run_begins_at_once() -> None:
    """It has the ids of the request, or some of its own, and the version of the protocol."""
    (started,) = events(AGUI(thread_id="t", run_id="r").start().opening(2000))
    assert started == {
        "type": "RUN_STARTED",
        "threadId": "t",
        "runId": "r",
        "protocolVersion": "1.0",
    }
    ids = {events(AGUI().start().opening(None))[0]["runId"] for _ in range(2)}
    assert len(ids) == 2


def test_text_and_reasoning() -> None:
    """Each is a message that is begun, continued and ended; reasoning has a span around it."""
    encoder = AGUI().start()
    data = sent(encoder, Reasoning("hm"), "Hel", Token("lo"), Done())
    assert kinds(data) == [
        *("REASONING_START", "REASONING_MESSAGE_START", "REASONING_MESSAGE_CONTENT"),
        *("REASONING_MESSAGE_END", "REASONING_END"),
        *("TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_CONTENT"),
        "TEXT_MESSAGE_END",
    ]
    found = events(data)
    assert len({event["messageId"] for event in found}) == 2
    assert (found[1]["role"], found[5]["role"]) == ("reasoning", "assistant")
    assert [found[6]["delta"], found[7]["delta"]] == ["Hel", "lo"]
    assert kinds(end(encoder)) == ["RUN_FINISHED"]


def test_a_call_belongs_to_the_text_before_it() -> None:
    """Its parent is the turn's message, if there is one in that turn."""
    encoder = AGUI().start()
    text, _, _, start, args, ended = events(
        sent(encoder, "x", ToolCall(0, "{}", "c-1", "f"), Done("tool_calls"))
    )
    assert start == {
        "type": "TOOL_CALL_START",
        "toolCallId": "c-1",
        "toolCallName": "f",
        "parentMessageId": text["messageId"],
    }
    assert args == {"type": "TOOL_CALL_ARGS", "toolCallId": "c-1", "delta": "{}"}
    assert ended == {"type": "TOOL_CALL_END", "toolCallId": "c-1"}
    assert "parentMessageId" not in events(sent(encoder, ToolCall(0, "", "c-2", "f")))[0]


def test_a_call_that_is_not_whole_is_not_ended() -> None:
    """The client would make it; so the run ends in an error instead, and begins no other call."""
    encoder = AGUI().start()
    sent(encoder, ToolCall(0, '"a', "c-1", "f"))
    assert kinds(gap(encoder)) == ["CUSTOM"]
    again = ToolCall(0, "{}", "c-1", "f")
    assert sent(encoder, ToolCall(0, 'c"'), Done("tool_calls"), again) == b""
    (error,) = events(end(encoder))
    assert (error["type"], error["code"]) == ("RUN_ERROR", "gap")


def test_a_call_without_its_beginning_is_an_error() -> None:
    """A client that begins to listen in the middle of a call gets none of it."""
    encoder = AGUI().start()
    assert sent(encoder, ToolCall(0, "1}"), Done()) == b""
    assert kinds(end(encoder)) == ["RUN_ERROR"]


def test_a_run_that_is_stopped_is_cancelled() -> None:
    """Unless a call is open, which no client shall make."""
    encoder = AGUI().start()
    sent(encoder, "x")
    ended, finished = events(end(encoder, "stopped"))
    assert ended["type"] == "TEXT_MESSAGE_END"
    assert finished["outcome"] == {"type": "cancelled"}
    encoder = AGUI().start()
    sent(encoder, ToolCall(0, "{}", "c-1", "f"))
    (error,) = events(end(encoder, "stopped"))
    assert (error["type"], error["code"]) == ("RUN_ERROR", "stopped")


def test_failures_have_their_code_and_the_usage() -> None:
    """What was open is left open: the run is over."""
    encoder = AGUI().start()
    sent(encoder, "x", Usage(1, 2))
    usage = [{"inputTokens": 1, "outputTokens": 2, "totalTokens": 3}]
    assert events(encoder.control("failed", {"code": "quota", "message": "No more."})) == [
        {"type": "RUN_ERROR", "message": "No more.", "code": "quota", "usage": usage}
    ]
    (error,) = events(AGUI().start().control("reconnect", {"reason": "shutdown"}, retry=1))
    assert (error["type"], error["code"]) == ("RUN_ERROR", "shutdown")


def test_an_unusual_finish_reason_is_told() -> None:
    """An answer that was cut by its length is not one that was done."""
    for reason, metadata in (("stop", None), ("length", {"finishReason": "length"})):
        encoder = AGUI().start()
        sent(encoder, Done(reason))  # type: ignore[arg-type]
        (finished,) = events(end(encoder))
        assert finished.get("metadata") == metadata


def test_events_of_the_apps_own() -> None:
    """An event with a type is a custom one, and the protocol's own go as they are."""
    state = {"snapshot": {"a": 1}, "type": "STATE_SNAPSHOT"}
    data = sent(AGUI().start(), Event({"rain": True}, type="weather", key="zh"), state)
    assert events(data) == [
        {"type": "CUSTOM", "name": "weather", "value": {"rain": True}},
        state,
    ]


def test_a_result_comes_behind_the_call() -> None:
    """Also where no Done is between them."""
    result = {
        "content": "rain",
        "messageId": "m",
        "toolCallId": "c-1",
        "type": EventType.TOOL_CALL_RESULT.value,
    }
    data = sent(AGUI().start(), ToolCall(0, "{}", "c-1", "f"), result)
    assert kinds(data)[-2:] == ["TOOL_CALL_END", "TOOL_CALL_RESULT"]


def test_controls_are_custom_events_and_can_be_renamed() -> None:
    """A gap, a warning and a snapshot each have a name and a body."""
    encoder = AGUI(names={"gap": "lost"}).start()
    assert events(gap(encoder)) == [
        {
            "type": "CUSTOM",
            "name": "lost",
            "value": {"missed": 1, "after": None, "before": None},
        }
    ]
    assert events(encoder.control("warning", {"buffered": 8, "limit": 10}))[0]["name"] == "warning"
    snapshot = encoder.join([encoder.control("snapshot", [1], id="e.1")])
    assert events(snapshot) == [{"type": "CUSTOM", "name": "snapshot", "value": [1]}]


@pytest.mark.parametrize("item", [5, {"type": "RUN_FINISHED"}, {"type": None}])
def test_what_it_cannot_carry_is_refused(item: Any) -> None:
    """Also the events that it writes itself; the error says how to send one's own."""
    with pytest.raises(TypeError, match="is sent as CUSTOM"):
        AGUI().encode(item)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"thread_id": 5}, TypeError),
        ({"run_id": "a\nb"}, ValueError),
        ({"run_id": "\ud800"}, ValueError),
        ({"names": {"gap": "end"}}, ValueError),
    ],
)
def test_wrong_arguments(arguments: Any, error: Any) -> None:
    """They are found where they are given."""
    with pytest.raises(error):
        AGUI(**arguments)


def test_it_is_a_value() -> None:
    """It compares by its ids; streams of different runs share what they encode."""
    one, same, other = AGUI(run_id="r"), AGUI(run_id="r"), AGUI(run_id="s")
    assert one == same != other
    assert len({one, same, other}) == 2
    assert one != "a"
    assert repr(one) == "AGUI(thread_id=None, run_id='r')"
    assert one.start() == other.start()
