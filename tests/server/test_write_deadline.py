"""A client that takes nothing is closed at the socket, at its deadline; one that takes is not."""

import select
import socket

import pytest
import trio
import wsproto
from wsproto.events import AcceptConnection, Request

from flowstream import Buffer, Disconnect, Limits, raw
from flowstream.asgi._carrier import STATE_KEY

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
PIECE = b"x" * 16384
DEADLINE = 0.8


class Endless:
    """An app that sends for ever, and notes what becomes of it."""

    def __init__(self, piece=PIECE):
        self.piece = piece
        self.connection = None
        self.longest = 0.0  # seconds that a send took
        self.since = 0.0  # when the one under way began
        self.error = None
        self.failed = trio.Event()  # set with the error
        self.told = False  # of the disconnect

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            return
        self.connection = scope["state"].get(STATE_KEY)
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            message = {"type": "http.response.body", "body": self.piece, "more_body": True}
        else:
            await receive()
            await send({"type": "websocket.accept"})
            message = {"type": "websocket.send", "bytes": self.piece}
        try:
            while True:
                self.since = trio.current_time()
                await send(message)
                self.longest = max(self.longest, trio.current_time() - self.since)
        except OSError as error:
            self.error = error
            self.failed.set()
            while not (await receive())["type"].endswith(".disconnect"):
                pass
            self.told = True

    def is_closed(self):
        return self.connection is not None and self.connection._socket.fileno() == -1


async def ask(stream, kind):
    """Send a request of this kind, and see it accepted, but nothing of what follows."""
    if kind != "websocket":
        await stream.send_all(GET)
        return
    client = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
    await stream.send_all(client.send(Request(host="localhost", target="/")))
    client.receive_data(await stream.receive_some(1000))
    assert isinstance(next(client.events()), AcceptConnection)


def transport(stream):
    return getattr(stream, "transport_stream", stream).socket


async def was_reset(stream):
    """Return whether the connection ends with RST."""
    try:
        while await transport(stream).recv(65536):
            pass
    except ConnectionResetError:
        return True
    return False


@pytest.fixture
def settings(request, certificate):
    return {"tls": certificate, "http": {}, "websocket": {}}[request.getfixturevalue("kind")]


KINDS = pytest.mark.parametrize("kind", ["http", "tls", "websocket"])


@KINDS
async def test_a_client_that_takes_nothing(
    server, connect, aeventually, patient_clock, kind, settings
):
    """It is reset when the deadline is next looked at; its socket is closed, its app is told."""
    app = Endless()
    url = await server(app, write_timeout=DEADLINE, **settings)
    stream = await connect(url, receive_buffer=4096)
    await ask(stream, kind)
    with trio.fail_after(10):
        await app.failed.wait()
    assert app.is_closed()
    assert app.connection.reason == "stalled"
    assert DEADLINE - 0.01 <= app.longest <= 1.5 * DEADLINE
    await aeventually(lambda: not app.connection._connections, "no connection is left")
    assert app.told
    assert await was_reset(stream)


@KINDS
async def test_a_slow_but_steady_reader(server, connect, patient_clock, kind, settings):
    """A client that takes some 2 KiB per deadline lives on for several of them."""
    app = Endless(PIECE * 20)
    url = await server(app, write_timeout=DEADLINE, **settings)
    stream = await connect(url, receive_buffer=2048)
    await ask(stream, kind)
    for _ in range(25):
        assert await transport(stream).recv(256)
        await trio.sleep(DEADLINE / 10)
    assert not app.is_closed()
    waited = max(app.longest, trio.current_time() - app.since)
    assert waited > DEADLINE, "nothing was so slow that 16 KiB took longer than the deadline"


async def test_a_reader_that_stops(server, connect, patient_clock):
    """The deadline runs from the last that a client took, not from some moment after it."""
    app = Endless(PIECE * 20)
    stream = await connect(await server(app, write_timeout=DEADLINE), receive_buffer=2048)
    await stream.send_all(GET)
    for _ in range(8):
        assert await stream.socket.recv(256)
        await trio.sleep(DEADLINE / 10)
    stopped = trio.current_time()
    with trio.fail_after(10):
        await app.failed.wait()
    assert app.is_closed()
    assert trio.current_time() - stopped <= 1.5 * DEADLINE


