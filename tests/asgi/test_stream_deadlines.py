"""Heartbeats, stalls and limits, each at its very second."""

import math

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstream import (
    NDJSON,
    SSE,
    Block,
    CloseReason,
    Disconnect,
    DropOldest,
    Limits,
    csv,
    ndjson,
    raw,
    sse,
    stream,
)
from flowstream._clock import chance
from flowstream.asgi._deadlines import Activity, Deadlines, Due
from flowstream.testing import open_stream


async def silent(out):
    await trio.sleep_forever()


def flood(cleaned=None, item="x" * 1000):
    async def produce(out):
        try:
            while True:
                await out.send(item)
        finally:
            if cleaned is not None:
                cleaned.append(trio.current_time())

    return produce


# Heartbeats


@pytest.mark.parametrize(("encoder", "beat"), [(SSE(), b":\n\n"), (NDJSON(), b"\n")])
async def test_silence_is_broken_by_heartbeats(encoder, beat, autojump_clock):
    """A silent stream beats each 8 to 10 of 10 seconds, no two silences of one length."""
    response = stream(silent, encoder=encoder, heartbeat=10)
    async with open_stream(response, window=0) as client:
        if encoder == SSE():
            await client.read(len(b": connected\n\n"))
        last, silences = trio.current_time(), []
        for _ in range(30):
            assert await client.read(len(beat)) == beat
            silences.append(trio.current_time() - last)
            last = trio.current_time()
        assert min(silences) >= 8
        assert max(silences) <= 10
        assert len(set(silences)) > 20
        assert response.statistics().heartbeats in (30, 31)


async def test_a_busy_stream_has_no_heartbeats(autojump_clock):
    """Items more often than the interval keep it quiet."""

    async def produce(out):
        for _ in range(50):
            await trio.sleep(7.9)
            await out.send(1)

    response = ndjson(produce, heartbeat=10)
    async with open_stream(response) as client:
        await client.wait_finished()
        assert response.statistics().heartbeats == 0
        assert b"\n\n" not in client.received


async def test_no_heartbeat_while_a_write_is_under_way(autojump_clock):
    """A client that takes nothing is not silent but slow, and gets none after it resumes."""

    async def produce(out):
        await out.send("x")
        await trio.sleep(25)

    response = ndjson(produce, heartbeat=10)
    async with open_stream(response, window=0) as client:
        await trio.sleep(24)
        client.resume()
        await client.wait_finished()
        assert response.statistics().heartbeats == 0


async def test_an_item_at_the_very_tick_of_a_heartbeat_wins(monkeypatch, autojump_clock):
    """A heartbeat that came due together with an item is not sent after it."""
    monkeypatch.setattr(chance, "uniform", lambda low, high: high)

    async def produce(out):
        while True:
            await trio.sleep(10)
            await out.send(1)
            await trio.sleep(0.1)

    for _ in range(10):  # which of two tasks runs first is chance
        async with open_stream(ndjson(produce, heartbeat=10)) as client:
            await trio.sleep(10.05)
            assert client.received in (b"1\n", b"\n1\n")
            await trio.sleep(0.01)
            assert not client.received.endswith(b"1\n\n")


@pytest.mark.parametrize(
    "make",
    [
        lambda: raw(silent, heartbeat=1),
        lambda: csv(silent, heartbeat=1),
        lambda: sse(silent, heartbeat=1, controls=False),
        lambda: ndjson(silent, heartbeat=None),
    ],
)
async def test_where_there_are_no_heartbeats(make, autojump_clock):
    """None in raw and CSV, none without controls, none if not wanted."""
    response = make()
    async with open_stream(response) as client:
        await trio.sleep(1000)
        assert response.statistics().heartbeats == 0
        assert client.received in (b"", b": connected\n\n")


# Stalls


