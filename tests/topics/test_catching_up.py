"""Clients that catch up: by slices of joined events, and event by event, to the same effect."""

import gc
import math
import re
import tracemalloc

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from quart_trio import QuartTrio
from trio.testing import MockClock

from flowstream import (
    NDJSON,
    SSE,
    CloseReason,
    Conflate,
    LatestByKey,
    Limits,
    Replay,
    Runs,
    Topic,
    stream,
)
from flowstream.ids._event_id import event_id
from flowstream.quart import Flowstream
from flowstream.testing import open_lifespan, open_stream
from flowstream.topics._history import History
from flowstream.topics._segments import SEGMENT_BYTES

EPOCH = "1lgppmf8l75"


class Separate:
    """A format whose streams are written event by event, since its `join` may do anything."""

    def join(self, items):
        return b"".join(items)


class SeparateSSE(Separate, SSE):
    """`SSE`, event by event."""


class SeparateNDJSON(Separate, NDJSON):
    """`NDJSON`, event by event."""


PAIRS = [(SSE(), SeparateSSE()), (NDJSON(), SeparateNDJSON())]
CHANCE = re.compile(rb"[0-9a-z]{8,}(?=\.(?:end|failed))|(?<=retry: )\d+|(?<=\"retry\":)\d+")
FILTERS = [None, lambda event: True, lambda event: len(event.data) % 2, lambda event: False]


async def outcome(topic, after, encoder, where, limits, live, window):
    """Return all that a client gets, what its report says, and how much came in slices."""
    reports = []
    response = stream(
        topic.subscribe(after=after, where=where),
        encoder=encoder,
        limits=limits,
        on_close=reports.append,
    )
    async with open_stream(response, window=window) as client:
        await trio.testing.wait_all_tasks_blocked()
        for data in live:
            await topic.publish(data)
        await topic.aclose()
        client.resume()
        body = await client.read_all()
    (report,) = reports
    return CHANCE.sub(b"", body), report, response.statistics().sliced_items


@given(
    st.lists(st.integers(0, 3000), min_size=1, max_size=40),
    st.integers(1, 30),
    st.integers(0, 40),
    st.sampled_from(PAIRS),
    st.sampled_from([None, 1, 500, 20_000, 60_000]),
    st.lists(st.integers(0, 100), max_size=3),
    st.sampled_from(FILTERS[:1] * 3 + FILTERS[1:]),
    st.sampled_from([None, 0]),
)
@settings(max_examples=150, deadline=None)
def test_slices_are_what_single_events_are(lengths, items, after, pair, most, live, where, window):
    """Bytes, ids, gaps and counts of the report, with bounds of bytes and events that follow."""
    found, sliced = [], []

    async def main():
        for encoder in pair:
            topic = Topic("t", replay=Replay(items=items))
            topic._publisher.history.epoch = EPOCH
            for n, length in enumerate(lengths):
                await topic.publish("x" * length, type="a" if n % 3 else None)
            id = event_id(EPOCH, min(after, len(lengths)))
            limits = Limits(max_bytes=most)
            body, report, count = await outcome(
                topic, id, encoder, where, limits, ["y" * n for n in live], window
            )
            found.append(
                (body, report.reason, report.items, report.bytes, report.dropped, report.gaps)
            )
            sliced.append(count)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert found[0] == found[1]
    assert sliced[1] == 0
    known = len(lengths) - items <= after < len(lengths)
    if known and where is None and most is None:
        assert sliced[0] >= len(lengths) - after
    elif where is not None:
        assert sliced[0] == 0


async def test_a_replay_is_read_by_slices(autojump_clock, monkeypatch):
    """Ten thousand events cost a few reads, and no look at each; a filter looks at each."""
    topic = Topic("t", replay=Replay(items=20_000))
    first = await topic.publish("first")
    for n in range(10_000):
        await topic.publish(f"{n:100}")
    reads = []
    read, after = History.read, History.after
    monkeypatch.setattr(History, "read", lambda *them: reads.append("read") or read(*them))
    monkeypatch.setattr(History, "after", lambda *them: reads.append("after") or after(*them))
    await topic.aclose()
    bodies = []
    for where, kind in ((None, "read"), (lambda event: True, "after")):
        reads.clear()
        response = stream(topic.subscribe(after=first, where=where), encoder=SSE())
        async with open_stream(response) as client:
            bodies.append(CHANCE.sub(b"", await client.read_all()))
        if kind == "read":
            assert reads.count("after") <= 1  # at the end, when nothing is left
            assert len(reads) < math.ceil(10_000 * 130 / (1 << 15))
        else:
            assert set(reads) == {"after"}
    assert bodies[0] == bodies[1]
    assert bodies[0].count(b"data: ") == 10_001


