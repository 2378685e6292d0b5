"""Direct writes are exact: byte for byte what the same stream is without them.

Every response is read in full, by clients that are fast, slow, and stalled for a while, with more
requests on each connection, in each format; and so are those of the same app with `direct=False`.
"""

import gzip
import socket
from random import Random
from urllib.parse import urlsplit

import h11
import pytest
import trio
import trio.testing
from _homes import HOMES, bare
from _middleware import SEEN, TRANSPARENT, UNSEEN
from hypothesis import given, settings
from hypothesis import strategies as st

import flowstream
from flowstream import Buffer, Topic, ndjson, raw, sse
from flowstream.server import streaming_config

# A stalled client loses nothing, and no bytes depend on the time or on chance.
PLAIN = {"buffer": Buffer(items=100_000, bytes=1 << 30), "heartbeat": None, "controls": False}

KINDS = {"sse": sse, "ndjson": ndjson, "raw": raw}


class Client:
    """One connection, and how it is read.

    Args:
        pace: ``fast``; ``slow``, with a pause after each read; ``stalled``, until it is told; or
            ``gone``, in the middle of the first response.
    """

    def __init__(self, pace):
        self.pace = pace
        self.told = trio.Event()
        self.responses = []

    async def run(self, url, paths, headers, ready):
        address = urlsplit(url)
        with trio.socket.socket() as sock:
            if self.pace != "fast":
                sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
            await sock.connect((address.hostname, address.port))
            for path in paths:
                request = h11.Request(method="GET", target=path, headers=headers)
                parser = h11.Connection(h11.CLIENT)
                await sock.send(parser.send(request) + (parser.send(h11.EndOfMessage()) or b""))
                await self.read(sock, parser)
                if self.pace == "gone":
                    return
                await ready(self)

    async def read(self, sock, parser):
        head, body = None, []
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                if head is not None:
                    if self.pace == "slow":
                        await trio.sleep(0.0005)
                    elif self.pace == "stalled":
                        await self.told.wait()
                    elif self.pace == "gone" and body:
                        return
                parser.receive_data(await sock.recv(3000 if self.pace == "slow" else 1 << 16))
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body.append(bytes(event.data))
            else:
                assert isinstance(event, h11.EndOfMessage)
                break
        fields = sorted((name, value) for name, value in head.headers if name != b"date")
        data = b"".join(body)
        if (b"content-encoding", b"gzip") in fields:
            data = gzip.decompress(data)
        self.responses.append((head.status_code, fields, data))


class World:
    """One app, and its clients for some rounds of a topic each, in a format each.

    Attributes:
        direct_items: what was written directly, for each format.
    """

    def __init__(self, wrap, home, kinds, direct):
        self.topics = {}
        self.streams = []
        self.direct_items = dict.fromkeys(kinds, 0)
        self._kinds, self._direct = kinds, direct

        async def app(scope, receive, send):
            self.path = scope.get("path")
            await inner(scope, receive, send)

        inner = wrap(HOMES[home](self.make))
        self.app = app

    def make(self):
        topic = self.topics[self.path]
        stream = KINDS[self.kind(self.path)](topic, **PLAIN, direct=self._direct)
        self.streams.append(stream)
        return stream

    def kind(self, path):
        return self._kinds[int(path[1:])]

    async def run(self, paces, plans, seed):
        """Return what each client that stays has read."""
        self.topics = {f"/{n}": Topic(f"round {n}") for n in range(len(plans))}
        clients = [Client(pace) for pace in paces]
        staying = [client for client in clients if client.pace != "gone"]
        headers = [("Host", "localhost"), ("Accept-Encoding", "gzip")]
        arrived = dict.fromkeys(self.topics, 0)
        go_on = {path: trio.Event() for path in self.topics}

        async def ready(client):
            client.told = trio.Event()
            path = f"/{len(client.responses) - 1}"
            arrived[path] += 1
            if arrived[path] == len(staying):
                go_on[path].set()
            await go_on[path].wait()

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                config = streaming_config(bind=["127.0.0.1:0"], errorlog=None)

                async def serving(task_status):
                    await flowstream.serve(self.app, config, task_status=task_status)

                (url,) = await nursery.start(serving)
                async with trio.open_nursery() as readers:
                    for client in staying:
                        readers.start_soon(client.run, url, list(self.topics), headers, ready)
                    await self.subscribed(self.topics["/0"], staying)
                    for client in clients:
                        if client.pace == "gone":
                            readers.start_soon(client.run, url, ["/0"], headers, ready)
                    for number, (path, plan) in enumerate(zip(self.topics, plans, strict=True)):
                        await self.publish(path, plan, Random(seed + number), staying)
                        await go_on[path].wait()
                nursery.cancel_scope.cancel()
        return [client.responses for client in staying]

    async def subscribed(self, topic, clients):
        while topic.subscribers < len(clients):  # noqa: ASYNC110  # there is no event
            await trio.sleep(0.001)
        await trio.testing.wait_all_tasks_blocked(0.003)

    async def publish(self, path, plan, dice, clients):
        topic, kind = self.topics[path], self.kind(path)
        await self.subscribed(topic, clients)
        for number, size in enumerate(plan):
            text = f"<{number}>" + "x" * size
            data = text.encode() if kind == "raw" else text
            if dice.random() < 0.5:
                await topic.publish(data, id=f"id{number}")
            else:
                topic.publish_nowait(data, id=f"id{number}")
            if dice.random() < 0.2:
                await trio.sleep(dice.choice([0, 0.0005]))
            if number == 0:
                await trio.testing.wait_all_tasks_blocked(0.003)  # it has arrived
            if number == len(plan) // 2:
                for client in clients[::2]:
                    client.told.set()
        statistics = topic.statistics()
        self.direct_items[kind] += statistics.direct_deliveries
        await topic.aclose()
        for client in clients:
            client.told.set()