@pytest.mark.parametrize("stuck", [False, True])
async def test_a_stalled_client_is_given_up_to_the_second(stuck, reports, logged, autojump_clock):
    """At stall_timeout the producer is cancelled, the buffer empty and the report made."""
    cleaned = []
    response = sse(
        flood(cleaned), limits=Limits(stall_timeout=30), heartbeat=7, on_close=reports.append
    )
    async with open_stream(response, "/s", window=500, stuck_sends=stuck) as client:
        start = trio.current_time()
        await client.wait_blocked()
        await trio.sleep(29.99)
        assert not reports
        await trio.sleep(0.02)
        (report,) = reports
        assert report.reason is CloseReason.STALLED
        assert report.duration == report.longest_wait == pytest.approx(30)
        assert cleaned == [pytest.approx(start + 30)]
        assert response.statistics().buffer.items == 0
        assert report.items + report.dropped == response.statistics().buffer.offered
        assert client.finished is not stuck
        assert not client.complete
        await trio.sleep(1000)
    assert len(reports) == 1
    assert [level for level, _ in logged()] == ["WARNING"]


class SendStuckAt:
    """An app whose server does not come back from one message."""

    def __init__(self, app, stuck_at):
        self.app = app
        self.stuck_at = stuck_at

    async def __call__(self, scope, receive, send):
        async def slow(message):
            if self.stuck_at(message):
                await trio.sleep_forever()
            await send(message)

        await self.app(scope, receive, slow)


@pytest.mark.parametrize(
    ("stuck_at", "reason"),
    [
        (lambda message: message["type"] == "http.response.start", CloseReason.STALLED),
        (lambda message: message.get("more_body") is False, CloseReason.COMPLETED),
    ],
)
async def test_status_line_and_final_chunk_can_stall_too(stuck_at, reason, reports, autojump_clock):
    """The first and the last message are watched as any other; after the last byte it is done."""
    response = sse(["x"], limits=Limits(stall_timeout=30), on_close=reports.append)
    app = SendStuckAt(response, stuck_at)
    with trio.fail_after(40):
        await app({"type": "http", "method": "GET"}, trio.sleep_forever, _swallow)
    assert [report.reason for report in reports] == [reason]
    assert reports[0].duration == pytest.approx(30)


async def _swallow(message):
    await trio.lowlevel.checkpoint()


async def test_a_slow_but_steady_reader_lives(reports, autojump_clock):
    """16 KiB each 20 s are progress, though the one item of 1 MiB takes 21 minutes."""

    async def produce(out):
        await out.send(b"x" * (1 << 20))

    response = raw(produce, on_close=reports.append)
    async with open_stream(response, window=0) as client:
        for _ in range(64):
            await trio.sleep(20)
            await client.read(16 * 1024)
        await client.wait_finished()
        assert client.complete
    (report,) = reports
    assert report.reason is CloseReason.COMPLETED
    assert report.longest_wait == pytest.approx(20)


async def test_a_stall_in_the_flush_after_max_duration_ends_it(reports, autojump_clock):
    """The first reason stands: max_duration, reported when the stalled flush is given up."""
    limits = Limits(max_duration=10, stall_timeout=30)
    response = sse(flood(), limits=limits, on_close=reports.append)
    async with open_stream(response, window=0, stuck_sends=True) as client:
        await trio.sleep(31)
        assert [report.reason for report in reports] == [CloseReason.MAX_DURATION]
        assert reports[0].duration == pytest.approx(30)
        assert not client.finished


async def test_a_very_slow_reader_does_not_prolong_the_flush_after_max_duration(
    reports, autojump_clock
):
    """What is queued at max_duration has stall_timeout to be taken; the rest is dropped."""
    limits = Limits(max_duration=10, stall_timeout=30)
    response = sse(flood(), limits=limits, on_close=reports.append)
    async with open_stream(response, window=0) as client:
        for _ in range(60):  # a reader that is steady, at ten bytes a second
            await trio.sleep(1)
            client.grant(10)
        await client.wait_finished()
        assert not client.complete
    (report,) = reports
    assert report.reason is CloseReason.MAX_DURATION
    assert report.duration <= 40.1
    assert report.dropped > 0


# Slow consumers


