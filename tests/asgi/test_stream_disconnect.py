"""A client that goes away: its producer is cancelled at once, and cleans up undisturbed."""

import contextlib

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from flowstream import CloseReason, Limits, SharedReceive, csv, raw, sse
from flowstream.asgi.response import exchange_of
from flowstream.testing import open_stream

LIMITS = Limits(cleanup_timeout=5)


class Ticks(trio.abc.Instrument):
    """Counts the passes of Trio's scheduler."""

    def __init__(self):
        self.count = 0

    def before_io_wait(self, timeout):
        self.count += 1


@pytest.fixture
def ticks():
    return Ticks()


async def waits(out):
    await trio.sleep_forever()


async def waits_for_room(out):
    while True:
        await out.send("x" * 1000)


async def spins(out):
    while True:
        await trio.lowlevel.checkpoint()


async def takes_what_is_there(out):
    send, receive = trio.open_memory_channel(1)
    while True:
        await send.send(1)
        await receive.receive()


@pytest.mark.parametrize("stuck", [False, True])
@pytest.mark.parametrize("kind", [waits, waits_for_room, spins, takes_what_is_there])
async def test_the_producer_is_told_in_the_same_tick(kind, stuck, ticks, reports, autojump_clock):
    """Cancelled is in a waiting producer one pass of the scheduler after `receive` returned."""
    told, heard = [], []

    async def produce(out):
        try:
            await kind(out)
        except trio.Cancelled:
            told.append(ticks.count)
            raise

    response = raw(produce, on_close=reports.append, buffer=3)

    async def app(scope, receive, send):
        async def noting():
            message = await receive()
            if message["type"] == "http.disconnect":
                heard.append(ticks.count)
            return message

        await response(scope, noting, send)

    trio.lowlevel.add_instrument(ticks)
    async with open_stream(app, window=0, stuck_sends=stuck) as client:
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        client.abort()
        await client.wait_finished()
    assert told
    # One that is about to run comes to its next checkpoint first, which takes two more.
    assert told[0] - heard[0] <= (1 if kind is waits else 3)
    assert [report.reason for report in reports] == [CloseReason.CLIENT_DISCONNECTED]
    assert reports[0].duration == 0


@pytest.mark.parametrize("kind", [waits, spins, takes_what_is_there])
@pytest.mark.parametrize("generator", [False, True])
async def test_cleanup_is_not_cancelled(kind, generator, reports, logged, autojump_clock):
    """What a `finally` awaits runs to its end, whatever it waits on and wherever it was told."""
    cleaned = []
    lock = trio.Lock()

    async def clean():
        async with lock:
            await trio.sleep(1)
            await trio.lowlevel.checkpoint()
            cleaned.append(True)

    async def produce(out):
        try:
            await kind(out)
        finally:
            await clean()

    async def generate():
        try:
            await kind(None)
            yield
        finally:
            await clean()

    source = generate if generator else produce
    async with open_stream(raw(source, limits=LIMITS, on_close=reports.append)) as client:
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        client.abort()
        await client.wait_finished()
    assert cleaned == [True]
    assert reports[0].duration == pytest.approx(1)
    assert logged() == []


async def test_cleanup_is_not_cancelled_when_a_sleep_ends_at_the_same_moment(
    reports, autojump_clock
):
    """A producer whose sleep is over in the very tick of the end is still told only once."""
    cleaned = []

    async def produce(out):
        try:
            for _ in range(100):
                await trio.sleep(1)
        finally:
            await trio.sleep(1)
            cleaned.append(True)

    async def stop_at_once(response):
        await trio.sleep(3)
        response.stop()

    for _ in range(30):  # which of two tasks runs first is chance
        response = raw(produce, on_close=reports.append)
        async with open_stream(response) as client, trio.open_nursery() as nursery:
            nursery.start_soon(stop_at_once, response)
            await client.wait_finished()
    assert len(cleaned) == 30
    assert {round(report.duration) for report in reports} <= {4, 5}


async def test_a_cleanup_that_takes_too_long_is_cancelled_and_logged(
    reports, logged, autojump_clock
):
    """At cleanup_timeout the cleanup is cancelled for good, and the log says so."""

    async def produce(out):
        try:
            await trio.sleep_forever()
        finally:
            await trio.sleep(100)

    async with open_stream(raw(produce, limits=LIMITS, on_close=reports.append), "/c") as client:
        await trio.sleep(1)
        client.abort()
        await client.wait_finished()
    assert reports[0].duration == pytest.approx(6)
    ((level, text),) = logged()
    assert (level, "cleanup_timeout=5" in text, "/c" in text) == ("WARNING", True, True)


