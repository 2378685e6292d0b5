"""Clients that break the rules: the server logs no traceback and goes on serving."""

import random
import re
import socket
from contextlib import suppress

import httpx2
import pytest
import trio
from quart import request
from quart_trio import QuartTrio

from flowstream import Limits, ndjson, raw, sse
from flowstream.quart import Flowstream

pytestmark = pytest.mark.chaos

HEAD = b"GET /short HTTP/1.1\r\nHost: localhost\r\n"


class Target:
    """A Quart-Trio app with a short stream, an endless one, an idle one, and an echo."""

    def __init__(self):
        self.reports = []
        self.app = app = QuartTrio("app")
        Flowstream(app)

        @app.get("/short")
        async def short():
            return ndjson([1, 2, 3], controls=False, on_close=self.reports.append)

        @app.get("/endless")
        async def endless():
            async def ticks():
                while True:
                    yield "tick"
                    await trio.sleep(0.001)

            return sse(ticks, on_close=self.reports.append)

        @app.get("/idle")
        async def idle():
            return sse(self.waits, heartbeat=0.1, on_close=self.reports.append)

        @app.post("/echo")
        async def echo():
            async def pieces():
                async for data in request.body:
                    yield data

            limits = Limits(max_duration=20)
            return raw(pieces, limits=limits, on_close=self.reports.append)

        @app.post("/ignore")
        async def ignore():
            return sse(self.waits, on_close=self.reports.append)

    async def waits(self, out):
        await out.send("hello")
        await trio.sleep_forever()


@pytest.fixture
def target():
    return Target()


@pytest.fixture
async def url(server, target, clean_log):
    """Where the target is served; afterwards it still is."""
    url = await server(target.app, keep_alive_timeout=0.2, graceful_timeout=0.2)
    yield url
    async with httpx2.AsyncClient() as client:
        assert (await client.get(f"{url}/short")).text == "1\n2\n3\n"


class Wire:
    """A connection on which a test writes what it likes."""

    def __init__(self, stream):
        self.stream = stream

    async def send(self, data):
        """Send, unless the server has hung up by now, as it may."""
        with suppress(trio.BrokenResourceError):
            await self.stream.send_all(data)

    async def read_until(self, mark):
        """Return what comes, up to the first `mark` and perhaps beyond it."""
        data = b""
        with trio.fail_after(10):
            while mark not in data:
                more = await self.stream.receive_some(65536)
                assert more, f"the connection ended before {mark!r}: {data!r}"
                data += more
        return data

    async def read_all(self):
        """Return what comes until the server ends the connection."""
        data = b""
        with trio.fail_after(10), suppress(trio.BrokenResourceError):
            while more := await self.stream.receive_some(65536):
                data += more
        return data

    async def reset(self):
        """Close it with RST."""
        linger = b"\1\0\0\0\0\0\0\0"
        self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        await self.stream.aclose()


@pytest.fixture
async def connect(url):
    """Connect to the target: ``await connect()`` is a `Wire`."""
    opened = []

    async def one():
        stream = await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
        opened.append(stream)
        return Wire(stream)

    yield one
    for stream in opened:
        await stream.aclose()


def noise(seed, size):
    return random.Random(seed).randbytes(size)


GARBAGE = {
    "a byte": b"\0",
    "line breaks": b"\r\n" * 1000,
    "a TLS hello": bytes.fromhex("16030100c8010000c40303") + noise(1, 190),
    "noise": noise(2, 65536),
    "noise after a good line": b"GET /short HTTP/1.1\r\n" + noise(3, 4096) + b"\r\n\r\n",
    "no version": b"GET /short\r\n\r\n",
    "a version to come": b"GET /short HTTP/9.9\r\n\r\n",
    "no path": b"GET HTTP/1.1\r\nHost: a\r\n\r\n",
    "an 8-bit path": b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
    "an escaped 8-bit path": b"GET /%ff%00%0d%0a HTTP/1.1\r\nHost: a\r\n\r\n",
    "no host": b"GET /short HTTP/1.1\r\n\r\n",
    "a strange host": b"GET /short HTTP/1.1\r\nHost: [::::]:x\r\n\r\n",
    "an absolute path": b"GET http://other/short HTTP/1.1\r\nHost: a\r\n\r\n",
    "a star": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "connect": b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "an unknown method": b"BREW /short HTTP/1.1\r\nHost: a\r\n\r\n",
    "a header of 100 KB": HEAD + b"X: " + b"a" * 100_000 + b"\r\n\r\n",
    "ten thousand headers": HEAD + b"X: a\r\n" * 10_000 + b"\r\n",
    "a header without a name": HEAD + b": a\r\n\r\n",
    "a folded header": HEAD + b"X: a\r\n b\r\n\r\n",
    "two lengths": b"POST /echo HTTP/1.1\r\nHost: a\r\n"
    b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a length below zero": b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    "a length and chunks": b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a bad chunk": b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "a chunk of 2**64": b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"ffffffffffffffff\r\n",
    "an upgrade to nothing": HEAD + b"Connection: Upgrade\r\nUpgrade: nothing\r\n\r\n",
    "a websocket": HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    "a websocket without its key": HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "a preface and no HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + noise(4, 1000),
    "half a preface": b"PRI * HTTP/2.0\r\n\r\n",
    "an 8-bit cookie": HEAD + b"Cookie: session=\xff\xfe; \xe9\r\n\r\n",
    "a query of noise": b"GET /short?%ff%fe&=&&lastEventId=%00%ff HTTP/1.1\r\nHost: a\r\n\r\n",
}