# -- clients that do not take it ---------------------------------------------------------


async def filled(items=3000, *, replay=None, **options):
    """Return a topic with events of 100 bytes, the first of which is ``a1``, and its past."""
    topic = Topic("t", replay=replay or Replay(items=10_000), **options)
    for n in range(items):
        await topic.publish(f"{n:100}")
    return topic, [published.encode(SSE()) for published in topic._publisher.history._kept]


def whole_events(body):
    """Return the ids of the events that have come whole."""
    return re.findall(rb"id: ([^\n]+)\n(?:event: [^\n]+\n)?data: [^\n]*\n\n", body)


@pytest.mark.parametrize("ending", ["stalls", "aborts"])
@pytest.mark.parametrize("window", [1, 10_000, 77_777])
async def test_a_client_that_leaves_in_a_slice_comes_back_for_the_rest(
    autojump_clock, ending, window
):
    """Cut in the middle of an event or not: what it got and what it then gets is all there is."""
    topic, events = await filled()
    reports = []
    start = topic.statistics().replay_first
    response = stream(topic.subscribe(after=start), encoder=SSE(), on_close=reports.append)
    async with open_stream(response, window=window) as client:
        await client.wait_blocked()
        if ending == "aborts":
            client.abort()
        await client.wait_finished()
        body = client.received
    (report,) = reports
    expected = CloseReason.STALLED if ending == "stalls" else CloseReason.CLIENT_DISCONNECTED
    assert report.reason is expected
    assert topic.subscribers == 0
    got = whole_events(body)
    assert len(got) <= report.items + report.dropped < len(events)
    if ending == "stalls":  # else the server took the rest of a write, and had nobody to give it to
        assert report.items <= len(got)
    await topic.aclose()
    last = got[-1].decode() if got else start
    async with open_stream(stream(topic.subscribe(after=last), encoder=SSE())) as client:
        rest = await client.read_all()
    assert [*got, *whole_events(rest)][: len(events) - 1] == [
        id for event in events[1:] for id in whole_events(event)
    ]
    assert b"event: gap" not in rest


async def test_what_is_dropped_under_a_slow_reader_is_a_gap(autojump_clock):
    """Its slices before the gap and behind it are whole, and the gap counts what is between."""
    topic, _ = await filled(1000, replay=Replay(items=1000))
    start = topic.statistics().replay_first
    response = stream(topic.subscribe(after=start), encoder=SSE())
    async with open_stream(response, window=20_000) as client:
        await client.wait_blocked()
        for n in range(1000, 3000):
            await topic.publish(f"{n:100}")
        assert topic.statistics().replay_items == 1000
        client.resume()
        await trio.testing.wait_all_tasks_blocked()
        await topic.publish("the last")
        await topic.aclose()
        body = await client.read_all()
    (gap,) = re.findall(rb"event: gap\ndata: .*\"missed\":(\d+)", body)
    before, _, behind = body.partition(b"event: gap")
    numbers = [int(n) for n in re.findall(rb"data: +(\d+)\n", before)]
    assert numbers == list(range(1, numbers[-1] + 1))
    then = [int(n) for n in re.findall(rb"data: +(\d+)\n", behind)]
    assert not then  # without a snapshot it goes on with what is new
    assert int(gap) == 3000 - len(numbers) - 1
    assert behind.count(b"data: the last") == 1
    assert response.statistics().sliced_items == len(numbers)


async def test_a_run_goes_on_with_the_oldest_event_that_is_kept(autojump_clock):
    """A client of a run that trims gets a gap, and slices of all that is left."""
    app = QuartTrio("t")
    Flowstream(app)
    runs = Runs(replay=Replay(items=500))

    async def source():
        for n in range(2000):
            yield f"{n:100}"

    async with open_lifespan(app):
        response = stream(runs.start("r", source), encoder=SSE())
        await trio.testing.wait_all_tasks_blocked()
        async with open_stream(response) as client:
            body = await client.read_all()
    assert re.findall(rb"\"missed\":(\d+|null)", body) == [b"1500"]
    assert [int(n) for n in re.findall(rb"data: +(\d+)\n", body)] == list(range(1500, 2000))
    assert response.statistics().sliced_items == 500


# -- together with what else a stream may have -------------------------------------------


async def test_the_past_is_not_conflated(autojump_clock):
    """`Conflate` is for events that come while the client is busy, not for those it came for."""
    topic = Topic("t", replay=Replay(items=5000))
    start = await topic.publish("first")
    for n in range(2000):
        await topic.publish(f"{n:100}", key=n % 3)
    response = stream(topic.subscribe(after=start, policy=Conflate()), encoder=SSE())
    async with open_stream(response, window=30_000) as client:
        await client.wait_blocked()
        for n in range(2000, 2100):
            await topic.publish(f"{n:100}", key=n % 3)
        await topic.aclose()
        client.resume()
        body = await client.read_all()
    assert [int(n) for n in re.findall(rb"data: +(\d+)\n", body)] == list(range(2100))
    assert response.statistics().sliced_items == 2100


