"""Direct writes over HTTP/2, on real sockets: nothing is lost, doubled or out of order."""

import json
import math
import random

import pytest
import trio
from _homes import HOMES
from h2.errors import ErrorCodes
from trio.testing import wait_all_tasks_blocked

from flowstream import Block, CloseReason, Topic, ndjson, serve
from flowstream.asgi._direct_write import NotDirect
from flowstream.server import streaming_config
from flowstream.server._wire import Wire
from flowstream.server.http2._direct_frames import MOST
from flowstream.topics import _fanout

PLAIN = {"heartbeat": None, "controls": False}


@pytest.fixture(params=["cleartext", "TLS"])
def encryption(request, certificate):
    """The settings of a server that speaks HTTP/2, without and with TLS."""
    return {"h2c": True} if request.param == "cleartext" else certificate


def numbers(body):
    """Return the numbers in a body of NDJSON, whose last line may not have come whole."""
    whole = bytes(body[: body.rfind(b"\n") + 1])
    return [json.loads(line)["data"] for line in whole.splitlines() if line]


class Streams:
    """One topic to each request's client.

    Attributes:
        responses: by path.
        reports: as they come.
    """

    def __init__(self, **options):
        self.topic = Topic("t")
        self.responses, self.reports = {}, []
        self.options = {**PLAIN, "buffer": 10_000, **options}

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        made = ndjson(self.topic, on_close=self.reports.append, **self.options)
        self.responses[scope["path"]] = made
        await made(scope, receive, send)


async def begun(peer, streams, paths):
    """Open a stream for each path; return their numbers when all wait for events."""
    opened = [await peer.get(path) for path in paths]
    await peer.until(lambda: streams.topic.subscribers == len(opened))
    await streams.topic.publish(-1)  # the first goes through the writer, with the head
    await peer.until(lambda: all(numbers(peer.bodies[number]) for number in opened))
    await wait_all_tasks_blocked(0.02)
    return opened


@pytest.mark.parametrize("home", HOMES)
async def test_every_delivery_is_direct_in_each_home(home, server, http2, encryption):
    """With nothing to set, an event goes to each of ten streams past their writers."""
    topic = Topic("t")
    app = HOMES[home](lambda: ndjson(topic, **PLAIN))
    peer = await http2(await server(app, **encryption))
    opened = [await peer.get("/") for _ in range(10)]
    await peer.until(lambda: topic.subscribers == 10)
    await topic.publish(-1)
    await peer.until(lambda: all(peer.bodies[number] for number in opened))
    await wait_all_tasks_blocked(0.02)
    before = topic.statistics().direct_deliveries
    for n in range(20):
        await topic.publish(n)
    await peer.until(lambda: all(numbers(peer.bodies[one])[-1] == 19 for one in opened))
    assert topic.statistics().direct_deliveries - before == 200
    await topic.aclose()
    for number in opened:
        assert numbers(await peer.finished(number)) == list(range(-1, 20))
        assert number in peer.ended


async def test_one_write_for_all_streams_of_a_connection(server, http2, monkeypatch):
    """Fifty clients on one connection cost one write an event, not fifty."""
    streams = Streams()
    peer = await http2(await server(streams, h2c=True))
    opened = await begun(peer, streams, [f"/{n}" for n in range(50)])
    await wait_all_tasks_blocked(0.05)  # until the answers to the client's settings are written
    # On a slow machine other tasks run in the middle of an event's deliveries, and what was
    # delivered by then is a write of its own.
    monkeypatch.setattr(_fanout, "_BURST_SECONDS", math.inf)
    writes = []
    write = Wire.write_nowait

    def counted(self, data):
        writes.append(len(data))
        return write(self, data)

    monkeypatch.setattr(Wire, "write_nowait", counted)
    for n in range(10):
        await streams.topic.publish(n)
        await wait_all_tasks_blocked(0.01)
    assert len(writes) == 10
    await peer.until(lambda: all(numbers(peer.bodies[one])[-1] == 9 for one in opened))


async def test_a_closed_window_leads_to_the_buffer(server, http2, encryption):
    """Events go directly while the client's window is open for them, then wait; none is lost."""
    streams = Streams()
    url = await server(streams, **encryption)
    peer = await http2(url, grants=False, initial_window_size=600)
    (number,) = await begun(peer, streams, ["/"])
    for n in range(50):
        await streams.topic.publish(n)
    await wait_all_tasks_blocked(0.02)
    statistics = streams.responses["/"].statistics()
    assert 3 < statistics.direct_items < 30
    await peer.until(lambda: len(peer.bodies[number]) == 600)
    await peer.grant(number, 100_000)
    await peer.until(lambda: numbers(peer.bodies[number])[-1] == 49)
    before = streams.responses["/"].statistics().direct_items
    await wait_all_tasks_blocked(0.02)
    await streams.topic.publish(50)
    assert streams.responses["/"].statistics().direct_items == before + 1
    await streams.topic.aclose()
    assert numbers(await peer.finished(number)) == list(range(-1, 51))


