"""What is dropped is announced, and what is queued leaves together."""

import pytest
import trio

from flowstream import (
    NDJSON,
    Block,
    Buffer,
    Conflate,
    Disconnect,
    DropNewest,
    DropOldest,
    Event,
    Limits,
    Sample,
    csv,
    ndjson,
    raw,
    sse,
    stream,
)
from flowstream.testing import collect, open_stream

KIB16 = 16 * 1024


def flood(count, then=None, first=1):
    """Return a producer of `first` items, then `count` at one go once the client is blocked."""

    async def produce(out):
        for n in range(first):
            await out.send(n)
        await trio.sleep(1)
        for n in range(first, first + count):
            out.send_nowait(n)
        if then is not None:
            raise then

    return produce


async def test_a_gap_stands_at_its_place(read_events, autojump_clock):
    """The oldest go: the gap is before the first survivor and names its neighbours."""
    async with open_stream(sse(flood(9), policy=DropOldest(), buffer=3), window=30) as client:
        await trio.sleep(2)
        client.resume()
        events = await read_events(client)
    epoch = events[0][2].partition(".")[0]
    assert events == [
        ("message", 0, f"{epoch}.1"),
        ("gap", {"missed": 6, "after": f"{epoch}.1", "before": f"{epoch}.8"}, f"{epoch}.1"),
        *(("message", n, f"{epoch}.{n + 1}") for n in (7, 8, 9)),
        ("end", {"reason": "completed"}, f"{epoch}.end"),
    ]


@pytest.mark.parametrize("then", [None, ValueError("secret")])
async def test_a_lost_tail_is_announced_before_the_last_event(then, read_events, autojump_clock):
    """The newest go: the gap follows the last survivor, before `end` and before `failed`."""
    response = sse(flood(9, then), policy=DropNewest(), buffer=3)
    async with open_stream(response, window=30) as client:
        await trio.sleep(2)
        client.resume()
        events = await read_events(client)
    epoch = events[0][2].partition(".")[0]
    assert [value for kind, value, _ in events if kind == "message"] == [0, 1, 2, 3]
    assert events[-2][:2] == ("gap", {"missed": 6, "after": f"{epoch}.4", "before": None})
    assert events[-1][0] == ("end" if then is None else "failed")


async def test_a_gap_is_written_though_nothing_follows(read_events, autojump_clock):
    """The writer announces a lost tail when it reaches it, while the source is silent."""

    async def produce(out):
        await flood(9)(out)
        await trio.sleep_forever()

    async with open_stream(sse(produce, policy=DropNewest(), buffer=3), window=30) as client:
        await trio.sleep(2)
        client.resume()
        await trio.sleep(1)
        assert client.received.endswith(b'"before":null}\n\n')
        client.abort()


async def test_ndjson_announces_gaps_as_lines(autojump_clock):
    """In NDJSON a gap is an envelope without id; items have no ids to name."""
    names = {"gap": "lost"}
    response = stream(flood(9), encoder=NDJSON(names=names), policy=DropOldest(), buffer=3)
    async with open_stream(response, window=1) as client:
        await trio.sleep(2)
        client.resume()
        values = [await client.next_value() for _ in range(5)]
    assert values[0] == 0
    assert values[1] == {"type": "lost", "data": {"missed": 6, "after": None, "before": None}}
    assert values[2:] == [7, 8, 9]


@pytest.mark.parametrize("make", ["csv", "raw", "controls"])
async def test_a_gap_without_a_place_is_counted(make, reports, autojump_clock):
    """CSV, raw and controls=False have items only; the report has the gap."""
    options = {"policy": DropOldest(), "buffer": 3, "on_close": reports.append}

    async def produce(out):
        await trio.sleep(1)
        for n in range(10):
            out.send_nowait([n] if make == "csv" else str(n) if make == "raw" else n)

    kinds = {
        "csv": lambda: csv(produce, **options),
        "raw": lambda: raw(produce, **options),
        "controls": lambda: ndjson(produce, controls=False, **options),
    }
    response = await collect(kinds[make]())
    assert response.body.split() == ([b"789"] if make == "raw" else [b"7", b"8", b"9"])
    (report,) = reports
    assert (report.items, report.dropped, report.gaps) == (3, 7, 1)


async def test_a_warning_comes_if_it_was_asked_for(read_events, autojump_clock):
    """One warning before the items of a buffer above its mark, and only with warn_at."""
    for warn_at, expected in ((0.75, [{"buffered": 9, "limit": 10}]), (None, [])):
        response = sse(flood(9), buffer=Buffer(items=10, warn_at=warn_at))
        async with open_stream(response, window=30) as client:
            await trio.sleep(2)
            client.resume()
            events = await read_events(client)
        assert [value for kind, value, _ in events if kind == "warning"] == expected
        assert [value for kind, value, _ in events if kind == "message"] == list(range(10))


