"""The AI SDK's UI message chunks, one by one; tests/sources/llm has its own reader read them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from flowstream import Event, stream
from flowstream.abc import Encoder
from flowstream.decoders import SSEDecoder
from flowstream.encoders import UIMessages
from flowstream.encoders._parts import Call
from flowstream.llm import Done, Reasoning, Token, ToolCall, Usage
from flowstream.testing import open_stream


def sent(encoder: Encoder, *items: Any) -> bytes:
    return encoder.join(
        [
            encoder.encode(item.data, id=item.id, type=item.type, key=item.key)
            if isinstance(item, Event)
            else encoder.encode(item)
            for item in items
        ]
    )


def chunks(data: bytes) -> list[Any]:
    events = [event.data for event in SSEDecoder().feed(data)]
    return [json.loads(event) for event in events if event != "[DONE]"]


def kinds(data: bytes) -> list[str]:
    return [chunk["type"] for chunk in chunks(data)]


def end(encoder: Encoder, reason: str = "completed") -> bytes:
    return encoder.control("end", {"reason": reason}, id="e.end")


def gap(encoder: Encoder) -> bytes:
    return encoder.control("gap", {"missed": 1, "after": None, "before": None})


def test_what_the_format_is() -> None:
    """It is SSE with the header of the protocol's version, and begins at once."""
    encoder = UIMessages(message_id="m-1")
    assert encoder.media_type == "text/event-stream; charset=utf-8"
    assert encoder.headers == (("x-vercel-ai-ui-message-stream", "v1"),)
    assert encoder.in_band
    assert not encoder.automatic_ids
    assert chunks(encoder.start().opening(2000)) == [{"type": "start", "messageId": "m-1"}]
    assert chunks(UIMessages().start().opening(None)) == [{"type": "start"}]


