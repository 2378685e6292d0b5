"""How a stream ends: what the client is told, what the report and the log say."""

import logging

import pytest
import trio

from flowstream import (
    CSV,
    NDJSON,
    SSE,
    CloseReason,
    DropOldest,
    Event,
    Limits,
    PublicError,
    Raw,
    csv,
    ndjson,
    raw,
    sse,
    stream,
)
from flowstream.testing import collect, open_stream


async def numbers():
    yield 1
    yield 2


async def failing():
    yield 1
    raise RuntimeError("the password is 1234")


def refused():
    return PublicError("quota", "Your quota is used up.")


def endless_of(item):
    async def produce(out):
        while True:
            await out.send(item)
            await trio.sleep(1)

    return produce


# end


async def test_sse_ends_with_an_end_that_has_an_id(reports, read_events, autojump_clock):
    """A source that ends gives `end` with reason completed, the stream's id and a whole body."""
    async with open_stream(sse(numbers, on_close=reports.append)) as client:
        events = await read_events(client)
        assert client.complete
    epoch = events[0][2].partition(".")[0]
    assert events == [
        ("message", 1, f"{epoch}.1"),
        ("message", 2, f"{epoch}.2"),
        ("end", {"reason": "completed"}, f"{epoch}.end"),
    ]
    assert [report.reason for report in reports] == [CloseReason.COMPLETED]


async def test_ndjson_ends_with_an_end_that_has_an_id(reports, autojump_clock):
    """Plain values are verbatim and only the `end` is an envelope."""
    async with open_stream(ndjson(numbers, on_close=reports.append)) as client:
        assert [await client.next_value() for _ in range(2)] == [1, 2]
        end = await client.next_value()
        assert end.pop("id").endswith(".end")
        assert end == {"type": "end", "data": {"reason": "completed"}}
        assert await client.read_all() == b""
        assert client.complete


@pytest.mark.parametrize(
    ("make", "body"),
    [
        (lambda: raw([b"ab", "c"]), b"abc"),
        (lambda: csv([{"a": 1}, {"a": 2}]), b"a\r\n1\r\n2\r\n"),
        (lambda: sse([1], controls=False), None),
        (lambda: ndjson([1], controls=False), b"1\n"),
    ],
)
async def test_a_stream_without_controls_is_nothing_but_its_items(make, body, autojump_clock):
    """CSV, raw and controls=False carry no event of ours and end with the final chunk."""
    response = await collect(make())
    assert response.complete
    if body is None:
        assert b"event:" not in response.body
        assert response.body.startswith(b": connected\n\nid: ")
    else:
        assert response.body == body


async def test_controls_bear_the_names_that_the_app_gave_them(read_events, autojump_clock):
    """Renamed controls keep their body and id under the new name, in SSE and NDJSON."""
    names = {"end": "fin", "failed": "broken"}
    async with open_stream(stream(numbers, encoder=SSE(names=names))) as client:
        assert [kind for kind, _, _ in await read_events(client)] == ["message", "message", "fin"]
    async with open_stream(stream(failing, encoder=NDJSON(names=names))) as client:
        await client.next_value()
        assert (await client.next_value())["type"] == "broken"


# failed


@pytest.mark.parametrize("make", [sse, ndjson])
async def test_a_failure_is_told_without_its_text(make, reports, logged, autojump_clock):
    """The client gets a fixed sentence, the report the exception, and the log its traceback."""
    response = await collect(make(failing, on_close=reports.append), "/numbers")
    assert b"1234" not in response.body
    assert b'{"code":"internal","message":"the stream failed"}' in response.body
    assert b".failed" in response.body
    assert response.complete
    (report,) = reports
    assert report.reason is CloseReason.ERROR
    assert str(report.error) == "the password is 1234"
    ((level, text),) = logged()
    assert level == "ERROR"
    assert text.startswith("stream /numbers error: 1 items,")


