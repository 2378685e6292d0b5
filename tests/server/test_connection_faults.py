"""What one connection may go through without the others, and the log, hearing of it.

And the traps of Hypercorn that lie on this way: each is shown on Hypercorn's own server, so
that a release which mends it is noticed, and absent here.
"""

import socket
import struct

import pytest
import trio
from _reading import read_to_end
from hypercorn.events import Closed

from flowstream.asgi._carrier import STATE_KEY
from flowstream.server._protocols import Protocols

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n"
RESET = struct.pack("ii", 1, 0)


def reset(stream):
    """Send RST."""
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    stream.socket.close()


async def hello(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


async def is_answered(connect, url):
    stream = await connect(url)
    await stream.send_all(GET.replace(b"1.1", b"1.0"))
    return (await read_to_end(stream)).endswith(b"hello")


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)

# Each trips Hypercorn, or a library below it, where nobody expects an exception.
TRIPPING = {
    "subprotocols": UPGRADE + b"Sec-WebSocket-Protocol: \xff\r\n\r\n",
    "extensions": UPGRADE + b"Sec-WebSocket-Extensions: \xff\r\n\r\n",
}

MALFORMED = {
    "no HTTP": b"\x00\x01\x02\x03\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "bad length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    "bad chunk": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "garbage behind a request": GET + b"\xff" * 100 + b"\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n" * 50,
    "long head": b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000,
}


@pytest.mark.parametrize("name", [*TRIPPING, *MALFORMED])
async def test_bad_bytes(server, connect, clean_log, name):
    """They end the connection that they came on; the next one is served."""
    url = await server(hello)
    stream = await connect(url)
    await stream.send_all({**TRIPPING, **MALFORMED}[name])
    await read_to_end(stream)
    assert await is_answered(connect, url)


@pytest.mark.upstream
@pytest.mark.parametrize("name", TRIPPING)
async def test_on_plain_hypercorn_they_end_the_worker(plain_hypercorn, connect, name):
    """There, an exception in one connection ends all. (If this fails, it was mended.)"""
    stream = await connect(await plain_hypercorn(hello))
    await stream.send_all(TRIPPING[name])
    await read_to_end(stream)
    with trio.fail_after(5):
        while plain_hypercorn.error is None:
            await trio.lowlevel.checkpoint()
    assert isinstance(plain_hypercorn.error, ExceptionGroup)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b""])
async def test_no_tls(server, connect, clean_log, certificate, data):
    """What is no TLS handshake, or none at all, ends that connection."""
    url = await server(hello, ssl_handshake_timeout=0.2, **certificate)
    stream = await connect(url.replace("https:", "http:"))
    await stream.send_all(data)
    await read_to_end(stream)
    assert await is_answered(connect, url)


async def test_tls_garbage_amid_a_stream(server, connect, clean_log, certificate, aeventually):
    """A broken TLS record ends the connection, and its app hears of a disconnect."""
    told = trio.Event()

    async def app(scope, receive, send):
        if scope["type"] == "http" and scope["path"] == "/wait":
            while (await receive())["type"] != "http.disconnect":
                pass
            told.set()
        else:
            await hello(scope, receive, send)

    url = await server(app, **certificate)
    stream = await connect(url)
    await stream.send_all(GET.replace(b"/ ", b"/wait "))
    await stream.transport_stream.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
    with trio.fail_after(5):
        await told.wait()
    assert await is_answered(connect, url)


@pytest.mark.parametrize("error", [ValueError("a fault"), OSError(5, "a fault"), KeyError(1)])
async def test_a_fault_in_the_protocol(server, connect, clean_log, monkeypatch, error):
    """Whatever a protocol raises ends its connection; the app hears of a disconnect."""
    told = trio.Event()

    async def app(scope, receive, send):
        if scope["type"] == "http" and scope["path"] == "/wait":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"first", "more_body": True})
            while (await receive())["type"] != "http.disconnect":
                pass
            told.set()
        else:
            await hello(scope, receive, send)

    handle = Protocols.handle

    async def faulty(self, event):
        if getattr(event, "data", b"").startswith(b"POST"):
            raise error
        await handle(self, event)

    url = await server(app)
    monkeypatch.setattr(Protocols, "handle", faulty)
    stream = await connect(url)
    # Of a form that is not read without a protocol.
    await stream.send_all(GET.replace(b"GET / ", b"OPTIONS /wait "))
    assert await stream.receive_some()
    await stream.send_all(POST)
    with trio.fail_after(5):
        await told.wait()
    await read_to_end(stream)
    assert await is_answered(connect, url)