async def test_the_header_goes_out() -> None:
    """A response in the format has the header that its clients look for."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await stream(["x"], encoder=UIMessages())(scope, receive, send)

    async with open_stream(app) as client:
        await client.wait_finished()
        assert client.headers["x-vercel-ai-ui-message-stream"] == "v1"
        assert client.received.endswith(b"data: [DONE]\n\n")


def test_text_is_one_part_and_a_turn_one_step() -> None:
    """A part is begun once, its pieces have its id, and Done ends it and the step."""
    encoder = UIMessages().start()
    step, start, hel, lo, stop, over = chunks(sent(encoder, "Hel", Token("lo"), Done()))
    assert step == {"type": "start-step"}
    assert over == {"type": "finish-step"}
    assert start == {"type": "text-start", "id": start["id"]}
    assert hel == {"type": "text-delta", "id": start["id"], "delta": "Hel"}
    assert lo == {"type": "text-delta", "id": start["id"], "delta": "lo"}
    assert stop == {"type": "text-end", "id": start["id"]}
    assert chunks(end(encoder)) == [{"type": "finish", "finishReason": "stop"}]


def test_reasoning_and_text_take_turns() -> None:
    """Each is ended before the other begins, and no two parts have an id in common."""
    data = sent(UIMessages().start(), Reasoning("a"), "b", Reasoning("c"), Reasoning("d"))
    assert kinds(data)[1:] == [
        *("reasoning-start", "reasoning-delta", "reasoning-end"),
        *("text-start", "text-delta", "text-end"),
        *("reasoning-start", "reasoning-delta", "reasoning-delta"),
    ]
    assert len({chunk["id"] for chunk in chunks(data)[1:]}) == 3


def test_an_empty_piece_begins_nothing() -> None:
    """Models begin with an empty token; a page would show an empty part."""
    encoder = UIMessages().start()
    assert sent(encoder, "", Reasoning("")) == b""
    assert kinds(sent(encoder, "x", "")) == ["start-step", "text-start", *["text-delta"] * 2]


def test_a_call() -> None:
    """Its arguments come piece by piece, and all of them as a value when the turn is over."""
    encoder = UIMessages().start()
    number = 123456789012345678901234567890
    data = sent(
        encoder, "x", ToolCall(0, '{"a":\r\n', "c-1", "f"), ToolCall(0, f"{number}}}"), Done()
    )
    assert kinds(data)[3:] == [
        *("text-end", "tool-input-start", "tool-input-delta", "tool-input-delta"),
        *("tool-input-available", "finish-step"),
    ]
    start, first, _, available = chunks(data)[4:8]
    assert start == {"type": "tool-input-start", "toolCallId": "c-1", "toolName": "f"}
    assert first == {
        "type": "tool-input-delta",
        "toolCallId": "c-1",
        "inputTextDelta": '{"a":\r\n',
    }
    assert available["input"] == {"a": number}


@pytest.mark.parametrize(
    "pieces",
    [
        [ToolCall(0, '{"a":', "c-1", "f"), ToolCall(1, "[]", "c-2", "g"), ToolCall(0, "1}")],
        # Some repeat the id in every piece, some send it empty, some count every call as the first.
        [ToolCall(0, '{"a":', "c-1", "f"), ToolCall(0, "1}", "c-1"), ToolCall(0, "[]", "c-2", "g")],
        [ToolCall(0, '{"a":1}', "c-1", "f"), ToolCall(0, "", ""), ToolCall(1, "[]", "c-2", "g")],
    ],
)
def test_calls_are_told_apart(pieces: list[ToolCall]) -> None:
    """By their index, and by their id where models differ."""
    encoder = UIMessages().start()
    made = [
        (chunk["toolCallId"], chunk["toolName"], chunk["input"])
        for chunk in chunks(sent(encoder, *pieces, Done("tool_calls")))
        if chunk["type"] == "tool-input-available"
    ]
    assert made == [("c-1", "f", {"a": 1}), ("c-2", "g", [])]


def test_a_call_without_arguments_or_id() -> None:
    """No arguments are an empty object, and an id that the model doesn't give is made up."""
    data = sent(UIMessages().start(), ToolCall(0, name="now"), Done())
    (available,) = [chunk for chunk in chunks(data) if chunk["type"] == "tool-input-available"]
    assert (available["input"], available["toolName"]) == ({}, "now")
    assert available["toolCallId"]


@pytest.mark.parametrize(
    ("pieces", "why"),
    [
        ([ToolCall(0, '{"a":', "c-1", "f")], "not JSON"),
        ([ToolCall(0, "[" * 100_000, "c-1", "f")], "not JSON"),
        ([ToolCall(0, '{"__proto__": 1}', "c-1", "f")], "refuse"),
        ([ToolCall(0, '[{"\\u005f_proto__": 1}]', "c-1", "f")], "refuse"),
        ([ToolCall(0, '{"constructor": {"prototype": 1}}', "c-1", "f")], "refuse"),
        ([ToolCall(0, '"', "c-1", "f"), *[ToolCall(0, "x" * 2**18)] * 4], "too long"),
        ([ToolCall(0, "1}")], "beginning"),
    ],
)
def test_a_call_that_is_not_whole_is_an_error(pieces: list[ToolCall], why: str) -> None:
    """What a page must not run is never `tool-input-available`."""
    found = chunks(sent(UIMessages().start(), *pieces, Done()))
    (error,) = [chunk for chunk in found if chunk["type"] == "tool-input-error"]
    assert why in error["errorText"]
    assert error["toolCallId"] == found[1]["toolCallId"]
    assert "tool-input-available" not in [chunk["type"] for chunk in found]


def test_a_harmless_constructor_is_no_error() -> None:
    """Only what a parser would refuse is refused."""
    call = ToolCall(0, '{"constructor": "prototype"}', "c-1", "f")
    assert "tool-input-available" in kinds(sent(UIMessages().start(), call, Done()))


