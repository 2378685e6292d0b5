"""AG-UI's own client as the client: its parser, its checks of the grammar, and its messages."""

from __future__ import annotations

import pytest
import trio
from _deliveries import Delivery, deliveries
from hypothesis import HealthCheck, given, settings

from flowstream import CloseReason, Event, stream
from flowstream.encoders import AGUI
from flowstream.llm import Done, Reasoning, Token, ToolCall, Usage

# The process that reads is the same for all examples, and remembers nothing of them.
SHARED = [HealthCheck.function_scoped_fixture]


def joined(events: list[dict], kind: str) -> str:
    return "".join(event["delta"] for event in events if event["type"] == kind)


@settings(suppress_health_check=SHARED, max_examples=100, deadline=None)
@given(delivery=deliveries(AGUI()))
def test_whatever_is_delivered_is_read(reader, delivery: Delivery):
    """Any sequence, with holes in it and in any ending, is a run with the text that was sent."""
    read = reader.run("return await runAgent('http://x/', body)", body=delivery.body.decode())
    assert read["failure"] is None
    events = read["events"]
    kinds = [event["type"] for event in events]
    assert kinds[0] == "RUN_STARTED"
    if delivery.ending not in ("completed", "stopped"):
        assert kinds[-1] == "RUN_ERROR"
    elif kinds[-1] != "RUN_FINISHED":
        assert events[-1]["code"] in ("gap", "stopped")  # a call that is not whole
    assert ("CUSTOM", "gap") in [(e["type"], e.get("name")) for e in events] or not delivery.gap
    assert joined(events, "TEXT_MESSAGE_CONTENT") == delivery.text
    assert joined(events, "REASONING_MESSAGE_CONTENT") == delivery.reasoning


RUN = "return await runAgent(url)"


@pytest.fixture
def serve_agent(server):
    """Serve a source as an agent; return the url and the reports of its streams."""

    async def start(source, **options):
        reports = []

        async def app(scope, receive, send):
            if scope["type"] == "http":
                encoder = AGUI(thread_id="thread-1", run_id="run-1")
                response = stream(source, encoder=encoder, on_close=reports.append, **options)
                await response(scope, receive, send)

        return await server(app), reports

    return start


async def test_an_answer_of_two_turns(serve_agent, reader, clean_log):
    """Text, reasoning, a call and its result, an app's own event and the usage all arrive."""

    async def answer():
        yield Reasoning("a city… ")
        yield Reasoning("🌦")
        yield Token("I'll look. ")
        yield ToolCall(0, '{"city":', id="call-1", name="weather")
        yield ToolCall(0, ' "Zürich"}')
        yield Usage(10, 5)
        yield Done("tool_calls")
        result = {"messageId": "m-1", "toolCallId": "call-1", "content": "rain"}
        yield {"type": "TOOL_CALL_RESULT", **result}
        yield Event({"rain": True}, type="weather")
        yield {"type": "token", "data": "It rains."}
        yield {"type": "usage", "input_tokens": 20, "output_tokens": 3}
        yield {"type": "done", "reason": "length"}

    url, reports = await serve_agent(answer)
    read = await reader.arun(RUN, url=url)
    assert (read["status"], read["failure"]) == (200, None)
    last = read["events"][-1]
    assert last["type"] == "RUN_FINISHED"
    assert (last["threadId"], last["runId"]) == ("thread-1", "run-1")
    assert last["usage"] == [{"inputTokens": 30, "outputTokens": 8, "totalTokens": 38}]
    assert last["metadata"] == {"finishReason": "length"}
    custom = [event for event in read["events"] if event["type"] == "CUSTOM"]
    assert [(event["name"], event["value"]) for event in custom] == [("weather", {"rain": True})]
    reasoning, called, result, text = read["messages"]
    assert (reasoning["role"], reasoning["content"]) == ("reasoning", "a city… 🌦")
    assert (called["role"], called["content"]) == ("assistant", "I'll look. ")
    function = called["toolCalls"][0]["function"]
    assert function == {"name": "weather", "arguments": '{"city": "Zürich"}'}
    assert (result["role"], result["content"]) == ("tool", "rain")
    assert (text["role"], text["content"]) == ("assistant", "It rains.")
    assert [report.reason for report in reports] == [CloseReason.COMPLETED]


async def test_a_failure_is_a_run_error(serve_agent, reader):
    """What fails in the middle of a message ends the run with an error, and no internals."""

    async def answer():
        yield "Hel"
        raise ValueError("secret")

    url, _ = await serve_agent(answer)
    read = await reader.arun(RUN, url=url)
    assert joined(read["events"], "TEXT_MESSAGE_CONTENT") == "Hel"
    last = read["events"][-1]
    assert (last["type"], last["code"]) == ("RUN_ERROR", "internal")
    assert "secret" not in str(read)


async def test_an_abort_frees_the_producer(serve_agent, reader, aeventually):
    """A client that aborts its run cancels the model's."""
    ended = trio.Event()

    async def answer():
        try:
            while True:
                yield "more "
                await trio.sleep(0.001)
        finally:
            ended.set()

    url, reports = await serve_agent(answer)
    await reader.arun(
        """
        const agent = new HttpAgent({ url, threadId: "thread-1" });
        const onTextMessageContentEvent = () => agent.abortRun();
        await agent.runAgent({ runId: "run-1" }, { onTextMessageContentEvent }).catch(() => {});
        """,
        url=url,
    )
    with trio.fail_after(10):
        await ended.wait()
    await aeventually(lambda: reports, "the report")
    assert [report.reason for report in reports] == [CloseReason.CLIENT_DISCONNECTED]
