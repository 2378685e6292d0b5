"""The `ai` package as the client: its parser, its transport, and a chat as its hooks have it."""

from __future__ import annotations

import pytest
import trio
from _deliveries import Delivery, deliveries
from hypothesis import HealthCheck, given, settings

from flowstream import CloseReason, DropOldest, Event, Limits, PublicError, stream
from flowstream.encoders import UIMessages
from flowstream.llm import Done, Reasoning, Token, ToolCall, Usage
from flowstream.testing import collect

# The process that reads is the same for all examples, and remembers nothing of them.
SHARED = [HealthCheck.function_scoped_fixture]


def parts(message, kind):
    return "".join(part["text"] for part in message["parts"] if part["type"] == kind)


@settings(suppress_health_check=SHARED, max_examples=100, deadline=None)
@given(delivery=deliveries(UIMessages()))
def test_whatever_is_delivered_is_read(reader, delivery: Delivery):
    """Any sequence, with holes and in any ending, is a message with the text that was sent."""
    read = reader.run("return await readMessage(body)", body=delivery.body.decode())
    assert read["failure"] is None
    whole = delivery.ending in ("completed", "stopped")
    assert read["errors"] == ([] if whole else [read["chunks"][-1]["errorText"]])
    kinds = [chunk["type"] for chunk in read["chunks"]]
    last = {"completed": "finish", "stopped": "abort"}.get(delivery.ending, "error")
    assert (kinds[0], kinds[-1]) == ("start", last)
    assert ("data-gap" in kinds) == delivery.gap
    message = read["message"] or {"parts": []}
    assert parts(message, "text") == delivery.text
    assert parts(message, "reasoning") == delivery.reasoning
    if whole:
        assert not any("streaming" in part.get("state", "") for part in message["parts"])


@pytest.fixture
def serve_chat(server):
    """Serve a source as a chat's API; return the url and the reports of its streams."""

    async def start(source, *, resumed=None, **options):
        reports = []

        async def app(scope, receive, send):
            if scope["type"] != "http":
                return
            resuming = scope["path"].endswith("/chat-1/stream") and scope["method"] == "GET"
            if resuming and resumed is None:
                await send({"type": "http.response.start", "status": 204, "headers": []})
                await send({"type": "http.response.body", "body": b""})
                return
            encoder = UIMessages(message_id="answer-1")
            response = stream(
                resumed if resuming else source,
                encoder=encoder,
                on_close=reports.append,
                **options,
            )
            await response(scope, receive, send)

        return f"{await server(app)}/api/chat", reports

    return start


CHAT = """
    const { chat, state, seen, answer } = openChat(url);
    await chat.sendMessage({ text: "hello" });
    return { ...seen, status: state.status, http: seen.status, error: state.error?.message,
             message: answer(), wanted: ai.UI_MESSAGE_STREAM_HEADERS };
"""


async def test_an_answer_of_two_turns(serve_chat, reader, clean_log):
    """A chat shows text, reasoning, a call and its result, an app's own part, and the usage."""

    async def answer():
        yield Reasoning("a city… ")
        yield Token("I'll look. ")
        yield ToolCall(0, '{"city":\n', id="call-1", name="weather")
        yield ToolCall(0, ' "Zürich", "big": 12345678901234567}')
        yield Usage(10, 5)
        yield Done("tool_calls")
        yield {"output": "rain", "type": "tool-output-available", "toolCallId": "call-1"}
        yield Event({"at": 1}, type="progress", key="p")
        yield Event({"at": 2}, type="progress", key="p")
        yield {"type": "token", "data": "It "}
        yield "rains. 🌦"
        yield {"type": "usage", "input_tokens": 20, "output_tokens": 3}
        yield {"type": "done"}

    url, reports = await serve_chat(answer)
    chat = await reader.arun(CHAT, url=url)
    assert (chat["status"], chat["http"], chat.get("error")) == ("ready", 200, None)
    assert chat["finished"]["finishReason"] == "stop"
    header = "x-vercel-ai-ui-message-stream"
    assert chat["headers"][header] == chat["wanted"][header]
    assert chat["headers"]["content-type"].startswith(chat["wanted"]["content-type"])
    message = chat["message"]
    assert message["id"] == "answer-1"
    usage = {"inputTokens": 30, "outputTokens": 8, "totalTokens": 38}
    assert message["metadata"] == {"usage": usage}
    step, reasoning, text, call, data, again, last = message["parts"]
    assert step["type"] == again["type"] == "step-start"
    assert (reasoning["type"], reasoning["text"]) == ("reasoning", "a city… ")
    assert (text["text"], text["state"]) == ("I'll look. ", "done")
    assert (call["type"], call["state"], call["output"]) == (
        "tool-weather",
        "output-available",
        "rain",
    )
    assert call["input"]["city"] == "Zürich"
    assert [made["toolCallId"] for made in chat["calls"]] == ["call-1"]
    assert (data["type"], data["data"]) == ("data-progress", {"at": 2})
    assert (last["text"], last["state"]) == ("It rains. 🌦", "done")
    assert [report.reason for report in reports] == [CloseReason.COMPLETED]