@pytest.mark.parametrize("stuck", [False, True])
async def test_block_with_a_timeout_gives_the_client_up(stuck, reports, logged, autojump_clock):
    """An item that waited for `timeout` ends the stream with slow_consumer, and no farewell."""
    cleaned = []
    policy = Block(timeout=5)
    response = sse(flood(cleaned), policy=policy, buffer=5, on_close=reports.append)
    async with open_stream(response, window=20, stuck_sends=stuck) as client:
        await trio.sleep(5.01)
        (report,) = reports
        assert report.reason is CloseReason.SLOW_CONSUMER
        assert report.duration == pytest.approx(5)
        assert cleaned
        assert response.statistics().buffer.items == 0
        assert not client.complete
    assert b"failed" not in client.received
    assert [level for level, _ in logged()] == ["WARNING"]


async def test_a_client_given_up_before_its_status_line_is_still_answered(reports, autojump_clock):
    """A burst above a small buffer under Disconnect cuts the body, but never leaves a 500."""

    async def produce(out):
        for n in range(10):
            out.send_nowait(n)

    for prime in (None, 1):
        response = sse(produce, policy=Disconnect(), buffer=4, prime=prime, on_close=reports.append)
        async with open_stream(response) as client:
            await client.wait_finished()
            assert client.status == 200
            assert client.received == b""
            assert not client.complete
    assert [report.reason for report in reports] == [CloseReason.SLOW_CONSUMER] * 2
    assert [(report.items, report.dropped) for report in reports] == [(0, 4)] * 2


# Bounds


@pytest.mark.parametrize("bound", [1, 13, 14, 16, 100, 1000, 20_000, 50_000])
@pytest.mark.parametrize("make", [sse, ndjson, raw])
async def test_max_bytes_is_exceeded_by_the_farewell_only(make, bound, reports, autojump_clock):
    """What comes before the farewell is never longer than max_bytes, items whole."""

    async def produce(out):
        for _ in range(200):
            await out.send("y" * 500)

    response = make(produce, limits=Limits(max_bytes=bound), on_close=reports.append)
    async with open_stream(response) as client:
        await client.wait_finished()
        body = client.received
    (report,) = reports
    if make is raw:
        assert len(body) == report.bytes == bound // 500 * 500
        assert not client.complete
    else:
        name = b"gap" if report.dropped else b"failed"
        farewell = b"event: " + name if make is sse else b'{"type":"' + name
        assert body.index(farewell) <= bound
        assert b'"code":"max_bytes"' in body
        assert client.complete
    assert report.reason is CloseReason.MAX_BYTES
    assert report.items * 500 <= bound
    assert report.items + report.dropped == response.statistics().buffer.offered


async def test_what_max_bytes_cut_off_is_announced(reports, read_events, autojump_clock):
    """Received and announced together are all that was sent, before the `failed`."""

    async def produce(out):
        for n in range(10):
            out.send_nowait(n)

    response = sse(produce, limits=Limits(max_bytes=100), on_close=reports.append)
    async with open_stream(response) as client:
        events = await read_events(client)
    received = [value for kind, value, _ in events if kind == "message"]
    assert received == list(range(len(received)))
    assert 0 < len(received) < 10
    assert events[-2][1]["missed"] == 10 - len(received) == reports[0].dropped
    assert events[-1][1]["code"] == "max_bytes"


async def test_what_a_gap_has_told_is_not_announced_again(read_events, autojump_clock):
    """Two gaps, one in its place and one before `failed`, add up to all that is missing."""

    async def produce(out):
        await out.send("x")
        await trio.sleep(1)
        for _ in range(20):
            out.send_nowait("y" * 2000)

    limits = Limits(max_bytes=17_000)
    async with open_stream(
        sse(produce, limits=limits, policy=DropOldest(), buffer=10), window=20
    ) as client:
        await trio.sleep(2)
        client.resume()
        events = await read_events(client)
    gaps = [value["missed"] for kind, value, _ in events if kind == "gap"]
    assert gaps[0] == 10
    assert sum(gaps) + sum(kind == "message" for kind, _, _ in events) == 21
    assert len(gaps) == 2
    assert events[-1][1]["code"] == "max_bytes"


