"""Which cause led to a close reason: one line of a table for each, without a server.

Those that only a server can bring about are in ``tests/server/test_close_details_served.py``.
"""

import logging
import re
from pathlib import Path

import pytest
import trio
from quart_trio import QuartTrio
from trio.testing import wait_all_tasks_blocked

from flowstream import (
    Block,
    CloseReason,
    Disconnect,
    Event,
    Limits,
    PublicError,
    Runs,
    StreamReport,
    Topic,
    Topics,
    csv,
    raw,
    sse,
)
from flowstream.asgi._carrier import STATE_KEY
from flowstream.asgi._logging import log_report
from flowstream.quart import Flowstream
from flowstream.sources import Source
from flowstream.testing import collect, open_stream

CASES = []


def cause(reason, detail):
    """Enter a function into the table: it has a stream end so, and leaves its report."""

    def enter(act):
        name = act.__name__.removeprefix("_")
        CASES.append(pytest.param(act, reason, detail, id=f"{reason}-{name}"))
        return act

    return enter


async def waits(out):
    await out.send("first")
    await trio.sleep_forever()


async def floods(out):
    while True:
        await out.send("x" * 1000)


async def first_event(source, report, act, **options):
    """Run `act` when the client of such a stream has its first event."""
    response = sse(source, on_close=report, **options)
    async with open_stream(response) as client:
        await client.next_event()
        await wait_all_tasks_blocked()
        act(response)
        await wait_all_tasks_blocked()
        client.abort()


@cause("completed", "")
async def _its_source_ends(report):
    await collect(sse([1, 2], on_close=report))


@cause("client_disconnected", "http.disconnect")
async def _told_by_the_server(report):
    async with open_stream(sse(waits, on_close=report)) as client:
        await client.next_event()
        client.abort()


@cause("client_disconnected", "send: ConnectionResetError")
async def _send_raises(report):
    async def send(message):
        if message["type"] == "http.response.body":
            raise ConnectionResetError

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    await sse(waits, on_close=report)(scope, trio.sleep_forever, send)


@cause("slow_consumer", "policy Disconnect")
async def _disconnect(report):
    async with open_stream(
        sse(floods, policy=Disconnect(), buffer=2, on_close=report), window=100
    ) as client:
        await wait_all_tasks_blocked()
        client.abort()


@cause("slow_consumer", "policy Block, timeout 2.5 s")
async def _block(report):
    async with open_stream(
        sse(floods, policy=Block(timeout=2.5), buffer=2, on_close=report), window=100
    ) as client:
        await trio.sleep(3)
        client.abort()


@cause("slow_consumer", "policy Disconnect")
async def _disconnect_from_a_topic(report):
    topic = Topic("t")
    async with open_stream(
        sse(topic, policy=Disconnect(), buffer=2, on_close=report), window=100
    ) as client:
        await wait_all_tasks_blocked()
        for number in range(10):
            await topic.publish(number)
        await wait_all_tasks_blocked()
        client.abort()


@cause("slow_consumer", "the subscription's own policy")
async def _a_subscriptions_own(report):
    topic = Topic("t")

    async def subscribes(out):
        async with topic.subscribe(policy=Disconnect(), buffer=1) as events:
            await topic.publish("first")
            await topic.publish("second")
            await topic.publish("third")
            await trio.sleep(1)
            async for event in events:
                await out.send(event)

    await collect(sse(subscribes, on_close=report))


@cause("stalled", "stall_timeout 5 s")
async def _its_own_bound(report):
    async with open_stream(
        sse(floods, limits=Limits(stall_timeout=5), on_close=report), window=100
    ) as client:
        await trio.sleep(6)
        client.abort()


@cause("stalled", "stall_timeout 5 s after max_duration")
async def _slow_at_the_end(report):
    limits = Limits(stall_timeout=5, max_duration=10)

    async def much(out):
        await out.send("x" * 200_000)
        out.send_nowait("y" * 200_000)

    async with open_stream(sse(much, limits=limits, on_close=report), window=0) as client:
        for _ in range(20):  # a steady, slow reader
            client.grant(64 * 1024)
            await trio.sleep(4)
        client.abort()


@cause("max_duration", "max_duration 10 s")
async def _long_enough(report):
    await collect(sse(waits, limits=Limits(max_duration=10), on_close=report))