def both(wrap, home, kinds, direct, paces, plans, seed=0):
    """Return what the clients read with direct writes and without, and how many there were."""
    found = []
    for choice in (direct, False):
        world = World(wrap, home, kinds, choice)
        found.append(trio.run(world.run, paces, plans, seed))
        if choice is False:
            assert not any(world.direct_items.values())
        else:
            direct_items = world.direct_items
    return *found, direct_items


PACES = ["fast", "slow", "stalled", "gone", "fast", "stalled"]
SIZES = [0, 1, 20, 90, 300, 3000, 20_000]
# Some at full speed, most of them small; and three more requests on the same connection.
PLANS = [
    [SIZES[n % 7 if n % 5 == 0 else n % 4] for n in range(300)],
    [],
    [SIZES[n % 7 if n % 5 == 0 else n % 3] for n in range(100)],
    [SIZES[n % 3] for n in range(60)],
]


def in_each_format(wraps):
    """Return (wrap, the format of each round): each wrap meets all, and they take turns."""
    orders = [["sse", "ndjson", "ndjson", "raw"], ["ndjson", "raw", "raw", "sse"]]
    orders.append(["raw", "sse", "sse", "ndjson"])
    return [
        pytest.param(wrap, orders[number % 3], id=f"{wrap}, first {orders[number % 3][0]}")
        for number, wrap in enumerate(wraps)
    ]


@pytest.mark.parametrize(("wrap", "kinds"), in_each_format([*SEEN, *UNSEEN]))
def test_unasked_they_are_exact_behind_anything(wrap, kinds):
    """With nothing set, whatever middleware there is, and whatever it needs to see."""
    with_them, without, _ = both({**SEEN, **UNSEEN}[wrap], "bare", kinds, None, PACES, PLANS)
    assert with_them == without
    assert all(len(responses) == len(PLANS) for responses in without)


@pytest.mark.parametrize(("wrap", "kinds"), in_each_format(SEEN))
def test_asked_for_they_are_exact_behind_what_is_seen(wrap, kinds):
    """`direct=True` leaves what holds back, joins, queues, adds or changes all of it exact."""
    with_them, without, direct = both(SEEN[wrap], "bare", kinds, True, PACES, PLANS)
    assert with_them == without
    for kind in KINDS:
        if wrap in TRANSPARENT:
            assert direct[kind] > 0, kind
        if wrap in ("rewrites always", "copies") or (wrap == "gzip" and kind != "sse"):
            assert direct[kind] == 0, kind


@pytest.mark.parametrize("home", HOMES)
def test_they_are_exact_at_home(home):
    """In each home, at full speed, most events directly."""
    plans = [[SIZES[n % 4] for n in range(1000)], [10] * 50, [0, 0, 0]]
    kinds = ["sse"] * len(plans)
    with_them, without, direct = both(SEEN["nothing"], home, kinds, None, PACES, plans)
    assert with_them == without
    assert direct["sse"] > 1000


