"""Uploads and WebSockets over HTTP/2: what an application does not read holds up nothing else."""

import itertools

import pytest
import trio
import trio.lowlevel
from h2.errors import ErrorCodes
from hyperframe.frame import DataFrame
from trio.testing import wait_all_tasks_blocked
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from flowstream import sse


class App:
    """Takes uploads when it is told to, and echoes WebSocket messages.

    Attributes:
        go: lets it read.
        received: the sizes of the pieces that have come.
        log: what else has happened.
    """

    def __init__(self):
        self.go = trio.Event()
        self.received, self.log = [], []

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            raise NotImplementedError
        await getattr(self, scope["path"].strip("/"))(scope, receive, send)

    async def upload(self, scope, receive, send):
        await self.go.wait()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.log.append("disconnect")
                return
            self.received.append(len(message["body"]))
            if not message["more_body"]:
                break
            await trio.lowlevel.checkpoint()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%d" % sum(self.received)})

    async def ignores(self, scope, receive, send):
        await sse(self.ticks)(scope, receive, send)

    async def ticks(self):
        while True:
            yield "tick"
            await trio.sleep(0.01)

    async def early(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 413, "headers": []})
        await send({"type": "http.response.body", "body": b"too large"})

    async def echo(self, scope, receive, send):
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            self.received.append(message)
            if message["text"] == "close":
                await send({"type": "websocket.close", "code": 3000})
            else:
                await send({"type": "websocket.send", "text": message["text"]})
        self.log.append(message["type"])

    async def deaf(self, scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        await self.go.wait()
        while (message := await receive())["type"] == "websocket.receive":
            self.received.append(len(message["bytes"]))
        self.log.append(message["type"])

    async def floods(self, scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        try:
            for count in itertools.count(1):
                await send({"type": "websocket.send", "bytes": b"x" * 4096})
                self.received.append(count)
        except OSError:
            self.log.append("gone")


@pytest.fixture
def app():
    return App()


async def push(peer, number, data):
    """Send as much of `data` as the windows allow, at any time; wait for them to open."""
    while data:
        await peer.until(lambda: peer.h2.local_flow_control_window(number))
        size = min(peer.h2.local_flow_control_window(number), 16384, len(data))
        peer.h2.send_data(number, data[:size])
        data = data[size:]
        await peer.flush()


async def fill(peer, number):
    """Send until no window is open; return how much that was."""
    size = 0
    while window := peer.h2.local_flow_control_window(number):
        window = min(window, 16384)
        peer.h2.send_data(number, b"x" * window)
        size += window
        await peer.fence()
    return size


async def test_an_unread_upload_holds_up_nobody(server, http2, app, aeventually, clean_log):
    """Beside uploads that nobody reads, other streams of the connection get what they need: a
    window for their uploads, and an ear for their WINDOW_UPDATE.
    """
    peer = await http2(await server(app), initial_window_size=2000)
    stuck = [peer.open(path, method="POST", ended=False) for path in ["/upload"] * 3]
    filled = [await fill(peer, number) for number in stuck]
    assert max(filled) < 300_000
    assert await fill(peer, stuck[0]) == 0  # for as long as nobody reads
    ticking = await peer.get("/ignores")
    await peer.until(lambda: len(peer.bodies[ticking]) > 3000)
    app.go.set()
    other = peer.open("/upload", method="POST", ended=False)
    await push(peer, other, b"y" * 500_000)
    peer.h2.end_stream(other)
    await peer.flush()
    await peer.finished(other)


@pytest.mark.upstream
async def test_hypercorn_is_held_up(plain_hypercorn, http2, app, connect):
    """Plain Hypercorn stops reading a connection when one stream's app does not."""
    peer = await http2(await plain_hypercorn(app))
    number = peer.open("/upload", method="POST", ended=False)
    await peer.flush()
    await peer.send(*[DataFrame(number, b"x") for _ in range(100)])
    with pytest.raises(trio.TooSlowError):
        with trio.fail_after(0.5):
            await peer.fence()


async def test_a_slow_upload_of_a_megabyte(server, http2, app, clean_log):
    """All of it arrives, in pieces that are bounded however small the frames are."""
    app.go.set()
    peer = await http2(await server(app))
    length = ("content-length", "1000000")
    number = peer.open("/upload", length, method="POST", ended=False)
    await push(peer, number, b"x" * 1_000_000)
    peer.h2.end_stream(number)
    await peer.flush()
    assert await peer.finished(number) == b"1000000"
    assert max(app.received) <= 65535


async def test_small_and_padded_frames_are_put_together(server, http2, app, clean_log):
    """A byte a frame makes no more messages than a window a frame."""
    peer = await http2(await server(app))
    number = peer.open("/upload", method="POST", ended=False)
    await peer.flush()
    for _ in range(3000):
        peer.h2.send_data(number, b"x", pad_length=9)
    peer.h2.send_data(number, b"", end_stream=True)
    await peer.fence()
    app.go.set()
    assert await peer.finished(number) == b"3000"
    assert len(app.received) < 100


async def test_an_unread_upload_that_is_reset(server, http2, app, aeventually, clean_log):
    """RST_STREAM gets past the data that nobody reads."""
    peer = await http2(await server(app))
    number = peer.open("/upload", method="POST", ended=False)
    await fill(peer, number)
    peer.h2.reset_stream(number, ErrorCodes.CANCEL)
    await peer.fence()
    app.go.set()
    await aeventually(lambda: app.log == ["disconnect"], "the app has heard of it")


async def test_an_early_answer_stops_the_upload(server, http2, app, clean_log):
    """A complete answer to half a request is followed by RST_STREAM(NO_ERROR)."""
    peer = await http2(await server(app))
    number = peer.open("/early", method="POST", ended=False)
    peer.h2.send_data(number, b"x" * 16384)
    await peer.flush()
    assert await peer.finished(number) == b"too large"
    await peer.until(lambda: number in peer.resets)
    assert number in peer.ended
    assert peer.resets[number] == ErrorCodes.NO_ERROR


# -- WebSocket (RFC 8441) ----------------------------------------------------------------


class Socket:
    """One WebSocket on one stream."""

    def __init__(self, peer, path):
        self.peer = peer
        version = ("sec-websocket-version", "13")
        self.number = peer.open(path, version, method="CONNECT", ended=False, protocol="websocket")
        self.ws = Connection(ConnectionType.CLIENT)
        self._read = 0

    async def accepted(self):
        await self.peer.flush()
        await self.peer.until(lambda: self.peer.statuses.get(self.number))
        return self.peer.statuses[self.number] == 200

    async def send(self, event):
        self.peer.h2.send_data(self.number, self.ws.send(event))
        await self.peer.flush()

    async def receive(self):
        while True:
            body = self.peer.bodies[self.number]
            self.ws.receive_data(body[self._read :])
            self._read = len(body)
            for event in self.ws.events():
                return event
            await self.peer.until(lambda: len(self.peer.bodies[self.number]) > self._read)


@pytest.fixture
async def websocket(server, http2, app):
    """Open WebSockets on one connection."""
    peer = await http2(await server(app, websocket_ping_interval=None))

    async def connect(path):
        socket = Socket(peer, path)
        assert await socket.accepted()
        return socket

    return connect


async def test_an_echo_and_a_close(websocket, app, aeventually, clean_log):
    """Messages go both ways; the client's close is answered, the stream ended, the app told."""
    socket = await websocket("/echo")
    await socket.send(TextMessage("one"))
    assert (await socket.receive()).data == "one"
    await socket.send(Ping(b"are you there?"))
    assert isinstance(await socket.receive(), Pong)
    await socket.send(CloseConnection(1000))
    assert isinstance(await socket.receive(), CloseConnection)
    await socket.peer.finished(socket.number)
    assert socket.number in socket.peer.ended
    await aeventually(lambda: app.log == ["websocket.disconnect"], "the app is told")


async def test_the_application_closes(websocket, app, aeventually, clean_log):
    """The app's close code arrives, and END_STREAM after it."""
    socket = await websocket("/echo")
    await socket.send(TextMessage("close"))
    closed = await socket.receive()
    assert isinstance(closed, CloseConnection)
    assert closed.code == 3000
    await socket.send(closed.response())  # else the server waits for it, for ten seconds
    await socket.peer.finished(socket.number)
    assert socket.number in socket.peer.ended


async def test_a_websocket_that_is_ended_or_reset(websocket, app, aeventually, clean_log):
    """END_STREAM and RST_STREAM are a disconnect, as FIN and RST are without HTTP/2."""
    first, second = await websocket("/echo"), await websocket("/echo")
    first.peer.h2.end_stream(first.number)
    second.peer.h2.reset_stream(second.number)
    await first.peer.flush()
    await aeventually(lambda: app.log == ["websocket.disconnect"] * 2, "the apps are told")
    third = await websocket("/echo")
    await third.send(TextMessage("still here"))
    assert (await third.receive()).data == "still here"


async def test_a_websocket_that_is_not_read(websocket, app, aeventually, clean_log):
    """It is held back by its window; another on the same connection is not."""
    deaf, echo = await websocket("/deaf"), await websocket("/echo")
    message = deaf.ws.send(BytesMessage(b"x" * 1000))
    sent = 0
    while deaf.peer.h2.local_flow_control_window(deaf.number) >= len(message):
        deaf.peer.h2.send_data(deaf.number, message)
        sent += 1
        await deaf.peer.fence()
        assert sent < 1000
    await echo.send(TextMessage("hello"))
    assert (await echo.receive()).data == "hello"
    app.received.clear()
    app.go.set()
    await aeventually(lambda: app.received == [1000] * sent, "all that was sent")


async def test_a_websocket_client_that_reads_nothing(server, http2, app, aeventually, clean_log):
    """The app's sends are held back, pings pile up nothing, and at the deadline it is reset."""
    peer = await http2(await server(app, write_timeout=0.5), initial_window_size=0, grants=False)
    socket = Socket(peer, "/floods")
    assert await socket.accepted()
    await aeventually(lambda: app.received, "the first message")
    await wait_all_tasks_blocked(0.02)
    assert app.received[-1] < 20
    for _ in range(500):
        await socket.send(Ping(b"x" * 100))
    assert peer.resets or await peer.finished(socket.number) == b""
    assert peer.resets == {socket.number: ErrorCodes.CANCEL}
    await aeventually(lambda: app.log == ["gone"], "the app is told")


async def test_data_before_the_websocket_is_accepted(server, http2, app, aeventually, clean_log):
    """A client that does not wait for the answer is refused by itself."""
    accept = trio.Event()

    async def slow(scope, receive, send):
        await receive()
        await accept.wait()

    app.slow = slow
    peer = await http2(await server(app))
    socket = Socket(peer, "/slow")
    await socket.send(TextMessage("too early"))
    await peer.finished(socket.number)
    assert peer.statuses[socket.number] == 400
    accept.set()


async def test_a_wrong_handshake(server, http2, app, clean_log):
    """One without a version is answered 400, and its stream forgotten: the connection is idle."""
    peer = await http2(await server(app, keep_alive_timeout=0.2))
    number = peer.open("/echo", method="CONNECT", ended=False, protocol="websocket")
    await peer.flush()
    await peer.finished(number)
    assert peer.statuses[number] == 400
    await peer.until_closed()