@cause("max_bytes", "max_bytes 100")
async def _too_much(report):
    await collect(sse(floods, limits=Limits(max_bytes=100), on_close=report))


@cause("refused", "HEAD")
async def _head(report):
    await collect(sse(waits, on_close=report), method="HEAD")


@cause("refused", "on_reconnect='refuse'")
async def _a_reconnect(report):
    response = sse(waits, on_reconnect="refuse", on_close=report)
    await collect(response, headers={"Last-Event-ID": "1234.7"})


@cause("refused", "Last-Event-ID of an end")
async def _after_the_end(report):
    await collect(sse(waits, on_close=report), headers={"Last-Event-ID": "1234.end"})


@cause("cancelled", "")
async def _from_outside(report):
    async def app(scope, receive, send):
        with trio.move_on_after(1):
            await sse(waits, on_close=report)(scope, receive, send)

    async with open_stream(app) as client:
        await trio.sleep(2)
        client.abort()


@cause("cancelled", "never sent")
async def _replaced_by_an_error(report):
    app = QuartTrio("replaced")
    Flowstream(app)

    @app.get("/")
    async def view():
        return sse(waits, prime=1, on_close=report)

    @app.after_request
    async def fail(response):
        raise LookupError

    assert (await collect(app)).status == 500


@cause("stopped", "StreamResponse.stop()")
async def _by_the_app(report):
    await first_event(waits, report, lambda response: response.stop())


@cause("stopped", "Topics.revoke()")
async def _revoked(report):
    topics = Topics()
    async with open_stream(sse(await topics.open("one", "me"), on_close=report)) as client:
        await wait_all_tasks_blocked()
        await topics.publish("one", "x")
        await client.next_event()
        topics.revoke(lambda name, who: who == "me")
        await wait_all_tasks_blocked()
        client.abort()


@cause("stopped", "Topic.aclose()")
async def _the_topic_is_closed(report):
    topic = Topic("t")
    async with open_stream(sse(topic, on_close=report)) as client:
        await wait_all_tasks_blocked()
        await topic.publish("x")
        await client.next_event()
        await topic.aclose(CloseReason.STOPPED)
        await wait_all_tasks_blocked()
        client.abort()


@cause("stopped", "Topic.aclose()")
async def _one_of_two_topics_was_closed(report):
    one, two = Topic("one"), Topic("two")
    await one.aclose(CloseReason.STOPPED)
    async with open_stream(sse([one, two], on_close=report)) as client:
        await wait_all_tasks_blocked()
        await two.aclose()
        await wait_all_tasks_blocked()
        client.abort()


async def _run(report, source, act):
    async with Flowstream():
        run = Runs().start("r", source)
        async with open_stream(sse(run, on_close=report)) as client:
            await wait_all_tasks_blocked()
            await act(run)
            await wait_all_tasks_blocked()
            client.abort()


@cause("stopped", "Run.stop()")
async def _the_run_is_stopped(report):
    await _run(report, waits, lambda run: run.stop())


@cause("error", "run: ValueError")
async def _the_run_fails(report):
    async def fails(out):
        await out.send("first")
        await trio.sleep(1)
        raise ValueError("secret")

    await _run(report, fails, lambda run: run.wait())


@cause("shutdown", "the run ended with its app")
async def _the_run_ends_with_its_app(report):
    async def app(flow_over):
        async with Flowstream():
            run = Runs().start("r", waits)
            started.set()
            nursery.start_soon(attend, run)
            await flow_over.wait()

    async def attend(run):
        await collect(sse(run, on_close=report))

    started, over = trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(app, over)
        await started.wait()
        await wait_all_tasks_blocked()
        over.set()


async def _fails_with(report, error, *, make=sse):
    async def produce():
        yield "first"
        raise error

    await collect(make(produce, on_close=report))


@cause("error", "producer: ValueError")
async def _the_producer_fails(report):
    await _fails_with(report, ValueError("the password is 1234"))


@cause("error", "producer: ValueError")
async def _it_fails_in_a_nursery(report):
    await _fails_with(report, ExceptionGroup("unhandled", [ValueError("the password is 1234")]))


@cause("error", "producer: PublicError quota")
async def _it_fails_in_public(report):
    await _fails_with(report, PublicError("quota", "Your quota is used up."))


@cause("error", "producer: EncodingError")
async def _an_item_that_is_none(report):
    await collect(csv([object()], columns=["a"], on_close=report))