async def test_a_cleanup_that_fails_while_it_is_cancelled_is_logged_as_both(logged, autojump_clock):
    """A group of a failure and the second Cancelled tells of the failure and of the overrun."""

    async def produce(out):
        try:
            await trio.sleep_forever()
        finally:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep, 100)
                try:
                    await trio.sleep(100)
                finally:
                    nursery.start_soon(fail)

    async def fail():
        raise ValueError("cleanup")

    async with open_stream(raw(produce, limits=LIMITS), "/c") as client:
        await trio.sleep(1)
        client.abort()
        await client.wait_finished()
    assert [level for level, _ in logged()] == ["ERROR", "WARNING"]


async def test_a_producer_that_swallows_its_cancellation_gets_nowhere(
    reports, logged, autojump_clock
):
    """Its sends are refused with BrokenResourceError, which is no failure of its own."""
    errors = []

    async def produce(out):
        with contextlib.suppress(trio.Cancelled):
            await trio.sleep_forever()
        for _ in range(3):
            try:
                await out.send("more")
            except trio.BrokenResourceError as error:
                errors.append(error)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(out.send, "and more")

    async with open_stream(raw(produce, on_close=reports.append)) as client:
        await trio.sleep(1)
        client.abort()
        await client.wait_finished()
        assert client.received == b""
    assert len(errors) == 3
    assert reports[0].reason is CloseReason.CLIENT_DISCONNECTED
    assert logged() == []


@pytest.mark.parametrize("group", [False, True])
async def test_a_failure_of_the_cleanup_is_logged(group, reports, logged, autojump_clock):
    """It changes no reason and reaches no one else, beside a Cancelled in one group too."""

    async def produce(out):
        if not group:
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("cleanup")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                nursery.start_soon(fail)

    async def fail():
        raise ValueError("cleanup")

    async with open_stream(raw(produce, on_close=reports.append), "/c") as client:
        await trio.sleep(1)
        client.abort()
        await client.wait_finished()
    (report,) = reports
    assert (report.reason, report.error) == (CloseReason.CLIENT_DISCONNECTED, None)
    text = "the producer of /c failed while it was ended (client_disconnected)"
    assert logged() == [("ERROR", text)]


async def test_a_group_of_failures_is_one_error(reports, autojump_clock):
    """A producer's ExceptionGroup is the report's error, and `failed` to the client."""

    async def produce(out):
        raise ExceptionGroup("two", [ValueError(1), TypeError(2)])

    async with open_stream(sse(produce, on_close=reports.append)) as client:
        await client.wait_finished()
        assert b'"code":"internal"' in client.received
    assert isinstance(reports[0].error, ExceptionGroup)


async def test_a_cancelled_nursery_is_no_failure(reports, logged, autojump_clock):
    """The group of nothing but Cancelled that a producer's nursery raises is a cancellation."""

    async def produce(out):
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(trio.sleep_forever)
        except BaseExceptionGroup as group:
            raise BaseExceptionGroup("mine", group.exceptions) from None

    async with open_stream(raw(produce, on_close=reports.append)) as client:
        await trio.sleep(1)
        client.abort()
        await client.wait_finished()
    assert [report.reason for report in reports] == [CloseReason.CLIENT_DISCONNECTED]
    assert logged() == []


async def test_an_interrupt_in_a_cancelled_nursery_goes_through(reports):
    """A KeyboardInterrupt beside a Cancelled is neither swallowed nor taken for a failure."""

    async def produce(out):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise KeyboardInterrupt

    async def watch_it():
        async with open_stream(raw(produce, on_close=reports.append)) as client:
            await wait_all_tasks_blocked()
            client.abort()
            await client.wait_finished()

    with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)):
        await watch_it()
    assert len(reports) == 1


# What a host does that has no use for a stream that it opened


async def test_a_stream_that_is_never_begun_has_its_report(reports):
    """A host that opened a stream and finishes it leaves no producer behind, and one report."""
    response = sse(waits, on_close=reports.append)
    stream = await exchange_of(response).open({"type": "http", "method": "GET"})
    await stream.finish()
    await stream.finish()
    assert [report.reason for report in reports] == [CloseReason.CANCELLED]


