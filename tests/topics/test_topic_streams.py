"""Topics on the wire: resume, gaps, snapshots, and the way past the writer."""

import json
import logging

import pytest
import trio
import trio.testing
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Route

from flowstream import (
    Buffer,
    Event,
    LatestByKey,
    Limits,
    PublicError,
    Replay,
    Topic,
    csv,
    ndjson,
    raw,
    sse,
)
from flowstream.testing import open_stream


def last(id):
    return {"last-event-id": id}


async def read(client, count):
    return [
        (event.type, event.data, event.id)
        for event in [await client.next_event() for _ in range(count)]
    ]


async def test_a_client_goes_on_where_it_left_off(autojump_clock):
    """By the header, or by the query, of which the header wins; with an app's own ids, too."""
    for path, header, expected in (
        ("/", "FIRST", ["b", "c"]),
        ("/", "own", ["c"]),
        ("/?lastEventId=FIRST", None, ["b", "c"]),
        ("/?lastEventId=FIRST", "own", ["c"]),
    ):
        topic = Topic("t")
        first = await topic.publish("a")
        await topic.publish("b", id="own")
        await topic.publish("c")
        headers = {} if header is None else last(header.replace("FIRST", first))
        async with open_stream(sse(topic), path.replace("FIRST", first), headers=headers) as client:
            assert [data for _, data, _ in await read(client, len(expected))] == expected
            await topic.publish("live")
            assert (await client.next_event()).data == "live"


@pytest.mark.parametrize(
    "id",
    [
        *("nonsense", "0123abcd.1", "1lgppmf8l75.a1", "é", "x" * 5000, "EPOCH.a1" + "~" * 5000),
        *("EPOCH.1", "EPOCH.b99", "EPOCH.b1", "EPOCH.a1x", "EPOCH.lost", "61afodmm:EPOCH.a1"),
    ],
)
@pytest.mark.on_each_log
async def test_an_id_that_is_not_known(id, autojump_clock):
    """A gap of unknown size, which repeats nothing of it, then live: nothing is replayed."""
    topic = Topic("t")
    await topic.publish("a")
    async with open_stream(
        sse(topic), headers=[(b"last-event-id", id.replace("EPOCH", topic.epoch).encode())]
    ) as client:
        assert await read(client, 1) == [("gap", '{"missed":null,"after":null,"before":null}', "")]
        await topic.publish("b")
        assert (await client.next_event()).data == "b"


async def test_falling_off_the_ring(autojump_clock):
    """A client slower than the ring is told how much it missed, and from where; then it is live."""
    topic = Topic("t", replay=Replay(items=3))
    ids = [await topic.publish(n) for n in range(10)]
    async with open_stream(sse(topic), headers=last(ids[1])) as client:
        assert await read(client, 1) == [
            (
                "gap",
                json.dumps({"missed": 8, "after": ids[1], "before": None}, separators=(",", ":")),
                "",
            )
        ]
        await topic.publish("live")
        assert (await client.next_event()).data == "live"


async def test_what_a_gap_is_after_when_nothing_came_yet(autojump_clock):
    """A client that came back and lost events before its first is told of the id it came with."""
    topic = Topic("t")
    id = await topic.publish("seen")
    async with open_stream(sse(topic, buffer=1), headers=last(id), window=0) as client:
        await trio.testing.wait_all_tasks_blocked()
        for n in range(4):
            await topic.publish(n)
        kind, body, _ = (await read(client, 1))[0]
        assert kind == "gap"
        assert json.loads(body) == {"missed": 3, "after": id, "before": f"{topic.epoch}.a5"}
        assert (await client.next_event()).data == "3"


async def test_a_snapshot_comes_first_and_once(autojump_clock):
    """New clients share one call; what is published meanwhile follows with no seam."""
    calls = []

    async def state():
        calls.append(trio.current_time())
        await trio.sleep(1)
        return {"n": len(calls)}

    topic = Topic("t", snapshot=state)
    await topic.publish("before")
    async with open_stream(sse(topic)) as one, open_stream(sse(topic)) as two:
        await trio.sleep(0.5)
        await topic.publish("while")
        for client in (one, two):
            assert await read(client, 2) == [
                ("snapshot", '{"n":1}', f"{topic.epoch}.a1"),
                ("message", "while", f"{topic.epoch}.a2"),
            ]
    assert len(calls) == 1


