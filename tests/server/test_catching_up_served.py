"""Clients that catch up over real connections: every event, whole and in order, however served."""

import re
import zlib

import h11
import pytest
import trio
import trio.testing
from _homes import HOMES, bare, starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware

from flowstream import NDJSON, SSE, CloseReason, Replay, Topic, ndjson, sse

EVENTS = 3000
FORMATS = {"sse": (sse, SSE()), "ndjson": (ndjson, NDJSON())}
DEADLINE = 0.6


class Past:
    """A topic with three thousand events of 100 bytes, for clients that lack all but the first.

    Attributes:
        streams: those that were made.
        reports: theirs.
        events: the encodings of all events but the first, joined.
    """

    def __init__(self, kind="sse", **options):
        self.make_stream, self.encoder = FORMATS[kind]
        self.options = options
        self.topic = Topic("past", replay=Replay(items=200_000, bytes=1 << 26))
        self.streams, self.reports = [], []
        self.after = None

    async def fill(self, count=EVENTS, *, closed=True):
        self.after = await self.topic.publish("first")
        for n in range(1, count):
            await self.topic.publish(f"{n:100}")
        kept = self.topic._publisher.history.after(1, count)
        self.events = b"".join(published.encode(self.encoder) for published in kept)
        if closed:
            await self.topic.aclose()
        return self

    def make(self):
        after = self.topic.subscribe(after=self.after)
        self.streams.append(self.make_stream(after, on_close=self.reports.append, **self.options))
        return self.streams[-1]

    @property
    def sliced(self):
        (stream,) = self.streams
        return stream.statistics().sliced_items


async def fetch(stream, *headers):
    """Send a request, and return the body of its response."""
    parser = h11.Connection(h11.CLIENT)
    request = h11.Request(method="GET", target="/", headers=[("Host", "localhost"), *headers])
    await stream.send_all(parser.send(request) + (parser.send(h11.EndOfMessage()) or b""))
    body, coding = [], None
    while True:
        event = parser.next_event()
        if event is h11.NEED_DATA:
            parser.receive_data(await stream.receive_some(1 << 16))
        elif isinstance(event, h11.Response):
            coding = dict(event.headers).get(b"content-encoding")
        elif isinstance(event, h11.Data):
            body.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            data = b"".join(body)
            return data if coding is None else zlib.decompress(data, 31)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("home", HOMES)
async def test_at_each_home(home, kind, server, connect):
    """HTTP/1.1 without TLS, where slices are most of the work."""
    past = await Past(kind).fill()
    body = await fetch(await connect(await server(HOMES[home](past.make))))
    assert past.events in body
    assert past.sliced == EVENTS - 1


@pytest.mark.parametrize("kind", FORMATS)
async def test_through_tls(kind, server, connect, certificate):
    """HTTP/1.1 with TLS: encrypted in pieces of 16 KiB."""
    past = await Past(kind).fill()
    body = await fetch(await connect(await server(bare(past.make), **certificate)))
    assert past.events in body
    assert past.sliced == EVENTS - 1


@pytest.mark.parametrize("who", ["flowstream", "middleware"])
@pytest.mark.parametrize("kind", FORMATS)
async def test_compressed(kind, who, server, connect):
    """With gzip by flowstream, and by Starlette's middleware, which knows nothing of slices."""
    if who == "flowstream":
        past = await Past(kind, compress="gzip").fill()
        app = bare(past.make)
    else:
        past = await Past(kind).fill()
        app = starlette(past.make, [Middleware(GZipMiddleware)])
    body = await fetch(await connect(await server(app)), ("Accept-Encoding", "gzip"))
    assert past.events in body
    assert past.sliced == EVENTS - 1