async def test_a_stream_that_was_aborted_is_not_primed(reports, autojump_clock):
    """A host whose client had gone before the stream began does not wait for an item."""
    response = sse(waits, on_close=reports.append)
    scope = {"type": "http", "method": "GET"}
    stream = await exchange_of(response).open(scope)
    stream.abort(CloseReason.CLIENT_DISCONNECTED)
    async with trio.open_nursery() as nursery:
        stream.begin(nursery)
        start = trio.current_time()
        await stream.prime(10)
        assert trio.current_time() == start
        await stream.deliver(exchange_of(response).transport(scope, None, 200, []))
        await stream.finish()
        nursery.cancel_scope.cancel()
    assert [report.reason for report in reports] == [CloseReason.CLIENT_DISCONNECTED]


@pytest.mark.parametrize("grouped", [False, True])
async def test_keyboard_interrupt_goes_through(grouped, reports):
    """It is nobody's to handle: the stream is reported cancelled and the program ends."""

    async def produce(out):
        await out.send(1)
        if grouped:
            raise BaseExceptionGroup("x", [KeyboardInterrupt(), ValueError()])
        raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)) as caught:
        async with open_stream(sse(produce, on_close=reports.append)) as client:
            await client.wait_finished()
    leaf = caught.value
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    assert isinstance(leaf, KeyboardInterrupt)
    assert [report.reason for report in reports] == [CloseReason.CANCELLED]


# When the client goes


async def test_a_client_gone_before_the_first_byte(reports, autojump_clock):
    """Gone while the app was not yet called: cancelled, reported, nothing sent."""
    response = sse(waits, on_close=reports.append)
    async with open_stream(response) as client:
        client.abort()
        await client.wait_finished()
    assert [report.reason for report in reports] == [CloseReason.CLIENT_DISCONNECTED]
    assert client.status is None


async def test_a_client_gone_while_priming(reports, autojump_clock):
    """The wait for the first item ends at once, and no ASGI message is sent."""
    async with open_stream(sse(waits, prime=10, on_close=reports.append)) as client:
        await trio.sleep(1)
        client.abort()
        await client.wait_finished()
    assert [report.reason for report in reports] == [CloseReason.CLIENT_DISCONNECTED]
    assert reports[0].duration == pytest.approx(1)
    assert client.status is None


@pytest.mark.parametrize("stuck", [False, True])
async def test_a_client_gone_while_the_end_is_flushed(stuck, reports, autojump_clock):
    """The source had ended, its items had not arrived: client_disconnected, and counted."""
    response = raw([b"x"] * 10, on_close=reports.append)
    async with open_stream(response, window=0, stuck_sends=stuck) as client:
        await client.wait_blocked()
        client.abort()
        await client.wait_finished()
    (report,) = reports
    assert report.reason is CloseReason.CLIENT_DISCONNECTED
    assert report.items + report.dropped == 10


async def test_a_half_close_is_a_disconnect(reports, autojump_clock):
    """A client that closes its sending side is gone, as HTTP/1.1 servers see it."""
    async with open_stream(sse(waits, on_close=reports.append)) as client:
        await trio.sleep(1)
        client.half_close()
        await client.wait_finished()
        assert not client.complete
    assert [report.reason for report in reports] == [CloseReason.CLIENT_DISCONNECTED]


async def test_the_servers_own_disconnect_at_the_end_is_none(reports, autojump_clock):
    """A server that reports a disconnect while it closes the response leaves it completed."""
    gone = trio.Event()

    async def receive():
        await gone.wait()
        return {"type": "http.disconnect"}

    returned = []

    async def send(message):
        if message.get("more_body") is False:
            gone.set()
            await wait_all_tasks_blocked()
            await trio.sleep(1)
            returned.append(True)

    response = sse(["x"], on_close=reports.append)
    await response({"type": "http", "method": "GET"}, receive, send)
    assert returned == [True]
    assert [report.reason for report in reports] == [CloseReason.COMPLETED]