async def test_an_empty_answer(serve_chat, reader, clean_log):
    """A model that says nothing leaves an empty message and a chat that is ready."""
    url, _ = await serve_chat([])
    chat = await reader.arun(CHAT, url=url)
    assert (chat["status"], chat["message"]["parts"]) == ("ready", [])


async def test_a_long_answer(serve_chat, reader, clean_log):
    """Five thousand tokens come out as they were sent."""
    words = [f"wörd-{n} " for n in range(5000)]
    url, _ = await serve_chat(words, buffer=16)
    script = "const m = (await readMessage((await fetch(url)).body)).message; return textOf(m)"
    assert await reader.arun(script, url=url) == "".join(words)


async def test_a_failure_in_the_middle_is_an_error(serve_chat, reader):
    """What was said stays, and the chat has the public message for its error."""

    async def answer():
        yield "Hel"
        raise PublicError("quota_exceeded", "Your quota is used up.")

    url, _ = await serve_chat(answer)
    chat = await reader.arun(CHAT, url=url)
    assert (chat["status"], chat["error"]) == ("error", "Your quota is used up.")
    assert parts(chat["message"], "text") == "Hel"


async def test_a_failure_before_the_first_token_is_a_status(serve_chat, reader):
    """A primed stream that fails at once is no 200, and the chat has what the answer said."""

    async def answer(out):
        raise PublicError("quota_exceeded", "Your quota is used up.", status=429)

    url, _ = await serve_chat(answer, prime=1.0)
    chat = await reader.arun(CHAT, url=url)
    assert (chat["status"], chat["http"]) == ("error", 429)
    assert "Your quota is used up." in chat["error"]


async def test_a_chat_that_is_stopped_frees_the_producer(serve_chat, reader, aeventually):
    """The stop button of a chat without a run is a disconnect: the model is cancelled."""
    ended = trio.Event()

    async def answer():
        try:
            while True:
                yield "more "
                await trio.sleep(0.001)
        finally:
            ended.set()

    url, reports = await serve_chat(answer)
    chat = await reader.arun(
        """
        const { chat, state, seen, answer } = openChat(url);
        const sending = chat.sendMessage({ text: "hello" });
        await until(() => textOf(answer()).length > 20);
        await chat.stop();
        await sending;
        return { status: state.status, ...seen.finished };
        """,
        url=url,
    )
    assert (chat["status"], chat["isAbort"]) == ("ready", True)
    with trio.fail_after(10):
        await ended.wait()
    await aeventually(lambda: reports, "the report")
    assert [report.reason for report in reports] == [CloseReason.CLIENT_DISCONNECTED]