async def test_heartbeats_count_towards_max_bytes(reports, autojump_clock):
    """A silent stream ends when its next heartbeat would pass the bound."""
    response = ndjson(silent, heartbeat=1, limits=Limits(max_bytes=5), on_close=reports.append)
    async with open_stream(response) as client:
        await client.wait_finished()
        assert client.received.startswith(b"\n\n\n\n\n{")
    assert [report.reason for report in reports] == [CloseReason.MAX_BYTES]
    assert response.statistics().heartbeats == 5


async def test_an_empty_table_within_max_bytes(reports, autojump_clock):
    """A CSV header that does not fit is not sent either."""
    response = csv([], columns=["long"], limits=Limits(max_bytes=3), on_close=reports.append)
    async with open_stream(response) as client:
        await client.wait_finished()
        assert client.received == b""
        assert not client.complete
    assert [report.reason for report in reports] == [CloseReason.MAX_BYTES]


async def test_nothing_is_announced_where_nothing_is_missing(autojump_clock):
    """Without lost items max_bytes gives `failed` alone."""
    response = ndjson(silent, heartbeat=1, limits=Limits(max_bytes=2))
    async with open_stream(response) as client:
        await client.wait_finished()
        assert b"gap" not in client.received


# Deadlines as values


seconds = st.floats(0.5, 1000)


@given(
    stall=seconds,
    heartbeat=st.none() | seconds,
    max_duration=st.none() | seconds,
    steps=st.lists(st.tuples(st.sampled_from(["begin", "end", "look"]), st.floats(0, 50))),
)
@settings(deadline=None)
def test_no_deadline_is_slept_past(stall, heartbeat, max_duration, steps):
    """Whatever the writer does, each deadline is looked at when it comes due, not later."""
    deadlines = Deadlines(Limits(stall_timeout=stall, max_duration=max_duration), heartbeat, 0.0)
    now, sending, last_write, again, ended = 0.0, None, 0.0, 0.0, None
    for action, pause in [("look", 0.0), *steps]:
        target = now + pause
        while again <= target:  # the watch wakes up, as often as it asked to
            now = max(now, again)
            due, again = deadlines.check(now, Activity(sending, last_write))
            stalled = sending is not None and now >= sending + stall
            flushed = ended is not None and now >= ended + stall
            assert (due is Due.STALLED) == (stalled or flushed)
            if stalled or flushed:
                assert now == pytest.approx((sending if stalled else ended) + stall)
                return
            assert again > now or again == pytest.approx(now)
            if sending is not None:
                assert again <= sending + stall
            else:
                assert again <= now + stall
            if max_duration is not None and ended is None:
                assert again <= max(max_duration, now) or due is Due.MAX_DURATION
            if due is Due.MAX_DURATION:
                assert ended is None
                assert now >= max_duration
                ended = now
            if due is Due.HEARTBEAT:
                assert sending is None
                assert heartbeat * 0.8 <= now - last_write + 1e-9
                assert now - last_write <= heartbeat * (1 + 1e-9)
                last_write = now
            elif heartbeat is not None and sending is None and due is Due.NOTHING:
                assert again <= last_write + heartbeat * (1 + 1e-9)
        now = target
        if action == "begin" and sending is None:
            sending = now
        elif action == "end" and sending is not None:
            sending, last_write = None, now


def test_without_deadlines_only_stalls_are_looked_for():
    """No heartbeat and no max_duration: the next look is a stall_timeout away."""
    deadlines = Deadlines(Limits(), None, 0.0)
    assert deadlines.check(5.0, Activity(None, 0.0)) == (Due.NOTHING, 35.0)
    assert deadlines.check(7.0, Activity(6.0, 0.0)) == (Due.NOTHING, 36.0)
    assert deadlines.check(36.0, Activity(6.0, 0.0)) == (Due.STALLED, math.inf)


async def test_no_deadline_at_all(reports, autojump_clock):
    """A stream with neither a bound nor a heartbeat goes on until its client leaves."""

    async def waits(out):
        await out.send("first")
        await trio.sleep_forever()

    limits = Limits(stall_timeout=math.inf)
    response = sse(waits, limits=limits, heartbeat=None, on_close=reports.append)
    async with open_stream(response) as client:
        await client.next_event()
        await trio.sleep(80_000)
        assert not reports
        client.abort()
    assert [report.reason for report in reports] == ["client_disconnected"]