@pytest.mark.parametrize("stuck", [False, True])
async def test_cancellation_from_outside(stuck, reports, autojump_clock):
    """The producer is cleaned up and reported, though a send may still be stuck."""
    cleaned = []

    async def produce(out):
        try:
            await waits_for_room(out)
        finally:
            await trio.sleep(1)
            cleaned.append(True)

    response = raw(produce, on_close=reports.append)
    scope = trio.CancelScope()

    async def app(*args):
        with scope:
            await response(*args)

    async with open_stream(app, window=10, stuck_sends=stuck) as client:
        await client.wait_blocked()
        scope.cancel()
        await trio.sleep(1.01)
        assert cleaned == [True]
        assert [report.reason for report in reports] == [CloseReason.CANCELLED]
        assert response.statistics().buffer.items == 0
        assert client.finished is not stuck
    assert len(reports) == 1


GONE = [BrokenPipeError, trio.BrokenResourceError, trio.ClosedResourceError]


@pytest.mark.parametrize("error", GONE)
@pytest.mark.parametrize("after", [0, 1, 2])
async def test_a_send_that_fails_is_a_disconnect(error, after, reports, logged, autojump_clock):
    """A server or middleware whose send says that the connection is closed is believed."""
    response = sse(["x"] * 3, on_close=reports.append)
    sent = []

    async def send(message):
        await trio.lowlevel.checkpoint()
        if len(sent) == after:
            raise error
        sent.append(message)

    await response({"type": "http", "method": "GET"}, trio.sleep_forever, send)
    assert [report.reason for report in reports] == [CloseReason.CLIENT_DISCONNECTED]
    assert logged() == []


async def test_a_faulty_send_harms_no_server_after_the_status_line(reports, logged, autojump_clock):
    """What a send raises later than the status line is logged and ends the stream."""
    response = sse(waits, on_close=reports.append)

    async def send(message):
        await trio.lowlevel.checkpoint()
        if message["type"] == "http.response.body":
            raise ZeroDivisionError

    await response({"type": "http", "method": "GET"}, trio.sleep_forever, send)
    (report,) = reports
    assert report.reason is CloseReason.ERROR
    assert isinstance(report.error, ZeroDivisionError)
    assert [level for level, _ in logged()] == ["ERROR"]


async def test_a_faulty_send_of_the_status_line_is_the_frameworks(reports, logged, autojump_clock):
    """Before the status line is out, the exception itself propagates, and is not logged twice."""
    response = sse(waits, on_close=reports.append)

    async def send(message):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await response({"type": "http", "method": "GET"}, trio.sleep_forever, send)
    assert [report.reason for report in reports] == [CloseReason.ERROR]
    assert logged() == []


@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_an_empty_answer_to_a_client_that_has_gone(method, reports, autojump_clock):
    """An OSError from the send of a HEAD's answer or of a 204 reaches nobody."""

    async def send(message):
        raise ConnectionResetError

    scope = {"type": "http", "method": method, "headers": [(b"last-event-id", b"a.end")]}
    await sse(waits, on_close=reports.append)(scope, trio.sleep_forever, send)
    assert [report.reason for report in reports] == [CloseReason.REFUSED]


# Beside a request's body


async def test_a_producer_reads_the_body_while_it_streams(reports, autojump_clock):
    """All of the body comes in order, and the disconnect is seen while more is awaited."""

    async def body():
        for n in range(50):
            yield bytes([n]) * 1000
        await trio.sleep_forever()

    async def app(scope, receive, send):
        receive = SharedReceive(receive)
        first = await receive()  # before there is a stream

        async def echo():
            yield first["body"]
            while True:
                yield (await receive())["body"]

        await raw(echo, on_close=reports.append)(scope, receive, send)

    async with open_stream(app, body=body()) as client:
        expected = b"".join(bytes([n]) * 1000 for n in range(50))
        assert await client.read(50_000) == expected
        await trio.sleep(1)
        client.abort()
        await client.wait_finished()
    assert [report.reason for report in reports] == [CloseReason.CLIENT_DISCONNECTED]


@pytest.mark.parametrize("shared", [False, True])
async def test_an_unread_body_does_not_hide_the_disconnect(shared, reports, autojump_clock):
    """A body that nobody reads is drained, however long it is."""

    async def body():
        for _ in range(1000):
            yield b"x" * 1000

    async def app(scope, receive, send):
        receive = SharedReceive(receive) if shared else receive
        await csv(waits, on_close=reports.append)(scope, receive, send)

    async with open_stream(app, body=body()) as client:
        await trio.sleep(1)
        client.abort()
        await client.wait_finished()
    assert [report.reason for report in reports] == [CloseReason.CLIENT_DISCONNECTED]
    assert reports[0].duration == pytest.approx(1)