@pytest.mark.parametrize("goes_by", ["close", "reset", "half-close"])
@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
async def test_garbage(connect, data, goes_by):
    """Whatever bytes come, and however their sender goes away, nothing breaks."""
    wire = await connect()
    await wire.send(data)
    if goes_by == "half-close":
        try:
            await wire.stream.send_eof()
        except trio.BrokenResourceError:
            return
        await wire.read_all()
    elif goes_by == "reset":
        await wire.reset()
    else:
        await wire.stream.aclose()


@pytest.mark.parametrize("end", [1, 4, 16, 20, 30, 38])
async def test_part_of_a_request(connect, end):
    """A request that breaks off is answered 400, and the connection ends."""
    wire = await connect()
    await wire.send((HEAD + b"\r\n")[:end])
    await wire.stream.send_eof()
    assert (await wire.read_all()).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (b"abc\rdef", {b"400"}),
        (b"abc\0def", {b"400"}),
        (b"abc\x07", {b"400", b"204"}),
        (b"abc\xff\xfe", {b"204"}),
        (b"\xc3\x28", {b"204"}),
        (b"x" * 10_000, {b"204"}),
        (b"0.end", {b"204"}),
        (b"", {b"200"}),
    ],
)
async def test_a_strange_last_event_id(connect, value, status):
    """CR and NUL are refused by the server, all other bytes are an id that nobody knows."""
    wire = await connect()
    await wire.send(b"GET /endless HTTP/1.1\r\nHost: a\r\nLast-Event-ID: " + value + b"\r\n\r\n")
    answer = await wire.read_until(b"\r\n\r\n")
    assert answer.split(b" ")[1] in status


async def test_slow_loris(connect, url):
    """A hundred clients that send a request byte by byte keep nobody from being served."""
    wires = [await connect() for _ in range(100)]
    async with httpx2.AsyncClient() as client:
        for byte in HEAD[:20]:
            for wire in wires:
                await wire.send(bytes([byte]))
            assert (await client.get(f"{url}/short")).text == "1\n2\n3\n"


async def test_pipelined_requests(connect, target, aeventually):
    """Requests sent all at once are answered one after another, on one connection."""
    wire = await connect()
    requests = [b"GET", b"HEAD", b"GET", b"HEAD", b"GET"]
    await wire.send(b"".join(b"%s /short HTTP/1.1\r\nHost: a\r\n\r\n" % one for one in requests))
    await aeventually(lambda: len(target.reports) == len(requests), "five reports")
    await wire.stream.send_eof()
    data = await wire.read_all()
    assert len(re.findall(rb"HTTP/1\.1 200", data)) == 5
    assert data.count(b"0\r\n\r\n") == 3


@pytest.mark.parametrize("path", ["/endless", "/idle"])
async def test_a_request_behind_a_stream(connect, target, aeventually, path):
    """Bytes pipelined behind a stream hide the client's end from the server's reader; the next
    write, a heartbeat's if need be, tells.
    """
    wire = await connect()
    await wire.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode() + HEAD + b"\r\n")
    await wire.read_until(b"data: ")
    await wire.reset()
    await aeventually(lambda: target.reports, "the report")
    assert [report.reason.value for report in target.reports] == ["client_disconnected"]


@pytest.mark.parametrize("path", ["/echo", "/ignore"])
async def test_an_upload_that_never_ends(connect, target, aeventually, path):
    """A stream answers a chunked body that stops in the middle, read or not, and ends with
    its client.
    """
    wire = await connect()
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    await wire.send(head.encode() + b"5\r\nhello\r\n5\r\nhe")
    await wire.read_until(b"hello")
    await wire.stream.aclose()
    await aeventually(lambda: target.reports, "the report")
    assert [report.reason.value for report in target.reports] == ["client_disconnected"]


async def test_expect_100_continue(connect):
    """An upload that waits for 100 Continue gets it, and is streamed back."""
    wire = await connect()
    await wire.send(
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    )
    await wire.read_until(b"HTTP/1.1 100")
    await wire.send(b"hello")
    assert b"hello\r\n0\r\n\r\n" in await wire.read_until(b"0\r\n\r\n")


async def test_http_1_0(connect):
    """A client of HTTP/1.0 gets the body as it is, and its end by that of the connection."""
    wire = await connect()
    await wire.send(b"GET /short HTTP/1.0\r\n\r\n")
    head, _, body = (await wire.read_all()).partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert body == b"1\n2\n3\n"


async def test_a_head_and_then_silence(connect, target, aeventually):
    """A HEAD to an endless stream is over at once, and the connection can be used again."""
    wire = await connect()
    await wire.send(b"HEAD /endless HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"content-type: text/event-stream" in await wire.read_until(b"\r\n\r\n")
    await wire.send(HEAD + b"\r\n")
    assert b"1\n" in await wire.read_until(b"0\r\n\r\n")
    await aeventually(lambda: len(target.reports) == 2, "both reports")
    assert [report.reason.value for report in target.reports] == ["refused", "completed"]
