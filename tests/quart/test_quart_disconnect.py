"""A client of a Quart view that goes away."""

import pytest
import trio
import trio.lowlevel
from quart import request
from trio.testing import wait_all_tasks_blocked

from flowstream import CloseReason, sse
from flowstream.testing import open_stream


class Passes(trio.abc.Instrument):
    """Counts the passes of Trio's scheduler."""

    count = 0

    def before_io_wait(self, timeout):
        self.count += 1


@pytest.mark.parametrize("where", ["await", "yield", "send"])
async def test_the_producer_is_cancelled_at_once(app, autojump_clock, where):
    """From the disconnect to the producer's finally it is a few passes of the scheduler."""
    passes, cleaned, reports = Passes(), [], []

    async def waits():
        try:
            yield "a"
            await trio.sleep_forever()
        finally:
            cleaned.append(passes.count)

    async def is_held_back():
        try:
            while True:
                yield "a"
        finally:
            cleaned.append(passes.count)

    async def sends(out):
        try:
            while True:
                await out.send("a")
        finally:
            cleaned.append(passes.count)

    @app.get("/")
    async def view():
        source = {"await": waits, "yield": is_held_back, "send": sends}[where]
        return sse(source, on_close=reports.append)

    async with open_stream(app, window=0) as client:
        await client.next_event()
        await wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(passes)
        client.abort()
        await client.wait_finished()
        trio.lowlevel.remove_instrument(passes)
    assert cleaned[0] <= 4
    assert [report.reason for report in reports] == [CloseReason.CLIENT_DISCONNECTED]
    assert app.extensions["flowstream"].statistics().closed == {"client_disconnected": 1}


async def test_teardown_runs_after_the_producers_cleanup(app, autojump_clock):
    """Both are shielded from the disconnect: what they await is waited for, in this order."""
    order = []

    @app.get("/")
    async def view():
        async def producer():
            try:
                yield "a"
                await trio.sleep_forever()
            finally:
                await trio.sleep(1)
                order.append(f"producer {request.path}")

        return sse(producer, on_close=lambda report: order.append(report.reason.value))

    @app.teardown_request
    async def teardown(error):
        await trio.sleep(1)
        order.append(f"teardown {error}")

    async with open_stream(app) as client:
        await client.next_event()
        client.abort()
    assert order == ["producer /", "client_disconnected", "teardown None"]


async def test_a_disconnect_after_the_last_byte_does_not_cut_teardown(app, autojump_clock):
    """Every response ends with a disconnect; a slow teardown function outlives it."""
    order = []

    @app.get("/")
    async def view():
        return sse(["a"])

    @app.teardown_request
    async def teardown(error):
        await trio.sleep(10)
        order.append("teardown")

    async with open_stream(app) as client:
        await client.read_all()
    assert order == ["teardown"]


async def test_a_client_that_leaves_before_the_view_has_returned(app, autojump_clock):
    """A view that is still at work is cancelled, as without the extension; no stream starts."""
    order = []

    @app.get("/")
    async def view():
        try:
            await trio.sleep_forever()
        finally:
            order.append("view")
        return sse(["a"])

    async with open_stream(app, exit_timeout=1) as client:
        await trio.sleep(5)
        client.abort()
    assert order == ["view"]
    assert app.extensions["flowstream"].statistics().closed == {}


async def test_a_stream_that_begins_after_the_client_has_left(app, autojump_clock):
    """A view that shielded itself returns a stream to nobody: its producer's first await is
    cancelled.
    """
    reports, reached = [], []

    async def producer(out):
        await trio.sleep(1)
        reached.append(out)

    @app.get("/")
    async def view():
        with trio.CancelScope(shield=True):
            await trio.sleep(5)
        return sse(producer, on_close=reports.append)

    async with open_stream(app, exit_timeout=10) as client:
        await trio.sleep(1)
        client.abort()
    assert [report.reason for report in reports] == [CloseReason.CLIENT_DISCONNECTED]
    assert not reached


async def test_a_send_that_fails_is_a_disconnect(app, autojump_clock):
    """A server whose send raises OSError once the client is gone ends the stream in peace."""
    reports, sent = [], []

    @app.get("/")
    async def view():
        async def endless():
            while True:
                yield "a"

        return sse(endless, on_close=reports.append)

    async def broken(scope, receive, send):
        async def fail_soon(message):
            sent.append(message)
            if len(sent) > 3:
                raise BrokenPipeError
            await send(message)

        await app(scope, receive, fail_soon)

    async with open_stream(broken) as client:
        await client.wait_finished()
    assert [report.reason for report in reports] == [CloseReason.CLIENT_DISCONNECTED]


@pytest.mark.parametrize("failing", ["http.response.start", "http.response.body"])
async def test_a_send_that_fails_in_an_answer_without_a_body(app, autojump_clock, caplog, failing):
    """A client that leaves while it is refused is nobody's error."""
    asked = []

    async def short():
        yield "a"

    @app.get("/")
    async def view():
        return sse(short)

    async def broken(scope, receive, send):
        async def fail(message):
            asked.append(message["type"])
            if message["type"] == failing:
                raise BrokenPipeError

        await app(scope, receive, fail)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with open_stream(broken, headers={"Last-Event-ID": "x"}) as client:
        await client.wait_finished()
    assert asked[-1] == failing
    assert not caplog.records


async def test_the_server_cancels_a_request(app, autojump_clock):
    """A server that cancels the application ends the stream, after the producer's cleanup."""
    order = []

    @app.get("/")
    async def view():
        async def producer():
            try:
                yield "a"
                await trio.sleep_forever()
            finally:
                await trio.sleep(1)
                order.append("producer")

        return sse(producer, on_close=lambda report: order.append(report.reason.value))

    async def cancelled_after_a_while(scope, receive, send):
        with trio.move_on_after(5):
            await app(scope, receive, send)

    async with open_stream(cancelled_after_a_while) as client:
        await client.wait_finished()
    assert order == ["producer", "cancelled"]
    assert app.extensions["flowstream"].statistics().open == 0


async def test_a_stalled_client_of_a_server_that_cannot_be_cancelled(app, autojump_clock):
    """At stall_timeout the producer ends and the report is made, though send is still stuck."""
    reports = []

    @app.get("/")
    async def view():
        async def endless():
            while True:
                yield "a" * 1000

        return sse(endless, on_close=reports.append)

    async with open_stream(app, window=0, stuck_sends=True) as client:
        await trio.sleep(31)
        assert [report.reason for report in reports] == [CloseReason.STALLED]
        assert not client.finished