@pytest.mark.parametrize("seed", range(4))
async def test_any_order_of_windows_and_events(seed, server, http2, encryption):
    """Windows that open at random let each stream have each event once, in order."""
    chance = random.Random(seed)
    streams = Streams()
    url = await server(streams, **encryption)
    peer = await http2(url, grants=False, initial_window_size=300)
    opened = await begun(peer, streams, ["/a", "/b", "/c"])
    for n in range(200):
        await streams.topic.publish(n)
        if chance.random() < 0.3:
            await peer.grant(chance.choice(opened), chance.randrange(1, 2000))
        if chance.random() < 0.3:
            await wait_all_tasks_blocked(0.001)
        if chance.random() < 0.2:
            await peer.fence()
    for number in opened:
        await peer.grant(number, 100_000)
    await streams.topic.aclose()
    for number in opened:
        assert numbers(await peer.finished(number)) == list(range(-1, 200))
    direct = streams.topic.statistics().direct_deliveries
    assert 0 < direct < 600


async def test_a_window_that_settings_make_negative(server, http2):
    """A client that takes back what it has granted gets nothing directly until it grants again."""
    streams = Streams()
    peer = await http2(await server(streams, h2c=True), initial_window_size=1000, grants=False)
    (number,) = await begun(peer, streams, ["/"])
    await streams.topic.publish(0)
    peer.h2.update_settings({4: 10})  # INITIAL_WINDOW_SIZE
    await peer.flush()
    await peer.fence()
    before = streams.topic.statistics().direct_deliveries
    for n in range(1, 5):
        await streams.topic.publish(n)
    assert streams.topic.statistics().direct_deliveries == before
    await peer.grant(number, 10_000)
    await streams.topic.aclose()
    assert numbers(await peer.finished(number)) == list(range(-1, 5))


async def test_a_stream_that_its_client_resets(server, http2, encryption):
    """The others go on, and the one that is reset gets nothing more and is left at once."""
    streams = Streams()
    peer = await http2(await server(streams, **encryption))
    first, second = await begun(peer, streams, ["/a", "/b"])
    await streams.topic.publish(0)
    peer.h2.reset_stream(first, ErrorCodes.CANCEL)
    await peer.flush()
    await peer.until(lambda: streams.topic.subscribers == 1)
    for n in range(1, 10):
        await streams.topic.publish(n)
    await streams.topic.aclose()
    assert numbers(await peer.finished(second)) == list(range(-1, 10))
    assert {report.reason for report in streams.reports} == {
        CloseReason.CLIENT_DISCONNECTED,
        CloseReason.COMPLETED,
    }
    assert not peer.closed


async def test_a_client_that_reads_nothing(server, http2, aeventually, encryption):
    """It holds up nobody, keeps little, and is given up at its deadline: stalled."""
    streams = Streams(buffer=16)
    url = await server(streams, write_timeout=1.0, **encryption)
    size = 2**31 - 1
    stalled = await http2(url, grants=False, receive_buffer=4096, initial_window_size=size)
    stalled.h2.increment_flow_control_window(2**30)
    reader = await http2(url)
    (idle,) = await begun(stalled, streams, ["/stalled"])
    number = await reader.get("/reader")
    await reader.until(lambda: streams.topic.subscribers == 2)
    event = "x" * 10_000
    published = 0
    with trio.fail_after(20):
        while streams.topic.subscribers == 2:
            await streams.topic.publish(event)
            published += 1
            await reader.until(lambda: len(numbers(reader.bodies[number])) == published)  # noqa: B023
            await trio.sleep(0.005)
    (report,) = streams.reports
    assert report.reason is CloseReason.STALLED
    assert report.dropped > 0
    await streams.topic.aclose()
    assert numbers(await reader.finished(number)) == [event] * published
    assert len(stalled.bodies[idle]) < 1000


async def test_the_end_comes_behind_what_was_just_published(server, http2, encryption):
    """Between an event and the end of its topic nobody runs; the client gets both, in order."""
    streams = Streams(controls=True)
    peer = await http2(await server(streams, **encryption))
    opened = await begun(peer, streams, ["/a", "/b"])
    for n in range(5):
        streams.topic.publish_nowait(n)
    closing = streams.topic.aclose()
    await closing
    for number in opened:
        *events, last = [json.loads(line) for line in (await peer.finished(number)).splitlines()]
        found = [one["data"] for one in events if isinstance(one.get("data"), int)]
        assert found == list(range(-1, 5))
        assert "end" in str(last)
        assert number in peer.ended


