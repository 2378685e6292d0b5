"""A request's body that does not come: who ends it, and what it leaves alone."""

import logging
import math

import h2.errors
import pytest
import trio
from _http2_client import Peer
from _reading import read_to_end
from quart import request
from quart_trio import QuartTrio

from flowstream import sse
from flowstream.quart import Flowstream
from flowstream.server._inbox import BodyClock, Inbox

HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
BODIES = {
    "length": HEAD + b"Content-Length: 100000\r\n\r\n",
    "chunked": HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
    "a chunk that stops": HEAD + b"Transfer-Encoding: chunked\r\n\r\nff\r\nabc",
    "expect": HEAD + b"Content-Length: 9\r\nExpect: 100-continue\r\n\r\n",
}


class App:
    """Reads the body, then answers 200 with its length."""

    def __init__(self):
        self.received = []

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        size = 0
        while True:
            message = await receive()
            self.received.append(message["type"])
            if message["type"] == "http.disconnect":
                return
            size += len(message["body"])
            if not message["more_body"]:
                break
        body = b"%d" % size
        head = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})


def test_time_is_spent_and_given_back():
    """Each 500 bytes give back a second, up to the whole of it."""
    clock = BodyClock(10)
    clock.waited(4)
    clock.arrived(1000)
    assert clock.left == 8
    clock.arrived(10_000)
    assert clock.left == 10
    clock.waited(math.inf)
    assert clock.left == 0


@pytest.mark.parametrize("name", BODIES)
async def test_a_body_that_stops_is_given_up(
    server, connect, autojump_clock, aeventually, clean_log, name
):
    """The request gets 408, the connection ends, and the app hears a disconnect."""
    app = App()
    stream = await connect(
        await server(app, body_timeout=20, accesslog=logging.getLogger("tests.access"))
    )
    await stream.send_all(BODIES[name])
    start = trio.current_time()
    answer = await read_to_end(stream, seconds=200)
    assert b"HTTP/1.1 408 " in answer
    assert b"connection: close" in answer
    assert 19 <= trio.current_time() - start <= 25
    await aeventually(lambda: app.received[-1:] == ["http.disconnect"], "the app has heard of it")

    def lines():
        return [r.getMessage() for r in clean_log.records if r.name == "tests.access"]

    await aeventually(lines, "a line in the access log")
    assert len(lines()) == 1
    assert " 408 " in lines()[0]


async def test_a_byte_now_and_then_is_not_enough(server, connect, autojump_clock, clean_log):
    """Nor does a client hold its request for ever with one every ten seconds."""
    stream = await connect(await server(App(), body_timeout=60))
    await stream.send_all(BODIES["length"])
    start = trio.current_time()
    async with trio.open_nursery() as nursery:

        async def trickle():
            while True:
                await trio.sleep(10)
                await stream.send_all(b"x")

        nursery.start_soon(trickle)
        answer = await read_to_end(stream, seconds=200)
        nursery.cancel_scope.cancel()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert 55 <= trio.current_time() - start <= 75


async def test_a_slow_upload_goes_on(server, connect, autojump_clock, clean_log):
    """At a thousand bytes a second it may take as long as it needs."""
    stream = await connect(await server(App(), body_timeout=5))
    await stream.send_all(BODIES["length"])
    for _ in range(100):
        await trio.sleep(1)
        await stream.send_all(bytes(1000))
    assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")


async def test_an_app_that_reads_slowly_is_left_alone(server, connect, autojump_clock, clean_log):
    """What it does between two reads is not the client's fault."""

    async def app(scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        more = True
        while more:
            await trio.sleep(50)
            more = (await receive())["more_body"]
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    stream = await connect(await server(app, body_timeout=5))
    await stream.send_all(HEAD + b"Content-Length: 9\r\n\r\n123456789")
    assert (await stream.receive_some()).startswith(b"HTTP/1.1 204 ")


async def test_a_stream_that_has_begun_is_left_alone(server, connect, autojump_clock, clean_log):
    """Its client may take its time with a body that nobody may need."""

    async def count():
        for number in range(100):
            yield str(number)
            await trio.sleep(1)

    async def app(scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        await sse(count())(scope, receive, send)

    stream = await connect(await server(app, body_timeout=5))
    await stream.send_all(BODIES["length"])
    found = b""
    with trio.fail_after(200):
        while b"event: end" not in found:
            found += await stream.receive_some()
    assert b"data: 99" in found


async def test_over_http_2_the_stream_alone_ends(server, connect, autojump_clock, clean_log):
    """With 408; another request on the connection is answered."""
    peer = Peer(await connect(await server(App(), body_timeout=20, keep_alive_timeout=60)))
    late = await peer.get(method="POST", ended=False)
    await peer.finished(late, timeout=60)
    assert peer.statuses[late] == 408
    assert peer.resets.get(late, h2.errors.ErrorCodes.NO_ERROR) == h2.errors.ErrorCodes.NO_ERROR
    good = await peer.get()
    assert await peer.finished(good) == b"0"


async def test_in_a_quart_view(server, connect, autojump_clock, clean_log):
    """Waiting for `get_data()` ends, too."""
    app = QuartTrio(__name__)
    Flowstream(app)

    @app.post("/")
    async def view():
        return str(len(await request.get_data()))

    stream = await connect(await server(app, body_timeout=20))
    await stream.send_all(BODIES["length"])
    assert (await read_to_end(stream, seconds=200)).startswith(b"HTTP/1.1 408 ")


async def test_without_a_bound(autojump_clock):
    """`math.inf` waits for as long as the client likes."""
    inbox = Inbox("http", 10, math.inf)
    with trio.move_on_after(1e6) as scope:
        await inbox.receive()
    assert scope.cancelled_caught