async def test_the_caller_of_a_snapshot_leaves(autojump_clock):
    """Its call is cancelled with it; the next that waits calls again."""
    calls = []

    async def state():
        calls.append(trio.current_time())
        await trio.sleep(1)
        return "state"

    topic = Topic("t", snapshot=state)
    async with open_stream(sse(topic)) as one:
        await trio.testing.wait_all_tasks_blocked()
        async with open_stream(sse(topic)) as two:
            await trio.sleep(0.5)
            one.abort()
            assert (await two.next_event()).data == "state"
    assert len(calls) == 2


async def test_a_snapshot_that_fails(autojump_clock, caplog):
    """Everyone who waits for it is told in band, may come back, and the log says why."""
    caplog.set_level(logging.CRITICAL, logger="flowstream")

    async def state():
        await trio.sleep(1)
        raise ZeroDivisionError("secret")

    topic = Topic("t", snapshot=state)
    reports = []
    async with (
        open_stream(sse(topic, on_close=reports.append)) as one,
        open_stream(ndjson(topic, on_close=reports.append)) as two,
    ):
        kind, body, id = (await read(one, 1))[0]
        assert (kind, json.loads(body)["code"], id) == ("failed", "snapshot", "")
        assert (await two.next_value())["data"]["code"] == "snapshot"
        for client in (one, two):
            await client.wait_finished()
            assert client.complete
            assert b"secret" not in client.received
    assert [report.reason for report in reports] == ["error", "error"]
    assert all(isinstance(report.error, PublicError) for report in reports)
    assert topic.statistics().subscribers == 0


@pytest.mark.on_each_log
async def test_a_snapshot_that_cannot_be_encoded(autojump_clock, caplog):
    """It fails like one that cannot be made, and says so in the log."""
    caplog.set_level(logging.ERROR, logger="flowstream")

    async def state():
        await trio.lowlevel.checkpoint()
        return object()

    async with open_stream(sse(Topic("t", snapshot=state))) as client:
        kind, body, _ = (await read(client, 1))[0]
    assert (kind, json.loads(body)["code"]) == ("failed", "snapshot")
    assert any("of no use" in record.getMessage() for record in caplog.records)


async def test_a_snapshot_that_the_replay_never_reaches_back_to(autojump_clock, caplog):
    """It is tried a few times, each with its gap, and then the client is told to come back."""
    caplog.set_level(logging.CRITICAL, logger="flowstream")
    topic = Topic("t", replay=Replay(items=2))

    async def state():
        await trio.lowlevel.checkpoint()
        return Event("old", id=f"{topic.epoch}.a1")

    for n in range(9):
        await topic.publish(n)
    topic._publisher.snapshots = Topic("other", snapshot=state)._publisher.snapshots
    topic._publisher.snapshots._history = topic._publisher.history
    async with open_stream(sse(topic)) as client:
        events = [event async for event in client]
    kinds = [event.type for event in events]
    assert kinds[-1] == "failed"
    assert kinds.count("snapshot") == 3


async def test_a_snapshot_says_what_is_in_it(autojump_clock):
    """Its as-of id decides what follows it: nothing twice, nothing missed."""
    topic = Topic("t")

    async def state():
        await trio.sleep(1)
        return Event("up to two", id=f"{topic.epoch}.a2")

    topic = Topic("t", snapshot=state)
    await topic.publish(1)
    async with open_stream(sse(topic)) as client:
        await trio.sleep(0.5)
        await topic.publish(2)
        await topic.publish(3)
        assert await read(client, 2) == [
            ("snapshot", "up to two", f"{topic.epoch}.a2"),
            ("message", "3", f"{topic.epoch}.a3"),
        ]


@pytest.mark.on_each_log
async def test_the_latest_of_each_key(autojump_clock, caplog):
    """In the order in which they were last published; bounded, with one word in the log."""
    topic = Topic("t", snapshot=LatestByKey(keys=2))
    for key, data in (("a", 1), ("b", 2), ("a", 3), (None, 4), ("c", 5), ("d", 6)):
        await topic.publish(data, key=key)
    async with open_stream(sse(topic)) as client:
        kind, body, id = (await read(client, 1))[0]
    assert (kind, id) == ("snapshot", f"{topic.epoch}.a6")
    assert json.loads(body) == [{"key": "c", "data": 5}, {"key": "d", "data": 6}]
    assert len([r for r in caplog.records if "more than 2 keys" in r.getMessage()]) == 1


