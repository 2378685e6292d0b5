"""WebSockets, as far as their connection is concerned: frames that nobody expects, and the end."""

import pytest
import trio
import wsproto
from trio.testing import wait_all_tasks_blocked
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    RejectConnection,
    Request,
)

from flowstream.asgi._carrier import STATE_KEY


class Client:
    """A WebSocket's client end."""

    def __init__(self, stream):
        self.stream = stream
        self.protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)

    async def open(self):
        await self.send(Request(host="localhost", target="/"))
        assert isinstance(await self.event(), AcceptConnection)

    async def send(self, event):
        await self.stream.send_all(self.protocol.send(event))

    async def event(self):
        """Return what comes next."""
        while True:
            for event in self.protocol.events():
                return event
            with trio.fail_after(5):
                self.protocol.receive_data(await self.stream.receive_some() or None)


class App:
    """Accepts, notes what it receives, slowly if told to, and waits for the disconnect."""

    def __init__(self, *, pace=0.0, accepts=True):
        self.pace = pace
        self.accepts = accepts
        self.connections = None
        self.received = []
        self.ended = trio.Event()

    async def __call__(self, scope, receive, send):
        if scope["type"] != "websocket":
            raise NotImplementedError
        if connection := scope["state"].get(STATE_KEY):
            self.connections = connection._connections
        try:
            if self.accepts:
                await send({"type": "websocket.accept"})
            while not self.received or self.received[-1]["type"] != "websocket.disconnect":
                self.received.append(await receive())
                await trio.sleep(self.pace)
        finally:
            self.ended.set()


FRAMES = {
    "reserved opcode": b"\x83\x80\x00\x00\x00\x00",
    "reserved bits": b"\xf2\x80\x00\x00\x00\x00",
    "unmasked": b"\x82\x01x",
    "bad UTF-8": b"\x81\x81\x00\x00\x00\x00\xff",
    "long ping": b"\x89\xfe\x00\x80\x00\x00\x00\x00" + b"x" * 128,
    "fragmented ping": b"\x09\x80\x00\x00\x00\x00",
    "continuation of nothing": b"\x80\x80\x00\x00\x00\x00",
    "message amid a message": b"\x02\x80\x00\x00\x00\x00" * 2,
    "a length beyond 2^63": b"\x82\xff" + b"\xff" * 8 + b"\x00" * 4,
    "close with a bad code": b"\x88\x82\x00\x00\x00\x00\x00\x01",
    "close and more": b"\x88\x80\x00\x00\x00\x00" * 2 + b"\x82\x80\x00\x00\x00\x00",
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "noise": bytes(range(256)) * 20,
}


@pytest.mark.parametrize("name", FRAMES)
async def test_frames_that_nobody_expects(server, connect, clean_log, aeventually, name):
    """They end their connection, whose app hears of it, and no other."""
    app = App()
    url = await server(app)
    stream = await connect(url)
    client = Client(stream)
    await client.open()
    await stream.send_all(FRAMES[name])
    with trio.fail_after(5):
        while await stream.receive_some():
            pass
        await app.ended.wait()
    assert app.received[-1]["type"] == "websocket.disconnect"
    await aeventually(lambda: not app.connections, "no connection is left")
    await Client(await connect(url)).open()


async def test_it_speaks_before_it_was_accepted(server, connect, aeventually):
    """A client that sends frames ahead is refused, and its app hears that it has gone."""
    app = App(accepts=False)
    client = Client(await connect(await server(app)))
    await client.send(Request(host="localhost", target="/"))
    await aeventually(lambda: app.received, "the app was asked")
    await client.stream.send_all(b"\x82\x80\x00\x00\x00\x00")
    assert isinstance(await client.event(), RejectConnection)
    await client.stream.aclose()
    with trio.fail_after(5):
        await app.ended.wait()
    assert app.received[-1] == {"type": "websocket.disconnect", "code": 1006}
    await aeventually(lambda: not app.connections, "no connection is left")


@pytest.mark.upstream
async def test_on_plain_hypercorn_its_app_is_never_told(plain_hypercorn, connect, aeventually):
    """There the app waits for ever. (If this fails, it was mended.)"""
    app = App(accepts=False)
    client = Client(await connect(await plain_hypercorn(app)))
    await client.send(Request(host="localhost", target="/"))
    await aeventually(lambda: app.received, "the app was asked")
    await client.stream.send_all(b"\x82\x80\x00\x00\x00\x00")
    assert isinstance(await client.event(), RejectConnection)
    await client.stream.aclose()
    with trio.move_on_after(0.3):
        await app.ended.wait()
    assert not app.ended.is_set()


async def test_what_was_sent_before_the_end_arrives(server, connect):
    """A slow app gets every message of a client that has closed its end long since."""
    app = App(pace=0.002)
    client = Client(await connect(await server(app)))
    await client.open()
    for number in range(100):
        await client.send(BytesMessage(data=b"%d" % number))
    await client.stream.send_eof()
    with trio.fail_after(5):
        await app.ended.wait()
    messages = [m["bytes"] for m in app.received if m["type"] == "websocket.receive"]
    assert messages == [b"%d" % number for number in range(100)]


def living():
    return trio.lowlevel.current_statistics().tasks_living


@pytest.mark.parametrize("how", ["close", "fin"])
async def test_pings_end_with_their_connection(server, connect, aeventually, how):
    """With pings at long intervals, too, no task is left once the client is gone."""
    app = App()
    url = await server(app, websocket_ping_interval=50.0)
    await wait_all_tasks_blocked()
    before = living()
    client = Client(await connect(url))
    await client.open()
    assert isinstance(await client.event(), Ping)
    if how == "close":
        await client.send(CloseConnection(code=1000))
        assert isinstance(await client.event(), CloseConnection)
    await client.stream.aclose()
    await aeventually(lambda: not app.connections, "no connection is left", timeout=3)
    await aeventually(lambda: living() == before, "no task is left", timeout=3)


@pytest.mark.upstream
async def test_on_plain_hypercorn_they_sleep_on(plain_hypercorn, connect, aeventually):
    """There the connection outlives its client by an interval. (If this fails, it was mended.)"""
    app = App()
    url = await plain_hypercorn(app, websocket_ping_interval=50.0)
    await wait_all_tasks_blocked()
    before = living()
    client = Client(await connect(url))
    await client.open()
    assert isinstance(await client.event(), Ping)
    await client.stream.aclose()
    with trio.fail_after(5):
        await app.ended.wait()
    await wait_all_tasks_blocked(0.05)
    assert living() > before


async def test_pings_are_sent(server, connect):
    """Pings come at their interval, and a client's are answered."""
    client = Client(await connect(await server(App(), websocket_ping_interval=0.02)))
    await client.open()
    for _ in range(3):
        assert isinstance(await client.event(), Ping)
    await client.send(Ping(payload=b"hello"))
    while not isinstance(event := await client.event(), Pong):
        pass
    assert event.payload == b"hello"