@pytest.mark.parametrize("tls", [False, True], ids=["cleartext", "tls"])
@pytest.mark.parametrize("window", [100, 65_535, 1 << 20])
@pytest.mark.parametrize("kind", FORMATS)
async def test_http2_windows(kind, window, tls, server, http2, certificate):
    """HTTP/2 with windows smaller than an event, and larger than a slice; two streams at once."""
    count = 300 if window == 100 else EVENTS
    past = await Past(kind).fill(count)
    url = await server(bare(past.make), **certificate if tls else {})
    peer = await http2(url, initial_window_size=window)
    numbers = [await peer.get(), await peer.get()]
    for number in numbers:
        assert past.events in await peer.finished(number, timeout=60)
    assert [one.statistics().sliced_items for one in past.streams] == [count - 1] * 2


@pytest.mark.parametrize("version", ["1.1", "2"])
async def test_a_client_that_stalls_in_a_slice_is_cut(
    version, server, connect, http2, aeventually, clean_log, patient_clock
):
    """It loses its connection at the deadline, and comes back for exactly the rest."""
    count = 8 * EVENTS  # more than the kernel's buffers take
    past = await Past().fill(count)
    url = await server(bare(past.make), write_timeout=DEADLINE)
    if version == "1.1":
        stream = await connect(url, receive_buffer=4096)
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        body = b""
        while len(body) < 100_000:
            body += await stream.receive_some(1000)
        await aeventually(lambda: past.reports, "the stream is cut")
        body = re.sub(rb"\r\n[0-9a-f]+\r\n", b"", body)
    else:
        peer = await http2(url, grants=False, initial_window_size=50_000)
        number = await peer.get()
        await peer.until(lambda: len(peer.bodies[number]) == 50_000)
        body = peer.bodies[number]
        await peer.until_closed()
        await aeventually(lambda: past.reports, "the stream is cut")
    assert past.reports[0].reason is CloseReason.STALLED
    assert past.reports[0].dropped > 0
    assert past.topic.subscribers == 0
    got = re.findall(rb"(?<=\n)id: (\S+)\ndata: +(\d+)\n\n", body)
    past.after = got[-1][0].decode()
    rest = await fetch(await connect(url))
    numbers = [int(n) for n in re.findall(rb"data: +(\d+)\n", rest)]
    assert [int(n) for _, n in got] + numbers == list(range(1, count))


async def test_a_client_that_aborts_in_a_slice_leaves_nothing(
    server, connect, aeventually, clean_log
):
    """Its stream ends, and those of others go on."""
    past = await Past().fill(closed=False)
    url = await server(bare(past.make))
    stream = await connect(url, receive_buffer=4096)
    await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await stream.receive_some(1000)
    await stream.aclose()
    await aeventually(lambda: past.reports, "the stream ends")
    assert past.reports[0].reason is CloseReason.CLIENT_DISCONNECTED
    await aeventually(lambda: past.topic.subscribers == 0, "it leaves the topic")
    await past.topic.aclose()
    assert past.events in await fetch(await connect(url))


async def test_with_a_filter_it_is_event_by_event(server, connect):
    """The same events, less those that the filter leaves out."""
    past = await Past("ndjson").fill()
    past.make_stream = lambda _, **options: ndjson(
        past.topic.subscribe(after=past.after, where=lambda event: int(event.data) % 7 == 0),
        **options,
    )
    body = await fetch(await connect(await server(bare(past.make))))
    numbers = [int(n) for n in re.findall(rb'" +(\d+)"', body)]
    assert numbers == list(range(7, EVENTS, 7))
    assert past.sliced == 0


async def test_events_that_come_meanwhile_follow(server, connect):
    """A client that catches up while others publish misses nothing, and gets nothing twice."""
    past = await Past().fill(closed=False)
    url = await server(bare(past.make))
    more = 2000

    async def publish():
        for n in range(EVENTS, EVENTS + more):
            await past.topic.publish(f"{n:100}")
            if n % 50 == 0:
                await trio.testing.wait_all_tasks_blocked(0.0001)
        await past.topic.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(publish)
        body = await fetch(await connect(url))
    numbers = [int(n) for n in re.findall(rb"data: +(\d+)\n", body)]
    assert numbers == list(range(1, EVENTS + more))