@pytest.mark.parametrize(
    "error",
    [refused(), ExceptionGroup("tasks", [ValueError("x"), ExceptionGroup("inner", [refused()])])],
)
async def test_a_public_error_is_told_in_its_own_words(error, read_events, autojump_clock):
    """The code and message of a PublicError reach the client, out of a nursery's group too."""

    async def produce(out):
        raise error

    async with open_stream(sse(produce)) as client:
        ((kind, body, id),) = await read_events(client)
    assert (kind, body) == ("failed", {"code": "quota", "message": "Your quota is used up."})
    assert id.endswith(".failed")


async def test_a_retryable_failure_has_no_id(read_events, autojump_clock):
    """A retryable PublicError leaves the last id as it was, so that EventSource comes back."""

    async def produce(out):
        await out.send(1)
        raise PublicError("busy", "Try again.", retryable=True)

    async with open_stream(sse(produce)) as client:
        first, failed = await read_events(client)
    assert failed[0] == "failed"
    assert failed[2] == first[2]


@pytest.mark.parametrize("grouped", [False, True])
async def test_an_item_that_cannot_be_encoded_names_its_type(
    grouped, reports, read_events, caplog, autojump_clock
):
    """The log names the item's type, the client hears of no internals, out of a group too."""

    class Sprocket:
        pass

    async def produce(out):
        await out.send("fine")
        if grouped:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(out.send, Sprocket())
        await out.send(Sprocket())

    async with open_stream(sse(produce, on_close=reports.append)) as client:
        events = await read_events(client)
    assert events[1][:2] == (
        "failed",
        {"code": "encoding", "message": "an item could not be written in this format"},
    )
    assert [report.reason for report in reports] == [CloseReason.ERROR]
    assert "Sprocket" in caplog.text


async def test_items_queued_before_a_failure_are_delivered_before_it(read_events, autojump_clock):
    """A producer that fails at full speed loses none of the items that it sent."""

    async def produce(out):
        for n in range(10):
            await out.send(n)
        raise ValueError

    async with open_stream(sse(produce)) as client:
        events = await read_events(client)
    assert [value for _, value, _ in events[:-1]] == list(range(10))
    assert events[-1][0] == "failed"


async def test_a_failure_that_cannot_be_told_cuts_the_body(reports, logged, autojump_clock):
    """A public message that no JSON can hold harms nobody but its own event."""

    async def produce(out):
        raise PublicError("x", "\ud800")

    async with open_stream(sse(produce, on_close=reports.append)) as client:
        await client.wait_finished()
        assert not client.complete
    assert [report.reason for report in reports] == [CloseReason.ERROR]
    assert logged()[0][1] == "the writer of / failed while it was ended (error)"


# no final chunk


ENDINGS = {
    CloseReason.ERROR: lambda make, **kw: make(failing_bytes, **kw),
    CloseReason.MAX_DURATION: lambda make, **kw: make(
        endless_of("a,b"), limits=Limits(max_duration=3), **kw
    ),
    CloseReason.MAX_BYTES: lambda make, **kw: make(
        endless_of("a,b"), limits=Limits(max_bytes=8), **kw
    ),
}


async def failing_bytes():
    yield "a,b"
    raise ValueError


@pytest.mark.parametrize("reason", ENDINGS)
@pytest.mark.parametrize("make", ["raw", "sse"])
async def test_what_is_not_whole_never_looks_whole(reason, make, reports, autojump_clock):
    """Without controls, every reason but completed leaves out the final chunk."""
    encoders = {"raw": Raw(), "sse": SSE()}

    def cut(source, **options):
        return stream(source, encoder=encoders[make], controls=False, **options)

    response = ENDINGS[reason](cut, on_close=reports.append)
    async with open_stream(response) as client:
        await client.wait_finished()
        assert client.status == 200
        assert not client.complete
    assert [report.reason for report in reports] == [reason]


async def test_a_csv_export_that_fails_is_cut(reports, autojump_clock):
    """Half a table has no final chunk, and no message in it."""

    async def rows():
        yield {"a": 1}
        raise ValueError

    async with open_stream(csv(rows, on_close=reports.append)) as client:
        await client.wait_finished()
        assert client.received == b"a\r\n1\r\n"
        assert not client.complete


