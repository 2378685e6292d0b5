"""The `openai` SDK as the client of an endpoint, over real sockets."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import httpx2
import openai
import pytest
import trio
from _deliveries import Delivery, deliveries
from hypothesis import given, settings
from openai.types.chat import ChatCompletionChunk

from flowstream import CloseReason, DropOldest, Event, Limits, PublicError, stream
from flowstream.decoders import SSEDecoder
from flowstream.encoders import OpenAIChunks
from flowstream.llm import Done, Reasoning, Token, ToolCall, Usage
from flowstream.sources._relay import Relay
from flowstream.sources.llm.openai import openai_tokens

# The SDK leaves its inner generators to the garbage collector at [DONE], and so does httpx2.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator '(http|openai):ResourceWarning")

MESSAGES = [{"role": "user", "content": "hello"}]


@settings(max_examples=100, deadline=None)
@given(deliveries(OpenAIChunks("tiny", include_usage=True)))
def test_whatever_is_delivered_is_read(delivery: Delivery):
    """Any sequence, with holes and in any ending, is chunks of the SDK's schema, and the text."""
    *events, done = [event.data for event in SSEDecoder().feed(delivery.body)]
    assert done == "[DONE]"
    bodies = [json.loads(event) for event in events]
    errors = [body["error"]["code"] for body in bodies if "error" in body]
    assert ("gap" in errors) == delivery.gap
    whole = delivery.ending in ("completed", "stopped")
    assert any(code != "gap" for code in errors) != whole
    for choice in [choice for body in bodies for choice in body.get("choices", ())]:
        for call in choice["delta"].get("tool_calls", ()):
            if call.get("type") == "custom":  # the API streams it, its schema knows only functions
                del call["type"]
    chunks = [ChatCompletionChunk.model_validate(body) for body in bodies if "error" not in body]
    assert len({(chunk.id, chunk.created) for chunk in chunks}) <= 1
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert [delta.role for delta in deltas] == ["assistant", *[None] * (len(deltas) - 1)][
        : len(deltas)
    ]
    assert "".join(delta.content or "" for delta in deltas) == delivery.text
    reasoning = [(delta.model_extra or {}).get("reasoning_content") or "" for delta in deltas]
    assert "".join(reasoning) == delivery.reasoning
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert sum(reason is not None for reason in reasons) == whole


@pytest.fixture
async def client(server):
    """Serve a source at /v1/chat/completions: ``client(source)`` is the SDK and the reports."""
    clients = []

    async def start(source, *, include_usage=False, **options):
        reports = []

        async def app(scope, receive, send):
            if scope["type"] == "http":
                assert (scope["method"], scope["path"]) == ("POST", "/v1/chat/completions")
                encoder = OpenAIChunks("tiny", include_usage=include_usage)
                response = stream(source, encoder=encoder, on_close=reports.append, **options)
                await response(scope, receive, send)

        url = await server(app)
        sdk = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="key", max_retries=0)
        clients.append(sdk)
        return sdk, reports

    yield start
    for sdk in clients:
        await sdk.close()


async def ask(sdk, **options):
    """Return what the SDK makes of an answer: its chunks, and the error that ended them."""
    chunks = []
    try:
        async with await sdk.chat.completions.create(
            model="tiny", messages=MESSAGES, stream=True, **options
        ) as answer:
            async for chunk in answer:
                chunks.append(chunk)  # noqa: PERF401  # they are kept when an error follows
    except openai.APIError as error:
        return chunks, error
    return chunks, None


def text_of(chunks):
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def reasons_of(chunks):
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    return [reason for reason in reasons if reason is not None]


async def test_an_answer(client, clean_log, aeventually):
    """Text of any script comes piece by piece, under one id, to a finish reason."""

    async def answer():
        for word in ("Grüezi ", "\r\n", "世界 ", "😀"):
            yield Token(word)
        yield Done("length")

    sdk, reports = await client(answer)
    chunks, error = await ask(sdk)
    assert error is None
    assert text_of(chunks) == "Grüezi \r\n世界 😀"
    assert len(chunks) == 6
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.model for chunk in chunks} == {"tiny"}
    assert chunks[0].choices[0].delta.role == "assistant"
    assert reasons_of(chunks) == ["length"]
    assert all(chunk.usage is None for chunk in chunks)
    await aeventually(lambda: reports, "the report")
    assert [report.reason for report in reports] == [CloseReason.COMPLETED]


async def test_usage_comes_last_if_it_is_wanted(client, clean_log):
    """The last chunk has no choice and the tokens of all turns together."""
    turn = [Token("x"), Usage(3, 4), Done("tool_calls")]
    sdk, _ = await client([*turn, *turn[:2], Done()], include_usage=True)
    chunks, _ = await ask(sdk, stream_options={"include_usage": True})
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    usage = chunks[-1].usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (6, 8, 14)
    assert reasons_of(chunks) == ["stop"]