def test_open_calls_are_bounded() -> None:
    """A model that begins calls without end has the oldest of them ended."""
    encoder = UIMessages().start()
    data = sent(encoder, *[ToolCall(n, "{}", f"c-{n}", "f") for n in range(1000)])
    assert kinds(data).count("tool-input-available") == 1000 - 128


def test_empty_pieces_of_a_call_are_not_kept() -> None:
    """They count for nothing in the bound, so there may be any number of them."""
    call = Call("c-1", "f", None)
    for piece in ("", "{", "", "}", ""):
        call.add(piece)
    assert (call.arguments, call.input()) == (["{", "}"], b"{}")


def test_the_room_for_arguments_is_free_again() -> None:
    """What a turn's calls took is not counted in the next."""
    encoder = UIMessages().start()
    text = '"' + "x" * 2**19 + '"'
    for n in range(4):
        data = sent(encoder, ToolCall(0, text, f"c-{n}", "f"), Done())
        assert kinds(data)[-2] == "tool-input-available"


def test_a_gap_is_a_part_and_the_text_after_it_another() -> None:
    """The place of the hole is seen; what was open is ended only by what comes next."""
    encoder = UIMessages().start()
    sent(encoder, "Hel")
    assert chunks(gap(encoder)) == [
        {"type": "data-gap", "data": {"missed": 1, "after": None, "before": None}}
    ]
    assert kinds(sent(encoder, "lo")) == ["text-end", "text-start", "text-delta"]


def test_a_call_with_a_hole_in_it_is_an_error() -> None:
    """Its arguments may be JSON all the same, and then they would be others."""
    encoder = UIMessages().start()
    sent(encoder, ToolCall(0, '"a', "c-1", "f"))
    gap(encoder)
    data = sent(encoder, ToolCall(0, 'c"'), Done())
    (error,) = [chunk for chunk in chunks(data) if chunk["type"] == "tool-input-error"]
    assert "missing" in error["errorText"]


def test_endings() -> None:
    """Whole, stopped, failed and broken off are told apart; only the first two end what is open."""
    endings = [
        ("end", {"reason": "completed"}, ["text-end", "finish-step", "finish"]),
        ("end", {"reason": "stopped"}, ["text-end", "finish-step", "abort"]),
        ("failed", {"code": "quota", "message": "No more."}, ["error"]),
        ("reconnect", {"reason": "shutdown"}, ["error"]),
    ]
    for name, body, expected in endings:
        encoder = UIMessages().start()
        sent(encoder, "x")
        data = encoder.control(name, body)
        assert kinds(data) == expected
        assert data.endswith(b"data: [DONE]\n\n")
    assert chunks(UIMessages().start().control("failed", {"code": "x", "message": "No."})) == [
        {"type": "error", "errorText": "No."}
    ]


def test_a_call_is_not_made_by_being_stopped() -> None:
    """Arguments that happen to be whole when the answer is stopped are not said to be."""
    encoder = UIMessages().start()
    sent(encoder, ToolCall(0, "{}", "c-1", "f"))
    assert "tool-input-error" in kinds(end(encoder, "stopped"))


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("length", "length"),
        ("tool_calls", "tool-calls"),
        ("content_filter", "content-filter"),
        ("other", "other"),
    ],
)
def test_finish_reasons_and_usage(given: Any, written: str) -> None:
    """The last reason is written as the AI SDK calls it, and the usage is metadata."""
    encoder = UIMessages().start()
    sent(encoder, Usage(1, 2), Done("stop"), Usage(10, 20), Done(given))
    usage = {"inputTokens": 11, "outputTokens": 22, "totalTokens": 33}
    metadata = {"usage": usage}
    assert chunks(end(encoder)) == [
        {"type": "finish", "finishReason": written, "messageMetadata": metadata}
    ]