async def test_a_stopped_csv_export_is_cut(reports, autojump_clock):
    """Stopped is not completed: the final chunk is left out."""
    response = stream(endless_of([1, 2]), encoder=CSV(), on_close=reports.append)
    async with open_stream(response) as client:
        await trio.sleep(1.5)
        response.stop()
        await client.wait_finished()
        assert client.received == b"1,2\r\n1,2\r\n"
        assert not client.complete
    assert [report.reason for report in reports] == [CloseReason.STOPPED]


# CSV's header


async def test_an_empty_table_has_its_header(autojump_clock):
    """A CSV stream without rows still names its columns, if they are known."""
    assert (await collect(csv([], columns=["a", "b"]))).body == b"a,b\r\n"
    assert (await collect(csv([]))).body == b""


async def test_the_header_survives_its_own_row(autojump_clock):
    """When the policy drops the row that named the columns, the next one brings the header."""

    async def produce(out):
        for n in range(5):
            out.send_nowait({"n": n})

    response = await collect(csv(produce, buffer=2, policy=DropOldest()))
    assert response.body == b"n\r\n3\r\n4\r\n"


# stop


async def test_stop_writes_what_is_queued_and_says_stopped(reports, read_events, autojump_clock):
    """The queue is flushed, `end` says stopped, and the body is whole."""

    async def produce(out):
        for n in range(8):
            out.send_nowait(n)
        await trio.sleep_forever()

    response = sse(produce, on_close=reports.append)
    response.stop()  # of no effect: it has not begun
    async with open_stream(response, window=0) as client:
        await client.wait_blocked()
        response.stop()
        client.resume()
        events = await read_events(client)
        assert client.complete
    assert [value for _, value, _ in events] == [*range(8), {"reason": "stopped"}]
    assert events[-1][2].endswith(".end")
    assert [report.reason for report in reports] == [CloseReason.STOPPED]
    response.stop()  # of no effect: it has ended
    assert response.statistics().reason is CloseReason.STOPPED


@pytest.mark.parametrize("how", ["stop", "max_duration"])
async def test_what_ended_by_itself_is_complete(how, reports, read_events, autojump_clock):
    """A source that has ended stays completed, even if a deadline or stop comes in its flush."""
    response = sse(numbers, on_close=reports.append, limits=Limits(max_duration=10))
    async with open_stream(response, window=0) as client:
        await client.wait_blocked()
        await trio.sleep(11 if how == "max_duration" else 1)
        if how == "stop":
            response.stop()
        client.resume()
        assert (await read_events(client))[-1][1] == {"reason": "completed"}
    assert [report.reason for report in reports] == [CloseReason.COMPLETED]


async def test_a_producer_that_never_awaits_can_be_stopped(reports, autojump_clock):
    """A flood of items that all fit lets the others run, so that stop() ends it."""

    async def produce(out):
        while True:
            await out.send(1)

    response = ndjson(produce, on_close=reports.append)
    async with open_stream(response) as client:
        while len(client.received) < 10_000:
            await trio.lowlevel.checkpoint()
        response.stop()
        await client.wait_finished()
        assert client.complete
    (report,) = reports
    assert report.reason is CloseReason.STOPPED
    assert report.dropped == 0


# the report, the statistics and the log


async def test_the_report_tells_what_the_stream_did(reports, autojump_clock):
    """Items, bytes, times and the longest wait are those that the client saw."""

    async def produce(out):
        await trio.sleep(2)
        await out.send("abc")
        await trio.sleep(3)
        await out.send("def")

    response = raw(produce, on_close=reports.append)
    async with open_stream(response, window=3) as client:
        await trio.sleep(9)
        client.resume()
        await client.wait_finished()
    (report,) = reports
    assert (report.reason, report.error) == (CloseReason.COMPLETED, None)
    assert (report.items, report.bytes, report.dropped, report.gaps) == (2, 6, 0, 0)
    assert report.first_byte == pytest.approx(2)
    assert report.duration == pytest.approx(9)
    assert report.longest_wait == pytest.approx(4)