async def test_usage_that_is_not_given_is_not_made_up(client, clean_log):
    """A source without usage has no chunk with one, wanted or not."""
    sdk, _ = await client(["x"], include_usage=True)
    chunks, _ = await ask(sdk)
    assert all(chunk.usage is None for chunk in chunks)
    assert reasons_of(chunks) == ["stop"]


async def test_the_sdk_puts_calls_and_reasoning_together(client, clean_log):
    """Pieces of two calls come out as two calls; reasoning where most such servers have it."""

    async def answer():
        yield Reasoning("hm")
        yield ToolCall(0, "", id="call-0", name="weather")
        yield ToolCall(1, '{"q":', id="call-1", name="search")
        yield {"type": "tool_call", "index": 0, "arguments": '{"city": "Zürich"}'}
        yield ToolCall(1, "1}")
        yield Done("tool_calls")

    sdk, _ = await client(answer)
    async with sdk.chat.completions.stream(model="tiny", messages=MESSAGES) as answered:
        completion = await answered.get_final_completion()
    choice = completion.choices[0]
    assert choice.finish_reason == "tool_calls"
    calls = [(call.id, call.type, call.function) for call in choice.message.tool_calls]
    assert [(id, kind, made.name, json.loads(made.arguments)) for id, kind, made in calls] == [
        ("call-0", "function", "weather", {"city": "Zürich"}),
        ("call-1", "function", "search", {"q": 1}),
    ]
    assert choice.message.model_extra["reasoning_content"] == "hm"


async def test_an_empty_answer(client, clean_log):
    """A model that says nothing makes an empty message, and no error."""
    sdk, _ = await client([])
    chunks, error = await ask(sdk)
    assert (text_of(chunks), error, reasons_of(chunks)) == ("", None, ["stop"])


async def test_a_long_answer(client, clean_log):
    """Five thousand tokens come through a small buffer as they were sent."""
    words = [f"wörd-{n} " for n in range(5000)]
    sdk, _ = await client(words, buffer=16)
    chunks, error = await ask(sdk)
    assert (text_of(chunks), error) == ("".join(words), None)


async def test_a_failure_in_the_middle_raises(client, aeventually):
    """The SDK gives what came, then raises with the public code and message."""

    async def answer():
        yield "Hel"
        raise PublicError("quota_exceeded", "Your quota is used up.")

    sdk, reports = await client(answer)
    chunks, error = await ask(sdk)
    assert text_of(chunks) == "Hel"
    assert type(error) is openai.APIError
    assert (error.message, error.code) == ("Your quota is used up.", "quota_exceeded")
    await aeventually(lambda: reports, "the report")
    assert [report.reason for report in reports] == [CloseReason.ERROR]


async def test_a_failure_of_ours_says_nothing_of_itself(client):
    """What is no public error reaches the client as "internal"."""

    async def answer():
        yield "Hel"
        raise ValueError("secret")

    sdk, _ = await client(answer)
    _, error = await ask(sdk)
    assert error.code == "internal"
    assert "secret" not in str(error.body)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, openai.AuthenticationError),
        (429, openai.RateLimitError),
        (503, openai.InternalServerError),
    ],
)
async def test_a_failure_before_the_first_token_is_a_status(client, status, kind):
    """A primed stream that fails at once raises what the SDK has for that status."""

    async def answer(out):
        raise PublicError("refused", "Not today.", status=status)

    sdk, _ = await client(answer, prime=1.0)
    chunks, error = await ask(sdk)
    assert (chunks, type(error), error.code) == ([], kind, "refused")
    assert "Not today." in str(error)


async def test_a_client_that_leaves_frees_the_producer(client, aeventually, clean_log):
    """Leaving the SDK's stream cancels the model, also in the middle of a thought."""
    ended = trio.Event()

    async def answer():
        try:
            yield "Hel"
            await trio.sleep_forever()
        finally:
            ended.set()

    sdk, reports = await client(answer)
    async with await sdk.chat.completions.create(
        model="tiny", messages=MESSAGES, stream=True
    ) as answered:
        async for chunk in answered:
            if chunk.choices[0].delta.content:
                break
    with trio.fail_after(10):
        await ended.wait()
    await aeventually(lambda: reports, "the report")
    assert [report.reason for report in reports] == [CloseReason.CLIENT_DISCONNECTED]


async def test_a_client_that_is_cancelled_frees_the_producer(client, aeventually, clean_log):
    """So does cancelling the task that waits for the next token."""

    async def answer():
        yield "Hel"
        await trio.sleep_forever()

    sdk, reports = await client(answer)
    with trio.move_on_after(10) as scope:
        async with await sdk.chat.completions.create(
            model="tiny", messages=MESSAGES, stream=True
        ) as answered:
            async for chunk in answered:
                if chunk.choices[0].delta.content:
                    scope.cancel()
    await aeventually(lambda: reports, "the report")
    assert [report.reason for report in reports] == [CloseReason.CLIENT_DISCONNECTED]