@pytest.mark.on_each_log
async def test_a_stream_leaves_a_topic_that_has_ended(autojump_clock):
    """It gets all there is, ends with `completed`, and is counted no more."""
    topic = Topic("t")
    reports = []
    async with open_stream(sse(topic, on_close=reports.append), window=0) as client:
        await trio.testing.wait_all_tasks_blocked()
        for n in range(3):
            await topic.publish(n)
        await topic.aclose()
        client.resume()
        events = [(event.type, event.data) async for event in client]
    assert events == [*(("message", str(n)) for n in range(3)), ("end", '{"reason":"completed"}')]
    assert reports[0].reason == "completed"
    assert reports[0].items == 3
    assert topic.statistics().subscribers == 0


# -- past the writer, on real sockets ----------------------------------------------------------


def app_of(make, reports, served=None):
    async def app(scope, receive, send):
        if scope["type"] == "http":
            response = make(reports.append)
            if served is not None:
                served.append(response)
            await response(scope, receive, send)

    return app


def body_of(data):
    """Return the body of a chunked response, which must be framed to the letter."""
    head, _, rest = data.partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head.lower()
    body = b""
    while True:
        size, mark, rest = rest.partition(b"\r\n")
        assert mark
        size = int(size, 16)
        body, end, rest = body + rest[:size], rest[size : size + 2], rest[size + 2 :]
        assert end == b"\r\n"
        if not size:
            assert not rest
            return body


class Counted:
    """Counts the writes that went past a connection's writer."""

    def __init__(self, monkeypatch):
        from flowstream.asgi._direct_write import DirectWrite

        self.direct = 0
        write = DirectWrite.write

        def counting(direct_write, data):
            done = write(direct_write, data)
            self.direct += done
            return done

        monkeypatch.setattr(DirectWrite, "write", counting)


@pytest.fixture
def counted(monkeypatch):
    return Counted(monkeypatch)


async def listening(topic, aeventually):
    await aeventually(lambda: topic.statistics().subscribers, "the client has subscribed")
    await trio.testing.wait_all_tasks_blocked(0.02)


FORMATS = {
    "sse": (sse, lambda text: f"data: {text}\n\n".encode()),
    "ndjson": (ndjson, lambda text: f'"{text}"'.encode()),
    "raw": (raw, lambda text: text.encode()),
}


@pytest.mark.parametrize("format", FORMATS)
async def test_both_paths_count_alike(format, server, client, aeventually, counted):
    """What is written directly is in the report like what the writer writes."""
    make, piece = FORMATS[format]
    topic, reports = Topic("t"), []
    url = await server(app_of(lambda note: make(topic, on_close=note), reports))
    peer = client(url)
    await trio.to_thread.run_sync(lambda: peer.get("/", "Connection: close"))
    await listening(topic, aeventually)
    for n in range(5):
        await topic.publish(f"one {n}")
        await trio.testing.wait_all_tasks_blocked(0.005)
    topic.publish_nowait("")
    await topic.publish("two")
    await topic.aclose()
    body = body_of(await trio.to_thread.run_sync(peer.read_all))
    assert all(piece(f"one {n}") in body for n in range(5))
    assert piece("two") in body
    await aeventually(lambda: reports, "the report")
    assert (reports[0].reason, reports[0].items, reports[0].dropped) == ("completed", 7, 0)
    assert reports[0].bytes == len(body)
    assert reports[0].first_byte is not None
    # A format that begins with nothing has its first item sent: some body has to arrive first.
    assert counted.direct >= (5 if format == "sse" else 4)


@pytest.mark.on_each_log
async def test_csv_has_its_header_though_events_come_one_by_one(server, client, aeventually):
    """A format that puts something in front of its first item is not written past."""
    topic, reports = Topic("t"), []
    make = app_of(lambda note: csv(topic, columns=["a", "b"], on_close=note), reports)
    peer = client(await server(make))
    await trio.to_thread.run_sync(lambda: peer.get("/", "Connection: close"))
    await listening(topic, aeventually)
    # A topic's events are encoded as SSE if no format is shared: rows are lists there.
    await topic.publish([1, 2])
    await trio.testing.wait_all_tasks_blocked(0.005)
    await topic.publish([3, 4])
    await topic.aclose()
    body = body_of(await trio.to_thread.run_sync(peer.read_all))
    assert body.split() == [b"a,b", b"1,2", b"3,4"]