async def test_no_warning_in_a_stream_without_controls(autojump_clock):
    """controls=False leaves the warning out and the items in."""
    response = ndjson(flood(9), buffer=Buffer(items=10, warn_at=0.5), controls=False)
    assert (await collect(response)).body == b"".join(b"%d\n" % n for n in range(10))


# Coalescing


async def test_what_is_queued_leaves_in_one_send(autojump_clock):
    """Nine queued events and their warning make one send, after the one that was blocked."""
    response = sse(flood(9), buffer=Buffer(items=10, warn_at=0.5))
    async with open_stream(response, window=30) as client:
        await trio.sleep(2)
        before = client.statistics().sends
        client.resume()
        await client.wait_finished()
        # the blocked one, the nine, the end, the final chunk
        assert client.statistics().sends - before <= 4


async def test_sends_grow_while_they_are_taken_at_once(autojump_clock):
    """What a client takes without waiting goes in pieces of up to 64 KiB; none lost or mixed."""
    items = [b"a" * 100] * 1000 + [b"b" * (1 << 20)] + [b"c" * 100] * 1000

    async def produce(out):
        for item in items:
            await out.send(item)

    async with open_stream(raw(produce)) as client:
        await client.wait_finished()
        assert client.statistics().largest_send == 4 * KIB16
        assert client.received == b"".join(items)
        assert client.statistics().sends < 64 + 2 * (100_000 / KIB16 + 10) + 10


async def test_sends_to_a_slow_client_are_small(autojump_clock):
    """After a send that had to wait the next ones are of 16 KiB, so that its progress is seen."""
    sizes = []

    async def app(scope, receive, send):
        async def noting_send(message):
            start = trio.current_time()
            await send(message)
            sizes.append((len(message.get("body", b"")), trio.current_time() - start))

        await raw([b"a" * (1 << 20)] * 4)(scope, receive, noting_send)

    async with open_stream(app, window=200_000) as client:
        for _ in range(3):
            await client.wait_blocked()
            await trio.sleep(1)
            client.grant(500_000)
    waited = [n for n, (_, seconds) in enumerate(sizes) if seconds]
    assert len(waited) >= 3
    assert [sizes[n + 1][0] for n in waited[:2]] == [KIB16] * 2
    assert max(size for size, _ in sizes) == 4 * KIB16


async def test_a_lone_item_leaves_at_once(autojump_clock):
    """There is no timer: an item is with the client at the instant of its making."""

    async def produce(out):
        await trio.sleep(5)
        await out.send("x")
        await trio.sleep_forever()

    async with open_stream(raw(produce), window=0) as client:
        start = trio.current_time()
        assert await client.read(1) == b"x"
        assert trio.current_time() - start == pytest.approx(5)


# A flood under each policy

POLICIES = [
    Block(),
    Block(timeout=5),
    DropOldest(),
    DropOldest(max_age=1),
    DropNewest(),
    Sample(every=3),
    Sample(interval=0.5),
    Conflate(),
    Disconnect(),
]


@pytest.mark.parametrize("stuck", [False, True])
@pytest.mark.parametrize("policy", POLICIES, ids=repr)
async def test_a_flood_stays_within_the_buffer(policy, stuck, reports, autojump_clock):
    """A client that reads nothing: bounded in items and bytes, and others go on at once."""
    flooded = sse(
        _flood_for_ever,
        policy=policy,
        buffer=Buffer(items=70, bytes=2000),
        limits=Limits(stall_timeout=20),
        on_close=reports.append,
    )
    levels = []
    async with (
        open_stream(flooded, window=50, stuck_sends=stuck) as client,
        open_stream(raw(_ticks), window=0) as other,
    ):
        await client.started()
        for _ in range(15):
            start = trio.current_time()
            await other.read(1)
            assert trio.current_time() - start <= 1.001
            buffer = flooded.statistics().buffer
            levels.append((buffer.items, buffer.bytes))
        assert max(items for items, _ in levels) <= 70
        assert max(size for _, size in levels) <= 2000
        await trio.sleep(30)
        (report,) = reports
        statistics = flooded.statistics()
        assert statistics.buffer.items == statistics.buffer.bytes == 0
        assert report.items + report.dropped == statistics.buffer.offered
        expected = "slow_consumer" if policy in (Block(timeout=5), Disconnect()) else "stalled"
        assert report.reason == expected
        client.abort()


async def _flood_for_ever(out):
    for n in range(1 << 60):
        await out.send(Event(n, key=n % 50, essential=n % 97 == 0))
        if n % 200 == 0:
            await trio.sleep(0.1)


async def _ticks(out):
    while True:
        await trio.sleep(1)
        await out.send(".")