async def test_heartbeats_and_retry_are_nothing_to_the_sdk(client, clean_log):
    """Comments between the chunks, and a `retry=` for browsers, are no chunk and no error.

    The SDK takes an event without data for an answer that is not JSON.
    """

    async def answer():
        yield Event("Hel", id="e.1", retry=10)
        await trio.sleep(0.3)
        yield Event("lo", id="e.2")

    sdk, _ = await client(answer, heartbeat=0.05, retry=1000)
    chunks, error = await ask(sdk)
    assert (text_of(chunks), error) == ("Hello", None)


async def test_a_stream_that_is_cut_short_raises(client, clean_log):
    """An answer that reaches a limit of the server's is no whole answer to the SDK."""

    async def answer():
        yield "Hel"
        await trio.sleep_forever()

    sdk, _ = await client(answer, limits=Limits(max_duration=0.1))
    chunks, error = await ask(sdk)
    assert (text_of(chunks), error.code) == ("Hel", "max_duration")


async def test_tokens_that_a_policy_drops_raise(client, aeventually, clean_log):
    """A format without a word for a gap has an error for it: nothing is lost quietly."""

    async def answer(out):
        for n in range(10):
            await out.send(Token(f"<{n}>"))

    # All ten are sent before the writer has its turn.
    sdk, reports = await client(answer, policy=DropOldest(), buffer=2)
    _, error = await ask(sdk)
    assert error.code == "gap"
    await aeventually(lambda: reports, "the report")
    assert reports[0].dropped > 0


async def test_the_sync_sdk(client, clean_log):
    """The SDK without async, in a thread, reads the same."""
    sdk, _ = await client(["Hel", "lo", Done()])

    def ask_in_a_thread():
        with (
            openai.OpenAI(base_url=sdk.base_url, api_key="key", max_retries=0) as sync,
            sync.chat.completions.create(model="tiny", messages=MESSAGES, stream=True) as answer,
        ):
            return text_of(list(answer))

    assert await trio.to_thread.run_sync(ask_in_a_thread) == "Hello"


async def test_a_connection_is_used_again(server, clean_log):
    """A whole answer leaves the connection to the next request."""
    ports = []

    async def app(scope, receive, send):
        if scope["type"] == "http":
            ports.append(scope["client"][1])
            await stream(["Hello"], encoder=OpenAIChunks("tiny"))(scope, receive, send)

    async with openai.AsyncOpenAI(
        base_url=f"{await server(app)}/v1", api_key="key", http_client=httpx2.AsyncClient()
    ) as sdk:
        for _ in range(3):
            assert text_of((await ask(sdk))[0]) == "Hello"
    assert len(set(ports)) == 1


async def test_an_endpoint_is_an_upstream(client, clean_log):
    """What is served is what `openai_tokens` reads: the same events come out of a second server."""
    given = [
        Reasoning("hm"),
        Token("Hel"),
        Token("lo"),
        ToolCall(0, "", "call-1", "weather"),
        ToolCall(0, '{"city": "Zürich"}'),
        Usage(3, 4),
        Done("tool_calls"),
    ]
    upstream, _ = await client(given, include_usage=True)
    got = []

    async def passed_on(out):
        async def take(item):
            got.append(item)
            await out.send(item)

        answer = openai_tokens(upstream, model="tiny", messages=MESSAGES)
        await answer.run(Relay(take, out.statistics))

    sdk, _ = await client(passed_on)
    chunks, error = await ask(sdk)
    assert (text_of(chunks), error) == ("Hello", None)
    assert got == given


async def test_the_example(server, clean_log):
    """The SDK reads the example's answers, and has its 404 and its 400 for errors."""
    (path,) = (Path(__file__).parents[3] / "examples").glob("14_*.py")
    module = runpy.run_path(str(path))
    url = await server(module["app"])
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as sdk:
        assert [model.id async for model in sdk.models.list()] == ["pydoc"]
        question = [{"role": "user", "content": "pass"}]
        async with await sdk.chat.completions.create(
            model="pydoc",
            messages=question,
            max_completion_tokens=5,
            stream_options={"include_usage": True},
            stream=True,
        ) as answer:
            chunks = [chunk async for chunk in answer]
        assert text_of(chunks) == " ".join(module["topics"]["pass"].split(" ")[:5]) + " "
        assert reasons_of(chunks) == ["length"]
        assert chunks[-1].usage.completion_tokens == 5
        with pytest.raises(openai.NotFoundError, match="No help on that"):
            await sdk.chat.completions.create(model="pydoc", messages=MESSAGES, stream=True)
        with pytest.raises(openai.BadRequestError, match="only with stream=True"):
            await sdk.chat.completions.create(model="pydoc", messages=question)