def test_parts_of_the_apps_own() -> None:
    """An event with a type is a data part, its key the part's id; line breaks don't break it."""
    data = sent(
        UIMessages().start(),
        Event({"rain": True}, type="weather", key="zh"),
        Event("text", type="data-note"),
        Event(msgspec.Raw(b'{"a":\r\n1}'), type="raw"),
    )
    assert chunks(data) == [
        {"type": "data-weather", "data": {"rain": True}, "id": "zh"},
        {"type": "data-note", "data": "text"},
        {"type": "data-raw", "data": {"a": 1}},
    ]


def test_chunks_that_stand_for_themselves() -> None:
    """They go as they are; the result of a call comes behind all of its arguments."""
    encoder = UIMessages().start()
    source = {"type": "source-url", "sourceId": "s", "url": "https://example.org"}
    output = {"output": 1, "toolCallId": "c-1", "type": "tool-output-available"}
    data = sent(encoder, ToolCall(0, "{}", "c-1", "f"), source, output)
    assert kinds(data)[3:] == ["source-url", "tool-input-available", "tool-output-available"]
    assert source in chunks(data)
    assert output in chunks(data)


@pytest.mark.parametrize("item", [5, {"type": "text-start", "id": "1"}, {"type": ["x"]}, {}])
def test_what_it_cannot_carry_is_refused(item: Any) -> None:
    """Also the chunks that it writes itself; the error says how to send a part of one's own."""
    with pytest.raises(TypeError, match=r'Event\(value, type="weather"\)'):
        UIMessages().encode(item)


def test_an_event_of_a_model_is_one_in_any_envelope() -> None:
    """A type beside it changes nothing: a run gives its events whatever envelope it has."""
    data = sent(UIMessages().start(), Event(Token("x"), id="e.1", type="token", key="k"))
    assert kinds(data) == ["start-step", "text-start", "text-delta"]


def test_controls_can_be_renamed() -> None:
    """An app that has a `data-gap` of its own gives flowstream's another name."""
    encoder = UIMessages(names={"gap": "lost", "snapshot": "state"}).start()
    assert kinds(gap(encoder)) == ["data-lost"]
    warning = chunks(encoder.control("warning", {"buffered": 8, "limit": 10}))
    assert warning == [
        {"type": "data-warning", "data": {"buffered": 8, "limit": 10}, "transient": True}
    ]
    snapshot = encoder.join([encoder.control("snapshot", {"a": 1}, id="e.1")])
    assert chunks(snapshot) == [{"type": "data-state", "data": {"a": 1}}]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"message_id": 5}, TypeError),
        ({"message_id": "a\nb"}, ValueError),
        ({"names": {"nothing": "x"}}, ValueError),
    ],
)
def test_wrong_arguments(arguments: Any, error: Any) -> None:
    """They are found where they are given."""
    with pytest.raises(error):
        UIMessages(**arguments)


def test_it_is_a_value() -> None:
    """Streams of different messages share what they encode, but not under different names."""
    one, same, other = UIMessages(), UIMessages(), UIMessages(message_id="m")
    assert one == same != other
    assert len({one, same, other}) == 2
    assert one != "a"
    assert repr(other) == "UIMessages(message_id='m')"
    assert one.start() == other.start()
    assert one.start() != UIMessages(names={"gap": "lost"}).start()


async def test_a_send_that_was_given_up_leaves_no_hole(autojump_clock: MockClock) -> None:
    """A token that a producer did not wait for takes nothing with it that the next one needs."""

    async def answer(out: Any) -> None:
        for note in ("on its way", "in the buffer"):
            await out.send(Event(note, type="note"))
        for word in ("never ", "sent "):
            with trio.move_on_after(1):
                await out.send(word)
        await trio.sleep(10)
        await out.send("but this")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await stream(answer, encoder=UIMessages(), buffer=1)(scope, receive, send)

    async with open_stream(app, window=0) as client:
        await trio.sleep(5)
        client.resume()
        body = await client.read_all()
    assert kinds(body) == [
        *("start", "data-note", "data-note", "start-step", "text-start", "text-delta", "text-end"),
        *("finish-step", "finish"),
    ]
    assert b'"delta":"but this"' in body