async def test_a_stream_that_the_server_stops_is_an_abort(server, reader):
    """`stop()` writes an abort, and the chat is ready with what was said until then."""

    async def app(scope, receive, send):
        async def answer(out):
            await out.send("Hel")
            await out.send(ToolCall(0, "{}", id="call-1", name="weather"))
            response.stop()
            await trio.sleep_forever()

        response = stream(answer, encoder=UIMessages())
        if scope["type"] == "http":
            await response(scope, receive, send)

    url = await server(app)
    chat = await reader.arun(CHAT, url=url)
    assert (chat["status"], chat["message"]["parts"][1]["text"]) == ("ready", "Hel")
    assert chat["calls"] == []  # it was whole by chance, but nobody has said so
    read = await reader.arun("return await readMessage((await fetch(url)).body)", url=url)
    assert read["chunks"][-1] == {"type": "abort", "reason": "stopped"}


async def test_a_page_that_comes_back(serve_chat, reader, clean_log):
    """A chat that was reloaded in mid-answer has it from the beginning, under the same id."""
    url, _ = await serve_chat(["Hel"], resumed=["Hel", "lo, ", "again", Done()])
    chat = await reader.arun(
        """
        const { chat, state, seen, answer } = openChat(url);
        await chat.sendMessage({ text: "hello" });
        const before = structuredClone(answer());
        await chat.resumeStream();
        return { before, after: answer(), status: state.status, count: state.messages.length };
        """,
        url=url,
    )
    assert parts(chat["before"], "text") == "Hel"
    assert parts(chat["after"], "text") == "Hello, again"
    assert chat["before"]["id"] == chat["after"]["id"] == "answer-1"
    assert (chat["status"], chat["count"]) == ("ready", 2)


async def test_a_page_that_comes_back_to_nothing(serve_chat, reader, clean_log):
    """A 204 to the request to resume leaves the chat as it is."""
    url, _ = await serve_chat(["Hello"])
    chat = await reader.arun(
        """
        const { chat, state, seen, answer } = openChat(url);
        await chat.sendMessage({ text: "hello" });
        await chat.resumeStream();
        return { http: seen.status, status: state.status, text: textOf(answer()) };
        """,
        url=url,
    )
    assert chat == {"http": 204, "status": "ready", "text": "Hello"}


async def test_a_slow_client_under_a_dropping_policy(server, reader, clean_log):
    """Tokens that a policy drops are announced at their place, and the rest is still a message."""

    async def app(scope, receive, send):
        async def answer(out):
            for n in range(8000):
                await out.send(f"<{n}>" + "." * 500)  # more than the kernel holds
            await out.send(Event(Done(), essential=True))

        if scope["type"] == "http":
            response = stream(answer, encoder=UIMessages(), policy=DropOldest(), buffer=16)
            await response(scope, receive, send)

    read = await reader.arun(
        """
        const response = await fetch(url);
        await new Promise(resolve => setTimeout(resolve, 100));
        return await readMessage(response.body);
        """,
        url=await server(app),
    )
    assert read["failure"] is None
    chunks = read["chunks"]
    assert chunks[-1] == {"type": "finish", "finishReason": "stop"}
    missed = sum(chunk["data"]["missed"] for chunk in chunks if chunk["type"] == "data-gap")
    tokens = [chunk["delta"] for chunk in chunks if chunk["type"] == "text-delta"]
    assert missed > 0
    assert len(tokens) + missed == 8000
    assert parts(read["message"], "text") == "".join(tokens)


async def test_a_stream_that_reaches_its_limit_in_bytes(autojump_clock, reader):
    """Wherever the limit falls, what came is a message, and the rest is a gap and an error."""
    items = [Reasoning("hm"), *["word "] * 5, ToolCall(0, '{"a":1}', "c-1", "f"), *["x"] * 5]
    failures = 0
    for limit in range(60, 2000, 40):
        response = stream(items, encoder=UIMessages(), limits=Limits(max_bytes=limit))
        body = (await collect(response)).body.decode()
        read = reader.run("return await readMessage(body)", body=body)
        assert read["failure"] is None
        *chunks, last = [chunk["type"] for chunk in read["chunks"]]
        assert last in ("error", "finish")
        assert ("data-gap" in chunks) == (last == "error")
        failures += last == "error"
    assert 10 < failures < 45