async def test_a_stream_without_items_has_no_first_byte(reports, autojump_clock):
    """The opening comment and the end are no items."""
    await collect(sse([], on_close=reports.append))
    assert (reports[0].items, reports[0].first_byte) == (0, None)
    assert reports[0].bytes > 0


async def test_statistics_follow_the_stream(autojump_clock):
    """State, reason, counts, the write under way and the buffer are those of the moment."""

    async def produce(out):
        for _ in range(3):
            await out.send("abcd")
            await trio.lowlevel.checkpoint()
        await trio.sleep_forever()

    response = raw(produce, buffer=7)
    new = response.statistics()
    assert (new.state, new.reason, new.duration, new.buffer.max_items) == ("new", None, 0, 7)
    async with open_stream(response, window=4) as client:
        await client.wait_blocked()
        await trio.sleep(5)
        now = response.statistics()
        assert (now.state, now.reason) == ("open", None)
        assert now.items + now.buffer.items < 3
        assert now.sending_for == now.longest_wait == pytest.approx(5)
        assert now.duration == pytest.approx(5)
        client.abort()
        await client.wait_finished()
        await trio.sleep(5)
    end = response.statistics()
    assert (end.state, end.reason) == ("closed", CloseReason.CLIENT_DISCONNECTED)
    assert end.items + end.dropped == 3
    assert end.duration == end.longest_wait == pytest.approx(5)
    assert (end.sending_for, end.buffer.items) == (0, 0)


async def test_what_a_stuck_send_held_counts_as_dropped(reports, autojump_clock):
    """Statistics and report agree for good, though the stuck send comes back much later."""

    async def produce(out):
        for _ in range(4):
            await out.send("abcd")
        await trio.sleep_forever()

    response = raw(produce, on_close=reports.append, limits=Limits(stall_timeout=10))
    async with open_stream(response, window=0, stuck_sends=True) as client:
        await trio.sleep(11)
        before = response.statistics()
        client.resume()
        await client.wait_finished()
        assert response.statistics() == before
    (report,) = reports
    assert (report.items, report.dropped, report.bytes) == (0, 4, 0)
    assert (before.items, before.dropped, before.longest_wait) == (0, 4, report.longest_wait)
    assert report.longest_wait == pytest.approx(10)


async def test_each_stream_leaves_one_line_with_its_fields(caplog, autojump_clock):
    """The log line has the report as attributes, path without query, level INFO."""
    await collect(sse(numbers), "/a?token=secret")
    (record,) = [record for record in caplog.records if record.name == "flowstream"]
    assert record.levelno == logging.INFO
    assert record.getMessage().startswith("stream /a completed: 2 items, ")
    assert (record.reason, record.path, record.items, record.dropped) == ("completed", "/a", 2, 0)
    assert record.bytes > 0
    assert record.gaps == 0
    assert {"duration", "first_byte", "longest_wait"} <= record.__dict__.keys()
    assert "secret" not in caplog.text


async def test_a_path_cannot_write_lines_of_its_own(caplog, autojump_clock):
    """Line breaks in a path are percent-encoded again before they reach the log."""
    await collect(sse([]), "/a%0Astream%20/b%20completed")
    (record,) = caplog.records
    assert "\n" not in record.getMessage()
    assert record.path == "/a%0Astream%20/b%20completed"


async def test_an_on_close_that_raises_is_logged(reports, logged, autojump_clock):
    """A faulty on_close harms neither the stream nor the server, and is called once."""

    def on_close(report):
        reports.append(report)
        raise ValueError

    assert (await collect(sse(numbers, on_close=on_close), "/x")).complete
    assert len(reports) == 1
    assert logged() == [("ERROR", "on_close of /x failed")]


async def test_an_event_with_an_envelope_keeps_it(read_events, autojump_clock):
    """Id, type and retry of an Event are on the wire, beside automatic ids."""
    source = [Event("x", id="me", type="kind"), "y"]
    async with open_stream(sse(source)) as client:
        first, second, _ = await read_events(client)
    assert first == ("kind", "x", "me")
    assert second[2].endswith(".2")
