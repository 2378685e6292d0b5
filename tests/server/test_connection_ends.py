"""How a connection ends: half of it first, behind bytes that nobody reads, all of it at once;
and that nothing of it is left.
"""

import os
import random
import socket
import struct

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from flowstream import sse
from flowstream.asgi._carrier import STATE_KEY
from flowstream.server import _hangup

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
RESET = struct.pack("ii", 1, 0)


def raw_socket(stream):
    return getattr(stream, "transport_stream", stream).socket


def reset(stream):
    """Send RST."""
    raw_socket(stream).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    raw_socket(stream).close()


async def read_all(stream):
    data = b""
    with trio.fail_after(10):
        while more := await stream.receive_some():
            data += more
    return data


async def answer(send, body):
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Apps:
    """A plain app that answers after a while, at ``/slow``, and with the body's size, at
    ``/upload``; one that waits for the disconnect; and a stream.
    """

    def __init__(self):
        self.connections = None
        self.waiting = trio.Event()
        self.told = trio.Event()
        self.reports = []

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return
        self.connections = scope["state"][STATE_KEY]._connections
        if scope["path"] == "/stream":
            await sse(self.forever, on_close=self.reports.append)(scope, receive, send)
        elif scope["path"] == "/ticks":
            await sse(self.ticks, on_close=self.reports.append)(scope, receive, send)
        elif scope["path"] == "/wait":
            self.waiting.set()
            while (await receive())["type"] != "http.disconnect":
                pass
            self.told.set()
        elif scope["path"] == "/upload":
            await answer(send, b"%d bytes" % await self.size(receive))
        else:
            await trio.sleep(0.05)
            await answer(send, b"from " + scope["raw_path"])

    async def ticks(self):
        while True:
            yield "tick"
            await trio.sleep(0.01)

    async def forever(self, out):
        await out.send("first")
        await trio.sleep_forever()

    async def size(self, receive):
        size, more = 0, True
        while more:
            await trio.sleep(0.001)
            message = await receive()
            assert message["type"] == "http.request", "cut off"
            size += len(message["body"])
            more = message["more_body"]
        return size


def request(path, *, method="GET", headers=b""):
    return b"%b %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (method.encode(), path, headers)


async def test_a_half_closed_client_is_answered(server, connect):
    """``printf ... | nc -N`` gets its answer, which comes after its FIN."""
    stream = await connect(await server(Apps()))
    await stream.send_all(request(b"/slow"))
    await stream.send_eof()
    assert (await read_all(stream)).endswith(b"from /slow")


async def test_half_closed_behind_pipelined_requests(server, connect):
    """Three requests and a FIN in one go: all of them are answered."""
    stream = await connect(await server(Apps()))
    await stream.send_all(request(b"/1") + request(b"/2") + request(b"/3"))
    await stream.send_eof()
    data = await read_all(stream)
    assert [data.count(b"from /%d" % n) for n in (1, 2, 3)] == [1, 1, 1]


async def test_half_closed_behind_an_upload(server, connect):
    """An app that reads slowly gets all of a body whose FIN has long arrived, and answers."""
    stream = await connect(await server(Apps()))
    body = b"x" * 2_000_000
    head = request(b"/upload", method="POST", headers=b"Content-Length: %d\r\n" % len(body))
    await stream.send_all(head + body)
    await stream.send_eof()
    assert (await read_all(stream)).endswith(b"2000000 bytes")


@pytest.mark.parametrize("behind", [b"", GET, GET * 3])
async def test_a_stream_takes_it_for_the_end(server, connect, aeventually, behind):
    """A stream ends with a half-close, also when pipelined requests are in front of it."""
    app = Apps()
    stream = await connect(await server(app))
    await stream.send_all(request(b"/stream"))
    assert await stream.receive_some()
    await stream.send_all(behind)
    await wait_all_tasks_blocked()
    await stream.send_eof()
    await aeventually(lambda: app.reports, "the stream ends")
    assert app.reports[0].reason == "client_disconnected"


@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_an_app_hears_of_it_behind_pipelined_bytes(server, connect, how):
    """An app that waits for the disconnect is told, whatever is in front of it."""
    app = Apps()
    stream = await connect(await server(app))
    await stream.send_all(request(b"/wait") + GET)
    await app.waiting.wait()
    await wait_all_tasks_blocked()
    if how == "fin":
        await stream.send_eof()
    else:
        reset(stream)
    with trio.fail_after(5):
        await app.told.wait()


@pytest.mark.parametrize("attempt", range(10))
async def test_pipelined_bytes_and_the_end_at_once(server, connect, attempt):
    """The same, if the FIN comes with these bytes, before or after the reader wakes."""
    app = Apps()
    stream = await connect(await server(app))
    await wait_all_tasks_blocked()
    os.write(stream.socket.fileno(), request(b"/wait") + GET)
    stream.socket.shutdown(socket.SHUT_WR)
    with trio.fail_after(5):
        await app.told.wait()