async def test_a_fault_at_the_end(server, connect, clean_log, monkeypatch):
    """What a protocol raises when it is told of the end stays with the connection, too."""
    handle, raised = Protocols.handle, []

    async def faulty(self, event):
        if isinstance(event, Closed):
            raised.append(event)
            raise KeyError("a fault")
        await handle(self, event)

    url = await server(hello)
    monkeypatch.setattr(Protocols, "handle", faulty)
    stream = await connect(url)
    await stream.send_all(b"GET /")
    await stream.aclose()
    with trio.fail_after(5):
        while not raised:
            await trio.lowlevel.checkpoint()
    monkeypatch.undo()
    assert await is_answered(connect, url)


async def test_a_loop_that_only_sends(server, connect):
    """``send()`` raises an OSError once the client is gone, and lets others run meanwhile."""
    ended = trio.Event()

    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
        except OSError:
            ended.set()
            raise

    stream = await connect(await server(app))
    await stream.send_all(GET)
    await stream.receive_some()
    reset(stream)
    with trio.fail_after(5):
        await ended.wait()


@pytest.mark.upstream
async def test_on_plain_hypercorn_it_never_ends(plain_hypercorn, connect):
    """There every send to a client that is gone goes well. (If this fails, it was mended.)"""
    gone, after = trio.Event(), []

    async def app(scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await receive())["type"] != "http.disconnect":
            pass
        for _ in range(100):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            after.append(True)
        gone.set()

    stream = await connect(await plain_hypercorn(app))
    await stream.send_all(GET)
    await stream.receive_some()
    reset(stream)
    with trio.fail_after(5):
        await gone.wait()
    assert len(after) == 100


class Unread:
    """An app that reads nothing of an upload, and sends until it cannot."""

    def __init__(self):
        self.sent = 0
        self.ended = trio.Event()

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x" * 9, "more_body": True})
                self.sent += 1
                await trio.sleep(0.01)
        finally:
            self.ended.set()


async def send_for_ever(stream):
    while True:
        await stream.send_all(b"x" * 100_000)


async def upload_and_reset(connect, url, app):
    """Send more than an app's queue holds, then RST."""
    stream = await connect(url)
    await stream.send_all(POST)
    await stream.receive_some()
    with trio.move_on_after(0.2):
        await send_for_ever(stream)
    reset(stream)


async def test_an_upload_that_nobody_reads(server, connect):
    """Behind it, a reset is noticed all the same: the next send but one raises."""
    app = Unread()
    await upload_and_reset(connect, await server(app), app)
    with trio.fail_after(5):
        await app.ended.wait()


@pytest.mark.upstream
async def test_on_plain_hypercorn_it_stops_the_app(plain_hypercorn, connect):
    """There, the app's send waits for ever. (If this fails, it was mended.)"""
    app = Unread()
    await upload_and_reset(connect, await plain_hypercorn(app), app)
    with trio.move_on_after(5):
        before = None
        while before != app.sent:
            before = app.sent
            await trio.sleep(0.1)
    assert before == app.sent
    assert not app.ended.is_set()


async def test_an_answer_without_reading_the_upload(server, connect, aeventually):
    """An app that refuses a big upload is heard, and both sides end."""
    carriers = []

    async def app(scope, receive, send):
        if scope["type"] == "http":
            carriers.append(scope["state"][STATE_KEY])
            await send({"type": "http.response.start", "status": 413, "headers": []})
            await send({"type": "http.response.body", "body": b"too much"})

    stream = await connect(await server(app))
    await stream.send_all(POST)
    with trio.fail_after(10), pytest.raises(trio.BrokenResourceError):
        await send_for_ever(stream)
    await aeventually(lambda: not carriers[0]._connections, "no connection is left")