@pytest.mark.on_each_log
async def test_max_bytes_holds(server, client, aeventually, counted):
    """A stream with a bound in bytes is not written past, and the bound is kept."""
    topic, reports = Topic("t"), []
    limits = Limits(max_bytes=200)
    make = app_of(lambda note: ndjson(topic, limits=limits, on_close=note), reports)
    peer = client(await server(make))
    await trio.to_thread.run_sync(lambda: peer.get("/", "Connection: close"))
    await listening(topic, aeventually)
    for n in range(20):
        await topic.publish(f"event {n}")
        await trio.testing.wait_all_tasks_blocked(0.002)
    await aeventually(lambda: reports, "the report")
    assert reports[0].reason == "max_bytes"
    assert counted.direct == 0
    assert topic.statistics().subscribers == 0


@pytest.mark.parametrize("kind", ["middleware", "HTTP/1.0", "where"])
@pytest.mark.on_each_log
async def test_what_is_never_written_past(kind, server, client, aeventually, counted):
    """Middleware that compresses, a response without chunks, a filter: the ordinary way."""
    topic, reports = Topic("t"), []
    where = (lambda event: True) if kind == "where" else None

    def make(note):
        stream = ndjson if kind == "middleware" else sse  # Starlette does not compress SSE
        return stream(topic, on_close=note, where=where)

    app = app_of(make, reports)
    if kind == "middleware":
        routes = [Route("/", lambda request: make(reports.append))]
        app = Starlette(routes=routes, middleware=[Middleware(GZipMiddleware, minimum_size=1)])
    peer = client(await server(app))
    version = "1.0" if kind == "HTTP/1.0" else "1.1"
    headers = (
        ["Connection: close", "Accept-Encoding: gzip"]
        if kind == "middleware"
        else ["Connection: close"]
    )
    await trio.to_thread.run_sync(lambda: peer.get("/", *headers, version=version))
    await listening(topic, aeventually)
    for n in range(3):
        await topic.publish(f"event {n}")
        await trio.testing.wait_all_tasks_blocked(0.005)
    await topic.aclose()
    data = await trio.to_thread.run_sync(peer.read_all)
    assert counted.direct == 0
    if kind == "middleware":
        assert reports[0].items == 3
        assert b"content-encoding: gzip" in data.lower()
    else:
        assert data.count(b"data: event") == 3


async def test_a_short_direct_write_is_made_whole(server, client, aeventually, counted):
    """What the kernel does not take goes out before anything else: no byte is lost or moved."""
    topic, reports = Topic("t", replay=Replay(items=10)), []
    buffer = Buffer(items=10_000, bytes=1 << 30)
    make = app_of(lambda note: raw(topic, buffer=buffer, on_close=note), reports)
    peer = client(await server(make), receive_buffer=4096)
    await trio.to_thread.run_sync(lambda: peer.get("/", "Connection: close"))
    await listening(topic, aeventually)
    await topic.publish(b"what is sent first")
    await trio.testing.wait_all_tasks_blocked(0.02)
    expected = b"what is sent first"
    for n in range(40):
        piece = bytes([65 + n % 26]) * 150_000
        expected += piece
        topic.publish_nowait(piece)
        await trio.lowlevel.checkpoint()
    await topic.aclose()
    body = body_of(await trio.to_thread.run_sync(peer.read_all))
    assert body == expected
    await aeventually(lambda: reports, "the report")
    assert (reports[0].items, reports[0].bytes) == (41, len(expected))
    assert counted.direct >= 1


async def test_what_a_stopped_stream_had_yet_to_read_is_announced(autojump_clock):
    """A client that is catching up when its stream is stopped for good is told what is left."""
    topic = Topic("t")
    ids = [await topic.publish(number) for number in range(1000)]
    response = sse(topic)
    async with open_stream(response, headers=last(ids[0]), window=4000) as client:
        await client.next_event()
        await trio.testing.wait_all_tasks_blocked()
        response.stop()
        events = [event async for event in client]
    numbers = [int(event.data) for event in events if event.type == "message"]
    gaps = [json.loads(event.data)["missed"] for event in events if event.type == "gap"]
    assert 1 + len(numbers) + sum(gaps) == 999
    assert events[-2].type == "gap"
    assert json.loads(events[-1].data) == {"reason": "stopped"}


async def test_heartbeats_go_on_while_a_snapshot_is_made(autojump_clock):
    """The head comes before it, and heartbeats at their interval; then the snapshot."""

    async def state():
        await trio.sleep(10)
        return "state"

    topic = Topic("t", snapshot=state)
    async with open_stream(sse(topic, heartbeat=3)) as client:
        await trio.sleep(0.1)
        assert client.status == 200
        await topic.publish("while")
        await trio.sleep(9.5)
        assert client.received.count(b"\n:") == 3  # at 3, 6 and 9 s
        assert [kind for kind, *_ in await read(client, 2)] == ["snapshot", "message"]