async def test_a_snapshot_is_followed_by_slices(autojump_clock):
    """A client whose id is too old gets a gap, the snapshot, and what was published meanwhile."""
    made = trio.Event()

    async def snapshot():
        await made.wait()
        return "all of it"

    topic = Topic("t", replay=Replay(items=300), snapshot=snapshot)
    start = await topic.publish("first")
    for n in range(1000):
        await topic.publish(f"{n:100}")
    response = stream(topic.subscribe(after=start), encoder=SSE())
    async with open_stream(response) as client:
        await trio.testing.wait_all_tasks_blocked()  # for the snapshot
        for n in range(1000, 1200):
            await topic.publish(f"{n:100}")
        made.set()
        await trio.testing.wait_all_tasks_blocked()
        await topic.aclose()
        body = await client.read_all()
    check_gap_and_snapshot(body)
    assert response.statistics().sliced_items == 200


async def test_a_snapshot_by_key_is_followed_by_what_is_new(autojump_clock):
    """It is of this moment, so there is no past to catch up with behind it."""
    topic = Topic("t", replay=Replay(items=300), snapshot=LatestByKey())
    start = await topic.publish("first", key="a")
    for n in range(1000):
        await topic.publish(f"{n:100}", key="b")
    known = topic.statistics().replay_first
    response = stream(topic.subscribe(after=start), encoder=SSE())
    async with open_stream(response, window=0) as client:
        await client.wait_blocked()
        for n in range(1000, 1200):
            await topic.publish(f"{n:100}", key="b")
        client.resume()
        await trio.testing.wait_all_tasks_blocked()
        check_gap_and_snapshot(client.received)
        client.abort()
    assert response.statistics().sliced_items == 0
    response = stream(topic.subscribe(after=known), encoder=SSE())
    async with open_stream(response) as client:
        await topic.aclose()
        body = await client.read_all()
    assert body.count(b"event: snapshot") == 1
    assert [int(n) for n in re.findall(rb"data: +(\d+)\n", body)] == []


def check_gap_and_snapshot(body):
    snapshot = body.index(b"event: snapshot")
    assert body.index(b"event: gap") < snapshot
    then = [int(n) for n in re.findall(rb"data: +(\d+)\n", body[snapshot:])]
    assert then == list(range(1000, 1200))


async def test_joined_topics_are_read_event_by_event(autojump_clock):
    """Their ids are each client's own; all events come, each topic's in order."""
    topics = [Topic(name, replay=Replay(items=5000)) for name in "ab"]
    async with open_stream(stream(topics, encoder=SSE())) as client:
        await trio.testing.wait_all_tasks_blocked()
        for topic in topics:
            await topic.publish("first")
        await client.next_event()
        last = (await client.next_event()).id
        client.abort()
    for topic in topics:
        for n in range(1000):
            await topic.publish(f"{topic.name}{n}")
    response = stream(topics, encoder=SSE())
    async with open_stream(response, headers={"last-event-id": last}) as client:
        for topic in topics:
            await topic.aclose()
        body = await client.read_all()
    for topic in topics:
        found = [int(n) for n in re.findall(rb"data: %b(\d+)\n" % topic.name.encode(), body)]
        assert found == list(range(1000))
    assert response.statistics().sliced_items == 0


# -- memory ------------------------------------------------------------------------------


@pytest.mark.parametrize("formats", [1, 3])
async def test_memory_is_bounded_by_the_bytes_of_the_replay(autojump_clock, formats):
    """In all formats together; up to a segment more for each, however many clients have read."""
    bound, data = 1 << 20, "x" * 10_000  # the same data in all events: only encodings take memory
    encoders = [SSE(), NDJSON(), SSE(names={"gap": "lost"})][:formats]
    topic = Topic("t", replay=Replay(items=100_000, bytes=bound))

    async def read(encoder):
        response = stream(topic.subscribe(after=topic.statistics().replay_first), encoder=encoder)
        async with open_stream(response) as client:
            await trio.testing.wait_all_tasks_blocked()
            assert len(client.received) > 99 * 10_000 - 20_000
            client.abort()

    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(6):
            for _ in range(100):
                await topic.publish(data)
            for encoder in encoders:
                await read(encoder)
            assert topic.statistics().replay_bytes <= bound
            gc.collect()
            held = tracemalloc.get_traced_memory()[0] - before
            assert held < bound + formats * SEGMENT_BYTES + 100_000
    finally:
        tracemalloc.stop()