async def test_a_publisher_that_lets_nobody_run(server, http2):
    """What it hands over is bounded for a connection; the rest waits in the clients' buffers."""
    streams = Streams()
    size = 2**24
    peer = await http2(await server(streams, h2c=True), initial_window_size=size)
    peer.h2.increment_flow_control_window(size)
    (number,) = await begun(peer, streams, ["/"])
    await peer.fence()
    event = "x" * 1000
    before = streams.topic.statistics().direct_deliveries
    for _ in range(200):
        streams.topic.publish_nowait(event)
    direct = streams.topic.statistics().direct_deliveries - before
    assert 0 < direct * 1000 <= MOST
    await streams.topic.aclose()
    assert numbers(await peer.finished(number)) == [-1, *[event] * 200]


async def test_a_shutdown_says_goodbye_behind_events(http2, encryption):
    """At the server's end each client has all events and the last word, and its stream's end."""
    streams = Streams(controls=True)
    stop = trio.Event()
    config = streaming_config(bind=["127.0.0.1:0"], errorlog=None, **encryption)
    async with trio.open_nursery() as nursery:

        async def serving(task_status):
            await serve(streams, config, shutdown_trigger=stop.wait, task_status=task_status)

        (url,) = await nursery.start(serving)
        peer = await http2(url)
        opened = await begun(peer, streams, ["/a", "/b"])
        for n in range(5):
            await streams.topic.publish(n)
        stop.set()
        for number in opened:
            body = await peer.finished(number)
            found = [json.loads(line).get("data") for line in body.splitlines() if line]
            assert [one for one in found if isinstance(one, int)] == list(range(-1, 5))
            assert b"reconnect" in body
            assert number in peer.ended
    assert {report.reason for report in streams.reports} == {CloseReason.SHUTDOWN}


async def test_behind_a_goaway_streams_go_on(server, http2):
    """What was open when the connection said goodbye is written to directly as before."""
    streams = Streams()
    peer = await http2(await server(streams, h2c=True, keep_alive_max_requests=2))
    opened = await begun(peer, streams, [f"/{n}" for n in range(4)])
    await peer.get("/", method="HEAD")  # when a stream has ended, it is asked whether to go
    await peer.until(lambda: peer.goaway)
    before = streams.topic.statistics().direct_deliveries
    for n in range(5):
        await streams.topic.publish(n)
    assert streams.topic.statistics().direct_deliveries - before == 20
    await streams.topic.aclose()
    for number in opened:
        assert numbers(await peer.finished(number)) == list(range(-1, 5))
    await peer.until_closed()


async def test_an_event_larger_than_a_frame(server, http2):
    """It goes through the buffer, which cuts it into frames, and others follow it directly."""
    streams = Streams()
    peer = await http2(await server(streams, h2c=True), initial_window_size=2**20)
    (number,) = await begun(peer, streams, ["/"])
    for event in ("x" * 40_000, 1, 2):
        await streams.topic.publish(event)
        await wait_all_tasks_blocked(0.01)
    await peer.until(lambda: numbers(peer.bodies[number])[-1] == 2)
    assert numbers(peer.bodies[number]) == [-1, "x" * 40_000, 1, 2]
    assert streams.responses["/"].statistics().direct_items >= 2


async def test_a_head_request_is_not_written_to(server, http2):
    """It has no body; the stream says that it was refused."""
    streams = Streams()
    peer = await http2(await server(streams, h2c=True))
    number = await peer.get("/", method="HEAD")
    await peer.finished(number)
    await streams.topic.publish(0)
    assert peer.bodies[number] == b""
    assert streams.topic.statistics().direct_deliveries == 0


async def test_a_slow_reader_under_block_gets_all(server, http2):
    """A topic that waits for its clients loses nothing when their windows are small."""
    streams = Streams(policy=Block(timeout=10), buffer=4)
    peer = await http2(await server(streams, h2c=True), initial_window_size=200)
    (number,) = await begun(peer, streams, ["/"])

    async def publish():
        for n in range(300):
            await streams.topic.publish(n)
        await streams.topic.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(publish)
        body = await peer.finished(number)
    assert numbers(body) == list(range(-1, 300))


async def test_a_compressed_body_is_not_written_to(server, http2):
    """Its bytes are each client's own."""
    streams = Streams(compress="gzip")
    peer = await http2(await server(streams, h2c=True))
    await peer.get("/", ("accept-encoding", "gzip"))
    await peer.until(lambda: streams.topic.subscribers)
    await streams.topic.publish(0)
    assert streams.responses["/"].statistics().why_not_direct == NotDirect.OTHER_BODY