@cause("error", "producer: ValueError")
async def _a_length_that_is_wrong(report):
    class Promises(Source):
        length = 7

        async def run(self, out):
            await out.send(b"abc")

    async with open_stream(raw(Promises(), on_close=report)) as client:
        assert await client.read_all() == b"abc"


@cause("error", "topic: ZeroDivisionError")
async def _a_filter_that_fails(report):
    topic = Topic("t")
    async with open_stream(sse(topic, where=lambda event: 1 / 0, on_close=report)) as client:
        await wait_all_tasks_blocked()
        await topic.publish("x")
        await wait_all_tasks_blocked()
        client.abort()


@cause("error", "writer: ZeroDivisionError")
async def _middleware_that_fails(report):
    async def send(message):
        if message["type"] == "http.response.body":
            raise ZeroDivisionError

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    await sse(waits, on_close=report)(scope, trio.sleep_forever, send)


@pytest.mark.parametrize(("act", "reason", "detail"), CASES)
async def test_the_report_says_which(act, reason, detail, reports, logged, autojump_clock):
    """Each cause has its words in the one report and in the one line of the log."""
    await act(reports.append)
    (report,) = reports
    assert (report.reason, report.detail) == (reason, detail)
    (line,) = [text for _, text in logged(logging.INFO) if text.startswith("stream /")]
    said = f" ({detail})" if detail else ""
    assert line.startswith(f"stream / {reason}: {report.items} items, ")
    assert line.endswith(f" s{said}")


def documented():
    """Return the details that the page on close reasons names, without their numbers."""
    page = Path(__file__).parents[2] / "docs" / "reference" / "close-reasons.md"
    table = page.read_text("utf-8").partition("## The detail")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\w+) \| `([^`]+)` \|", table, re.MULTILINE)
    return {(reason, without_numbers(detail)) for reason, detail in rows}


def without_numbers(detail):
    return re.sub(r"[\d.]*\d", "N", detail)


def test_the_page_has_each():
    """Every cause of the table is in the documentation, and no other of the stream's own."""
    tried = {(case.values[1], without_numbers(case.values[2])) for case in CASES}
    assert {pair for pair in tried if pair[1]} <= documented()


def test_a_client_gets_none_of_it():
    """The detail is in no event: what a client reads of a failure is what it always was."""

    async def main():
        reports = []

        async def produce():
            yield Event("first")
            raise ValueError("the password is 1234")

        answer = await collect(sse(produce, on_close=reports.append))
        assert reports[0].detail == "producer: ValueError"
        assert b"ValueError" not in answer.body
        assert b"producer" not in answer.body

    trio.run(main)


def test_the_record_has_it(caplog):
    """The log record has the detail as an attribute, for formatters that write JSON."""
    report = StreamReport(CloseReason.STALLED, 1, 2, 0, 0, 1.0, 0.5, 0.1, None, "stall_timeout 5 s")
    log_report(report, "/a", answered_elsewhere=False)
    (record,) = caplog.records
    assert (record.reason, record.detail) == ("stalled", "stall_timeout 5 s")


def test_a_report_can_be_made_without():
    """A report that is made without a detail has an empty one."""
    assert StreamReport(CloseReason.COMPLETED, 1, 2, 0, 0, 1.0, 0.5, 0.1).detail == ""


async def test_the_first_cause_stands(reports, autojump_clock):
    """What follows from the first cause changes the detail no more than the reason."""

    class Carrier:
        reason, detail, write_timeout = None, "", 30.0
        nursery = trio.lowlevel.current_task().parent_nursery

        def attach(self, stream):
            self.stream = stream

        def detach(self, stream):
            pass

        def abort(self, reason, detail=""):
            self.reset = (reason, detail)
            self.stream.abort(CloseReason.CLIENT_DISCONNECTED, "a write failed")

        def may_bring_more(self, scope):
            return False

    carrier = Carrier()
    response = sse(floods, limits=Limits(stall_timeout=5), on_close=reports.append)
    async with open_stream(response, state={STATE_KEY: carrier}, window=100) as client:
        await trio.sleep(6)
        client.abort()
    assert carrier.reset == ("stalled", "stall_timeout 5 s")
    assert [(one.reason, one.detail) for one in reports] == [("stalled", "stall_timeout 5 s")]
