"""A chat whose answer is a run: reloaded pages, a stop, and what one event costs many clients."""

from __future__ import annotations

import json

import pytest
import trio

from flowstream import PublicError, Replay, Runs, stream
from flowstream.decoders import SSEDecoder
from flowstream.encoders import AGUI, OpenAIChunks, UIMessages
from flowstream.llm import Done, Token
from flowstream.quart import Flowstream
from flowstream.testing import collect, open_stream


@pytest.fixture
async def flow():
    """What runs are run in, outside an app."""
    async with Flowstream() as flow:
        yield flow


def attached(run, encoder):
    async def app(scope, receive, send):
        if scope["type"] == "http":
            await stream(run, encoder=encoder)(scope, receive, send)

    return app


def text(body, encoder):
    """Return the text in what a client got, as its format has it."""
    bodies = [json.loads(e.data) for e in SSEDecoder().feed(body) if e.data != "[DONE]"]
    if isinstance(encoder, OpenAIChunks):
        choices = [choice for body in bodies for choice in body["choices"]]
        return "".join(choice["delta"].get("content", "") for choice in choices)
    return "".join(
        b["delta"] for b in bodies if b["type"] in ("text-delta", "TEXT_MESSAGE_CONTENT")
    )


@pytest.mark.parametrize("make", [UIMessages, AGUI, lambda: OpenAIChunks("tiny")])
async def test_whenever_a_client_comes_it_gets_all(autojump_clock, flow, make):
    """Clients of one run, at its beginning, in its middle and after its end, get the same text."""
    runs = Runs()

    async def answer():
        for n in range(10):
            yield Token(f"<{n}>")
            await trio.sleep(1)
        yield Done()

    run = runs.start("chat", answer)
    bodies = []

    async def attach(after):
        await trio.sleep(after)
        bodies.append((await collect(attached(run, make()))).body)

    async with trio.open_nursery() as nursery:
        for after in (0, 0.5, 4.5, 4.5, 11, 20):
            nursery.start_soon(attach, after)
    whole = "".join(f"<{n}>" for n in range(10))
    assert [text(body, make()) for body in bodies] == [whole] * 6


async def test_clients_of_a_run_share_what_is_encoded(autojump_clock, flow, monkeypatch):
    """An event is encoded once for all of them, though each has ids and a state of its own."""
    encoded = []
    encode = UIMessages.encode
    monkeypatch.setattr(
        UIMessages, "encode", lambda self, data, **how: encoded.append(data) or encode(self, data)
    )

    async def answer():
        await trio.sleep(1)
        for n in range(10):
            yield str(n)
            await trio.sleep(1)

    run = Runs().start("chat", answer)
    async with trio.open_nursery() as nursery:
        for n in range(5):
            nursery.start_soon(collect, attached(run, UIMessages(message_id=f"m-{n}")))
    assert len(encoded) == 10


async def test_what_the_replay_no_longer_has_is_a_gap(autojump_clock, flow):
    """A client that comes too late for the beginning is told so, and gets the rest."""
    runs = Runs(replay=Replay(items=3))
    run = runs.start("chat", [str(n) for n in range(10)])
    await trio.sleep(1)
    body = (await collect(attached(run, UIMessages()))).body
    bodies = [json.loads(e.data) for e in SSEDecoder().feed(body) if e.data != "[DONE]"]
    assert [b["type"] for b in bodies] == [
        *("start", "data-gap", "start-step", "text-start", *["text-delta"] * 3, "text-end"),
        *("finish-step", "finish"),
    ]
    assert bodies[1]["data"]["missed"] == 7
    assert text(body, UIMessages()) == "789"


async def test_a_run_that_fails_fails_for_all(autojump_clock, flow):
    """Who comes after the failure gets the text and the error, as who was there."""

    async def answer():
        yield "Hel"
        await trio.sleep(1)
        raise PublicError("quota_exceeded", "Your quota is used up.")

    run = Runs().start("chat", answer)
    async with open_stream(attached(run, UIMessages())) as client:
        during = await client.read_all()
    after = (await collect(attached(run, UIMessages()))).body
    for body in (during, after):
        assert text(body, UIMessages()) == "Hel"
        assert b'{"type":"error","errorText":"Your quota is used up."}' in body


async def test_a_chat_is_reloaded_and_stopped(server, reader, flow, clean_log):
    """The AI SDK's chat leaves in mid-answer, resumes it with all there was, and has it stopped."""
    runs = Runs()
    ended = trio.Event()

    async def answer():
        try:
            for n in range(10**9):
                yield Token(f"<{n}>")
                await trio.sleep(0.002)
        finally:
            ended.set()

    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        if scope["method"] == "DELETE":
            await runs.stop("chat-1")
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        run = runs.start("chat-1", answer) if scope["method"] == "POST" else runs["chat-1"]
        await attached(run, UIMessages(message_id="answer-1"))(scope, receive, send)

    url = await server(app)
    pages = await reader.arun(
        """
        const first = openChat(url);
        const sending = first.chat.sendMessage({ text: "count" });
        await until(() => textOf(first.answer()).includes("<9>"));
        await first.chat.stop();  // leaves, as a page does that is reloaded
        await sending;
        const second = openChat(url);
        const resuming = second.chat.resumeStream();
        const left = textOf(first.answer()).length;
        await until(() => textOf(second.answer()).length > left + 20);
        await fetch(url, { method: "DELETE" });
        await resuming;
        return [first, second].map(({ state, seen, answer }) =>
            ({ status: state.status, text: textOf(answer()), id: answer().id }));
        """,
        url=f"{url}/api/chat",
    )
    assert ended.is_set()
    assert [page["status"] for page in pages] == ["ready", "ready"]
    assert {page["id"] for page in pages} == {"answer-1"}
    first, second = (page["text"] for page in pages)
    assert second.startswith(first)
    count = second.count("<")
    assert second == "".join(f"<{n}>" for n in range(count))