@pytest.mark.upstream
async def test_on_plain_hypercorn_it_does_not(plain_hypercorn, connect):
    """There, pipelined bytes hide the disconnect. (If this fails, it was mended.)"""
    told = trio.Event()

    async def app(scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        while (await receive())["type"] != "http.disconnect":
            pass
        told.set()

    stream = await connect(await plain_hypercorn(app))
    await stream.send_all(GET + GET)
    await wait_all_tasks_blocked(0.05)
    reset(stream)
    with trio.move_on_after(0.3):
        await told.wait()
    assert not told.is_set()


async def test_a_platform_without_the_watch(server, connect, monkeypatch):
    """Without EPOLLRDHUP apps are answered for, and hear of a disconnect that nothing hides."""
    monkeypatch.setattr(_hangup, "_AVAILABLE", False)
    app = Apps()
    url = await server(app)
    stream = await connect(url)
    await stream.send_all(request(b"/slow"))
    await stream.send_eof()
    assert (await read_all(stream)).endswith(b"from /slow")
    stream = await connect(url)
    await stream.send_all(request(b"/wait"))
    await app.waiting.wait()
    reset(stream)
    with trio.fail_after(5):
        await app.told.wait()


async def test_without_the_watch_a_write_tells(server, connect, monkeypatch, aeventually):
    """There, what pipelined bytes hide is noticed by the next write, and nothing is left."""
    monkeypatch.setattr(_hangup, "_AVAILABLE", False)
    app = Apps()
    stream = await connect(await server(app))
    await stream.send_all(request(b"/ticks") + GET)
    assert await stream.receive_some()
    reset(stream)
    await aeventually(lambda: app.reports, "the stream ends")
    assert app.reports[0].reason == "client_disconnected"
    await aeventually(lambda: not app.connections, "no connection is left")


@pytest.mark.parametrize("requests", [b"", GET, b"GET / HTTP/1.1\r\n"])
async def test_an_idle_connection_ends(server, connect, patient_clock, requests):
    """At ``keep_alive_timeout``: before the first request, after one, and amid its head."""
    stream = await connect(await server(Apps(), keep_alive_timeout=0.2))
    began = trio.current_time()
    await stream.send_all(requests)
    await read_all(stream)
    assert 0.2 <= trio.current_time() - began <= 0.3


def held():
    """Return how many tasks, and how many descriptors, there are."""
    return trio.lowlevel.current_statistics().tasks_living, len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("kind", ["http", "tls"])
async def test_two_hundred_clients_that_leave(server, connect, aeventually, certificate, kind):
    """After 200 clients went at random moments, by FIN, RST, half-close or at a stall, there are
    as many tasks and descriptors as before, and no connections.
    """
    chance = random.Random(20261121)
    app = Apps()
    write_timeout = 0.3

    async def apps(scope, receive, send):
        if scope["type"] == "http" and scope["path"] == "/endless":
            app.connections = scope["state"][STATE_KEY]._connections
            await sse(endless, on_close=app.reports.append)(scope, receive, send)
        else:
            await app(scope, receive, send)

    async def endless():
        while True:
            yield "x" * 5000

    async def come_and_go(url):
        await trio.sleep(chance.random() * 0.5)
        path = chance.choice([b"/slow", b"/stream", b"/endless", b"/endless", b"/wait"])
        behind = chance.choice([b"", b"", GET, b"\xff\x00\r\n\r\n", b"GET / HT"])
        try:
            stream = await connect(url, receive_buffer=4096)
        except (OSError, trio.BrokenResourceError):
            return
        try:
            await stream.send_all(request(path) + behind)
            end = chance.choice(["close", "reset", "half-close", "stall"])
            with trio.move_on_after(chance.random() * 0.3):
                while end != "stall" and await stream.receive_some(chance.randrange(1, 9000)):
                    pass
            if end == "reset":
                reset(stream)
            elif end == "half-close":
                raw_socket(stream).shutdown(socket.SHUT_WR)
                with trio.move_on_after(0.5):
                    while await raw_socket(stream).recv(65536):
                        pass
            elif end == "stall":
                await trio.sleep(3 * write_timeout)
        except (OSError, trio.BrokenResourceError):
            pass
        finally:
            raw_socket(stream).close()

    tls = certificate if kind == "tls" else {}
    url = await server(apps, write_timeout=write_timeout, keep_alive_timeout=0.3, **tls)
    await wait_all_tasks_blocked()
    before = held()
    async with trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(come_and_go, url)
    await aeventually(lambda: not app.connections, "no connection is left")
    await aeventually(lambda: held() == before, f"tasks and descriptors as before, {before}")
    reasons = {report.reason for report in app.reports}
    # On a busy machine a client that stalls may be gone before its time is up.
    assert "client_disconnected" in reasons
    assert reasons <= {"client_disconnected", "stalled"}