@settings(max_examples=25, deadline=None)
@given(
    # Which of two ends a body meets that was joined on its way depends on the time; what ends
    # twice is tried by itself.
    wraps=st.lists(
        st.sampled_from([name for name in [*SEEN, *UNSEEN] if name != "ends twice"]), max_size=3
    ),
    said=st.booleans(),
    home=st.sampled_from([*HOMES]),
    kinds=st.permutations([*KINDS]),
    paces=st.lists(st.sampled_from(PACES), max_size=4),
    plans=st.lists(st.lists(st.sampled_from(SIZES), max_size=40), min_size=1, max_size=3),
    seed=st.integers(0, 1 << 16),
)
def test_they_are_exact_behind_several(wraps, said, home, kinds, paces, plans, seed):
    """However middleware is nested, and whatever is published to whoever reads it however."""
    layers = {**SEEN, **UNSEEN}
    if said:
        wraps = [wrap for wrap in wraps if wrap in SEEN]

    def wrap(app):
        # What rewrites compressed bytes would leave nothing to read.
        for name in sorted(wraps, key=lambda name: name == "gzip"):
            app = layers[name](app)
        return app

    paces = ["fast", *paces]
    with_them, without, _ = both(wrap, home, kinds, True if said else None, paces, plans, seed)
    assert with_them == without


# -- responses of other kinds ------------------------------------------------------------------


async def publish(topic, peer=None):
    """Publish a few events to a client that keeps up, and end."""
    for number in range(20):
        await topic.publish(f"<{number}>", id=f"id{number}")
        await trio.testing.wait_all_tasks_blocked(0.002)
    await topic.aclose()


class Changes:
    """Middleware that changes the head, and then passes all on."""

    def __init__(self, app, **fields):
        self.app, self.fields = app, fields

    async def __call__(self, scope, receive, send):
        async def changing(message):
            if message["type"] == "http.response.start":
                headers = [*message["headers"], *self.fields.get("headers", [])]
                message = {**message, **self.fields, "headers": headers}
            await send(message)

        await self.app(scope, receive, changing)


LENGTH = b"%d" % sum(len(f'{{"id":"id{n}","data":"<{n}>"}}\n') for n in range(20))
OTHERS = {
    "HEAD": (b"HEAD / HTTP/1.1", {}),
    "HTTP/1.0": (b"GET / HTTP/1.0", {}),
    "close": (b"GET / HTTP/1.1\r\nConnection: close", {}),
    "204": (b"GET / HTTP/1.1", {"status": 204}),
    "304": (b"GET / HTTP/1.1", {"status": 304}),
    "206": (b"GET / HTTP/1.1", {"status": 206}),
    "a length": (b"GET / HTTP/1.1", {"headers": [(b"Content-Length", LENGTH)]}),
    "a coding": (b"GET / HTTP/1.1", {"headers": [(b"content-encoding", b"identity")]}),
    "trailers": (b"GET / HTTP/1.1", {"trailers": True}),
}


def without_date(data):
    return b"\r\n".join(line for line in data.split(b"\r\n") if not line.startswith(b"date:"))


def body_of(data):
    """Return the body of a response, out of its chunks."""
    head, _, body = data.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head.lower():
        body = b"".join(line for line in body.split(b"\r\n")[1::2])
    return body


@pytest.mark.parametrize("what", OTHERS)
async def test_other_responses_are_exact(what, server, client, aeventually):
    """Without a body, without chunks, with trailers: as without direct writes, to the byte."""
    start, fields = OTHERS[what]
    found = []
    for direct in (True, False):
        topic, streams = Topic("t"), []

        def make(topic=topic, streams=streams, direct=direct):
            streams.append(ndjson(topic, **PLAIN, direct=direct))
            return streams[-1]

        peer = client(await server(Changes(bare(make), **fields)))
        peer.send(start + b"\r\nHost: localhost\r\n\r\n")
        await aeventually(lambda streams=streams: streams, "the request has come")
        await trio.testing.wait_all_tasks_blocked(0.02)
        await publish(topic)
        await aeventually(lambda streams=streams: ended(streams[0]), "the stream has ended")
        peer.socket.shutdown(socket.SHUT_WR)  # no other request comes: it is closed
        found.append(without_date(await trio.to_thread.run_sync(peer.read_all)))
        if direct and what in ("close", "206"):
            assert topic.statistics().direct_deliveries > 10
        else:
            assert topic.statistics().direct_deliveries == 0
    assert found[0] == found[1]