@pytest.mark.parametrize("joined", [False, True])
async def test_a_snapshot_function_that_hangs_is_given_up(autojump_clock, caplog, joined):
    """After `snapshot_timeout`; who waits for it is told, and the next client calls it again."""
    caplog.set_level(logging.CRITICAL, logger="flowstream")
    calls = []

    async def state():
        calls.append(trio.current_time())
        if len(calls) == 1:
            await trio.sleep_forever()
        return "state"

    topic = Topic("t", snapshot=state, snapshot_timeout=5)
    feed = [topic, Topic("other")] if joined else topic

    async def app(scope, receive, send):
        await sse(feed)(scope, receive, send)

    async with open_stream(app) as one, open_stream(app) as two:
        await trio.sleep(4.9)
        assert not one.finished
        for client in (one, two):
            kind, body, _ = (await read(client, 1))[0]
            assert (kind, json.loads(body)["code"]) == ("failed", "snapshot")
            await client.wait_finished()
    assert trio.current_time() == pytest.approx(calls[0] + 5, abs=0.1)
    async with open_stream(app) as client:
        assert (await client.next_event()).data == "state"


async def test_heartbeats_before_a_snapshot_count_towards_max_bytes(autojump_clock):
    """A stream that reaches its limit while it waits ends."""

    async def state():
        await trio.sleep_forever()

    reports = []
    app = sse(
        Topic("t", snapshot=state),
        heartbeat=1,
        limits=Limits(max_bytes=100),
        on_close=reports.append,
    )
    async with open_stream(app) as client:
        await client.wait_finished()
    assert [report.reason for report in reports] == ["max_bytes"]
    assert b"snapshot" not in client.received


async def test_a_snapshot_that_is_lost_again_while_it_is_made(autojump_clock):
    """A client that falls out of the replay gets heartbeats, a gap and a snapshot."""

    async def state():
        await trio.sleep(2)
        return "state"

    topic = Topic("t", replay=Replay(items=2), snapshot=state)
    id = await topic.publish(0)
    async with open_stream(sse(topic, heartbeat=0.5), headers=last(id), window=0) as client:
        for n in range(500):
            await topic.publish(n)
        client.resume()
        await trio.sleep(1.9)
        assert b":" in client.received
        assert [kind for kind, *_ in await read(client, 2)] == ["gap", "snapshot"]


async def test_a_client_that_wants_none_of_a_long_past_lets_others_run(autojump_clock):
    """Others run while it looks at one batch after another, though it has nothing to write."""
    topic = Topic("t", replay=Replay(items=3000))
    first = await topic.publish(0)
    for n in range(2560):
        topic.publish_nowait(n)
    turns, looked = [0], []

    def where(event):
        looked.append(turns[0])
        return False

    async with (
        open_stream(sse(topic, where=where), headers=last(first)),
        trio.open_nursery() as nursery,
    ):

        @nursery.start_soon
        async def count():
            while len(looked) < 2560:
                turns[0] += 1
                await trio.lowlevel.checkpoint()

    assert len(looked) == 2560
    assert len(set(looked)) >= 4  # of ten batches: a task may have two turns in a row


async def test_a_snapshot_is_no_older_than_what_its_reader_has(autojump_clock):
    """New readers share a call; who has seen what was published since it began has one made."""
    calls = []

    async def state():
        number = len(ids)
        calls.append(number)
        await trio.sleep(1)
        return f"of {number}"

    ids = []
    topic = Topic("t", replay=Replay(items=1), snapshot=state)
    got = {}

    async def read_one(who, after):
        async with topic.subscribe(after=after) as events:
            event = await events.__anext__()
            while event.type == "gap":
                event = await events.__anext__()
            got[who] = event.data

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_one, "new", None)
        nursery.start_soon(read_one, "new, too", None)
        await trio.testing.wait_all_tasks_blocked()
        assert calls == [0]
        ids += [await topic.publish(n) for n in range(5)]
        nursery.start_soon(read_one, "back", ids[2])
    assert got["back"] == "of 5"


async def test_who_comes_while_a_snapshot_is_made_shares_it(autojump_clock):
    """Before the first event, too: the app's function is called once for all of them."""
    calls, got = [], []

    async def state():
        calls.append(trio.current_time())
        await trio.sleep(1)
        return "state"

    topic = Topic("t", snapshot=state)

    async def read_one():
        async with topic.subscribe() as events:
            got.append((await events.__anext__()).data)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(read_one)
    assert got == ["state"] * 3
    assert len(calls) == 1