@pytest.mark.parametrize("kind", ["http", "tls"])
async def test_a_stream_is_told(server, connect, aeventually, kind, settings):
    """A stream whose connection was given up reports ``stalled``, whatever its own limits."""
    reports = []

    async def endless():
        while True:
            yield PIECE

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await raw(endless, on_close=reports.append)(scope, receive, send)

    url = await server(app, write_timeout=0.3, **settings)
    stream = await connect(url, receive_buffer=4096)
    await stream.send_all(GET)
    await aeventually(lambda: reports, "the stream is reported")
    assert [report.reason for report in reports] == ["stalled"]
    assert await was_reset(stream)


@pytest.mark.parametrize("kind", ["http", "tls"])
@pytest.mark.parametrize(
    ("reason", "options"),
    [
        ("stalled", {"limits": Limits(stall_timeout=0.2)}),
        ("slow_consumer", {"policy": Disconnect(), "buffer": Buffer(items=3, bytes=1 << 20)}),
    ],
)
async def test_a_streams_own_end(server, connect, aeventually, kind, settings, reason, options):
    """``stall_timeout`` and ``Disconnect`` close the socket, too, long before the deadline."""
    reports, carriers = [], []

    async def endless():
        while True:
            yield PIECE * 2
            await trio.lowlevel.checkpoint()

    async def app(scope, receive, send):
        if scope["type"] == "http":
            carriers.append(scope["state"][STATE_KEY])
            await raw(endless, on_close=reports.append, **options)(scope, receive, send)

    url = await server(app, write_timeout=60.0, **settings)
    stream = await connect(url, receive_buffer=4096)
    await stream.send_all(GET)
    await aeventually(lambda: reports, "the stream is reported")
    assert [report.reason for report in reports] == [reason]
    assert carriers[0]._socket.fileno() == -1
    assert carriers[0].reason == reason
    await aeventually(lambda: not carriers[0]._connections, "no connection is left")
    assert await was_reset(stream)


async def test_a_close_notify_that_is_not_taken(server, connect, aeventually, certificate):
    """The end of a TLS connection is under the deadline, like any write of it."""
    carriers = []

    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        carriers.append(connection := scope["state"][STATE_KEY])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        poll = select.poll()
        poll.register(connection._socket.fileno(), select.POLLOUT)
        while poll.poll(20):  # as long as the kernel takes more
            await send({"type": "http.response.body", "body": b"x" * 1024, "more_body": True})

    url = await server(app, write_timeout=0.4, **certificate)
    stream = await connect(url, receive_buffer=4096)
    await stream.send_all(GET)
    await aeventually(lambda: carriers, "the request is there")
    await aeventually(lambda: not carriers[0]._connections, "no connection is left", timeout=3)
    assert carriers[0]._socket.fileno() == -1


async def test_the_end_of_a_tls_connection_is_announced(server, connect, certificate):
    """A body that ends with the connection ends with close_notify: it was not cut off."""

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"all of it"})

    stream = await connect(await server(app, **certificate))
    await stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
    data = b""
    while more := await stream.receive_some():  # raises where there is no close_notify
        data += more
    assert data.endswith(b"all of it")


async def test_what_tcp_itself_watches(server, connect):
    """Accepted sockets ask whether a silent peer is there, and give up an unacknowledged write
    no sooner than these questions take: Linux would let one lost question end an idle one.
    """
    seen = {}

    async def app(scope, receive, send):
        if scope["type"] == "http":
            sock = scope["state"][STATE_KEY]._socket
            seen["SO_KEEPALIVE"] = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT"):
                seen[name] = sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})

    url = await server(app, keep_alive_probes=(20, 5, 2), write_timeout=7.0)
    stream = await connect(url)
    await stream.send_all(GET)
    assert b" 204 " in await stream.receive_some()
    assert seen == {
        "SO_KEEPALIVE": 1,
        "TCP_KEEPIDLE": 20,
        "TCP_KEEPINTVL": 5,
        "TCP_KEEPCNT": 2,
        "TCP_USER_TIMEOUT": 30_000,
    }


@pytest.mark.upstream
async def test_plain_hypercorn_waits_for_ever(plain_hypercorn, connect, aeventually):
    """There a send to such a client cannot even be cancelled. (If this fails, it was mended.)"""
    sending, sent = trio.Event(), trio.Event()

    async def app(scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        await send({"type": "http.response.start", "status": 200, "headers": []})
        body = {"type": "http.response.body", "body": PIECE * 1000, "more_body": True}
        sending.set()
        with trio.move_on_after(0.1):
            await send(body)
        sent.set()

    stream = await connect(await plain_hypercorn(app), receive_buffer=4096)
    await stream.send_all(GET)
    await sending.wait()
    with trio.move_on_after(0.5):
        await sent.wait()
    assert not sent.is_set()
    await stream.aclose()
    with trio.fail_after(5):
        await sent.wait()