def ended(stream):
    return stream.statistics().state == "closed"


async def test_encrypted(server, connect, certificate):
    """Over TLS and HTTP/1.1 nothing is written directly, and what is sent arrives."""
    topic = Topic("t")
    url = await server(bare(lambda: ndjson(topic, **PLAIN, direct=True)), **certificate)
    stream = await connect(url)
    await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    data = await stream.receive_some()
    await publish(topic)
    async for more in stream:
        data += more
    assert body_of(data).count(b"<") == 20
    assert topic.statistics().direct_deliveries == 0


async def test_pipelined_requests(server, client, aeventually):
    """Three requests at once are answered one after the other, each directly, and in full."""
    topics = {f"/{n}": Topic(f"t{n}") for n in range(3)}

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await sse(topics[scope["path"]], **PLAIN)(scope, receive, send)

    peer = client(await server(app))
    request = "GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n"
    peer.send("".join(request.format(path) for path in topics).encode())
    data = b""
    for number, topic in enumerate(topics.values(), 1):
        await aeventually(lambda topic=topic: topic.subscribers, "its turn has come")
        await trio.testing.wait_all_tasks_blocked(0.02)
        await publish(topic)
        assert topic.statistics().direct_deliveries == 20
        while data.count(b"\r\n0\r\n\r\n") < number:
            data += await trio.to_thread.run_sync(peer.socket.recv, 1 << 16)
    found = data.split(b"\r\n0\r\n\r\n")
    assert [body_of(one).count(b"data: <") for one in found] == [20, 20, 20, 0]


async def test_a_stream_that_outlives_its_response(server, client, aeventually):
    """Middleware ends a response while the stream behind it goes on: what is published to that
    gets into no later response on the connection.
    """
    old, new = Topic("old"), Topic("new")
    async with trio.open_nursery() as nursery:

        async def app(scope, receive, send):
            if scope["type"] != "http":
                return
            topic = old if scope["path"] == "/old" else new
            stream = sse(topic, **PLAIN, direct=True)
            if topic is new:
                await stream(scope, receive, send)
                return
            nursery.start_soon(stream, scope, trio.sleep_forever, send)
            await trio.testing.wait_all_tasks_blocked(0.02)
            await old.publish("seen")
            assert old.statistics().direct_deliveries == 1
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            await old.publish("after the end")

        peer = client(await server(app))
        peer.get("/old")
        data = await trio.to_thread.run_sync(peer.read_until, b"0\r\n\r\n")
        assert b"data: seen" in data
        peer.get("/new")
        await aeventually(lambda: new.subscribers, "the second request has come")
        await trio.testing.wait_all_tasks_blocked(0.02)
        await new.publish("of the new")
        await old.publish("of the old")
        await new.publish("of the new, again")
        await new.aclose()
        data = await trio.to_thread.run_sync(peer.read_until, b"0\r\n\r\n")
        assert body_of(data).count(b"data: of the new") == 2
        assert b"of the old" not in data
        assert b"after the end" not in data
        assert old.statistics().direct_deliveries == 1
        nursery.cancel_scope.cancel()


class Fails:
    """Middleware whose `send` fails once it is told to."""

    def __init__(self, app, told):
        self.app, self.told = app, told

    async def __call__(self, scope, receive, send):
        async def failing(message):
            if self.told.is_set():
                raise ZeroDivisionError
            await send(message)

        await self.app(scope, receive, failing)


async def test_an_exception_half_way(server, client, aeventually, caplog):
    """What fails in between ends the stream: what came before is whole, and nothing follows."""
    caplog.set_level("CRITICAL")
    topic, told, reports = Topic("t"), trio.Event(), []

    def make():
        return sse(topic, heartbeat=0.05, controls=True, direct=True, on_close=reports.append)

    peer = client(await server(Fails(bare(make), told)))
    peer.get("/")
    await aeventually(lambda: topic.subscribers, "the client has subscribed")
    await trio.testing.wait_all_tasks_blocked(0.02)
    for number in range(20):
        await topic.publish(f"<{number}>")
    told.set()  # at the next heartbeat
    data = await trio.to_thread.run_sync(peer.read_all)
    await aeventually(lambda: reports, "the report")
    assert reports[0].reason == "error"
    assert not data.endswith(b"0\r\n\r\n")
    assert body_of(data).count(b"data: <") == 20
