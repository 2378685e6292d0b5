"""HTTP/2 that goes wrong on either side: one stream ends, or one connection, never the worker."""

import subprocess
import time

import hpack
import httpx2
import pytest
import trio
import trio.lowlevel
from _reading import read_to_end
from h2.errors import ErrorCodes
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from flowstream import CloseReason, csv, raw, sse

in_thread = trio.to_thread.run_sync
GOAWAY = b"\x00\x00\x08\x07\x00\x00\x00\x00\x00"  # what the frame begins with
GET = [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "a")]


class App:
    """Does what the path says.

    Attributes:
        running, most: applications at work, now and at most.
        log: what has happened, in order.
    """

    def __init__(self):
        self.running = self.most = self.started = 0
        self.log, self.reports = [], []
        self.let_go = trio.Event()

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        self.started += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await getattr(self, scope["path"].strip("/") or "hello")(scope, receive, send)
        finally:
            self.running -= 1

    async def hello(self, scope, receive, send):
        headers = [(b"content-length", b"5")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"hello"})

    async def raises(self, scope, receive, send):
        await self.returns(scope, receive, send)
        raise ValueError("a bug")

    async def returns(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})

    async def half(self, scope, receive, send):
        await csv(self.rows, on_close=self.reports.append)(scope, receive, send)

    async def half_raw(self, scope, receive, send):
        await raw(self.blobs, on_close=self.reports.append)(scope, receive, send)

    async def ticks(self, scope, receive, send):
        await sse(self.endless, on_close=self.reports.append)(scope, receive, send)

    async def spins(self, scope, receive, send):
        """Send in a tight loop, and never ask whether anybody is there."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        end = time.monotonic() + 5
        try:
            while time.monotonic() < end:
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
        except OSError as error:
            self.log.append(type(error).__name__)
            raise
        self.log.append("five seconds")

    async def waits(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        while (message := await receive())["type"] != "http.disconnect":
            pass
        self.log.append(message["type"])

    async def stubborn(self, scope, receive, send):
        await self.waits(scope, receive, send)
        await self.let_go.wait()

    async def rows(self):
        yield [1, 2]
        raise ValueError("gone")

    async def blobs(self):
        yield b"half"
        raise ValueError("gone")

    async def endless(self):
        while True:
            yield "tick"
            await trio.sleep(0.05)


@pytest.fixture
def app():
    return App()


async def is_alive(peer):
    """Check that a connection serves requests."""
    number = await peer.get("/")
    assert await peer.finished(number) == b"hello"


# -- the application fails ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/raises", b"x" * 100_000),
        ("/returns", b"x" * 100_000),
        ("/half", b"1,2\r\n"),
        ("/half_raw", b"half"),
    ],
)
async def test_a_cut_response_is_reset(server, http2, app, path, body):
    """A response without its end is RST_STREAM(INTERNAL_ERROR), after all that was said."""
    peer = await http2(await server(app))
    number = await peer.get(path)
    assert await peer.finished(number) == body
    assert peer.resets == {number: ErrorCodes.INTERNAL_ERROR}
    await is_alive(peer)


@pytest.mark.parametrize("path", ["/raises", "/returns", "/half", "/half_raw"])
async def test_clients_know_a_cut_response(server, app, program, path):
    """curl and httpx take a cut response for an error."""
    url = await server(app)
    command = [program("curl"), "-sS", "--http2-prior-knowledge", "--max-time", "20", url + path]
    done = await in_thread(lambda: subprocess.run(command, capture_output=True, check=False))
    assert done.returncode == 92, done.stderr  # CURLE_HTTP2_STREAM
    async with httpx2.AsyncClient(http1=False, http2=True) as client:
        with pytest.raises(httpx2.RemoteProtocolError, match="StreamReset"):
            await client.get(url + path)


@pytest.mark.upstream
async def test_hypercorn_leaves_the_client_waiting(plain_hypercorn, http2, app):
    """Plain Hypercorn neither ends nor resets the stream of an app that failed halfway."""
    peer = await http2(await plain_hypercorn(app))
    number = await peer.get("/raises")
    await peer.until(lambda: len(peer.bodies[number]) == 100_000)
    await peer.fence()
    with pytest.raises(AssertionError, match="not within"):
        await peer.finished(number, timeout=0.5)


# -- the client's requests are bad -------------------------------------------------------

BAD = {
    "path": {"path": "/\xff"},
    "method": {"method": "G\xcbT"},
    "connect": {"method": "CONNECT", "path": None, "scheme": None},
}


@pytest.mark.parametrize("kind", BAD)
async def test_a_bad_request_is_refused_by_itself(server, http2, app, clean_log, kind):
    """What Hypercorn can't read is refused; the others on the connection go on."""
    peer = await http2(await server(app))
    ticking = await peer.get("/ticks")
    bad = await peer.get(**BAD[kind])
    await peer.finished(bad)
    assert peer.statuses[bad] == (501 if kind == "connect" else 400)
    size = len(peer.bodies[ticking])
    await peer.until(lambda: len(peer.bodies[ticking]) > size + 100)


@pytest.mark.parametrize("left_out", ["method", "path", "scheme"])
async def test_a_missing_pseudo_header(server, http2, app, clean_log, left_out):
    """A malformed request ends its own stream; the others on the connection go on."""
    peer = await http2(await server(app))
    ticking, bad = await peer.get("/ticks"), await peer.get(**{left_out: None})
    await peer.finished(bad)
    assert peer.resets == {bad: ErrorCodes.PROTOCOL_ERROR}
    size = len(peer.bodies[ticking])
    await peer.until(lambda: len(peer.bodies[ticking]) > size + 100)


@pytest.mark.parametrize(
    ("length", "sent", "trailers"),
    [("5", b"longer" * 2000, False), ("50", b"shorter", False), ("50", b"shorter", True)],
)
async def test_a_body_of_another_length(server, http2, app, clean_log, length, sent, trailers):
    """It resets its stream, and the application hears of a disconnect and of no end. The
    connection's window has all of it back.
    """
    peer = await http2(await server(app))
    for _ in range(20):
        app.log.clear()
        number = peer.open("/waits", ("content-length", length), method="POST", ended=False)
        await peer.flush()
        await peer.until(lambda: peer.bodies[number])  # noqa: B023
        # What is left of it is dropped.
        await peer.send(
            DataFrame(number, sent, flags=[] if trailers else ["END_STREAM"]),
            *([headers(number, [("x", "y")], "END_STREAM")] if trailers else []),
        )
        await peer.finished(number)
        assert peer.resets[number] == ErrorCodes.PROTOCOL_ERROR
        await peer.fence()
        assert app.log == ["http.disconnect"]
    await is_alive(peer)


async def test_malformed_requests_reach_the_reset_limit(server, http2, app, clean_log):
    """Each costs a little of it, so that no client can have thousands of streams reset."""
    peer = await http2(await server(app))
    await is_alive(peer)
    bad = [(name, value) for name, value in GET if name != ":path"]
    frames = [headers(number, bad, "END_STREAM") for number in range(3, 4001, 2)]
    await peer.send(*frames)
    resets = (await read_to_end(peer.stream)).count(b"\x00\x00\x04\x03\x00")
    assert 900 < resets < 1900  # what is in one piece with the last of it is reset as well


async def test_more_streams_than_are_allowed(server, http2, app, clean_log):
    """Those beyond are refused; the others are answered, and then there is room again."""
    peer = await http2(await server(app, h2_max_concurrent_streams=10))
    waiting = [peer.open("/waits") for _ in range(10)]
    await peer.flush()
    await peer.until(lambda: all(peer.bodies[number] for number in waiting))
    beyond = [(number, headers(number, GET, "END_STREAM")) for number in range(21, 61, 2)]
    await peer.send(*[frame for _, frame in beyond], DataFrame(21, b"late"))
    peer.h2.highest_outbound_stream_id = 59
    await trio.testing.wait_all_tasks_blocked()
    for number in waiting:
        peer.h2.reset_stream(number, ErrorCodes.CANCEL)
    await is_alive(peer)
    assert app.started == 11


async def test_a_client_that_says_goodbye(server, http2, app, clean_log):
    """Behind its GOAWAY open streams go on to their end, new ones are refused, and then the
    connection is closed.
    """
    peer = await http2(await server(app))
    ticking = await peer.get("/ticks")
    await peer.send(GoAwayFrame(0))
    size = len(peer.bodies[ticking])
    await peer.until(lambda: len(peer.bodies[ticking]) > size + 100)
    refused = await peer.get("/")
    await peer.finished(refused)
    assert peer.resets == {refused: ErrorCodes.REFUSED_STREAM}
    peer.h2.reset_stream(ticking, ErrorCodes.CANCEL)
    await peer.flush()
    await peer.until_closed()


async def test_data_after_the_response(server, http2, app, clean_log):
    """DATA that comes when the response is over is dropped, and stops with RST_STREAM(NO_ERROR)."""
    peer = await http2(await server(app))
    number = peer.open("/", method="POST", ended=False)
    assert await peer.finished(number) == b"hello"
    await peer.until(lambda: number in peer.resets)
    assert peer.resets[number] == ErrorCodes.NO_ERROR
    await peer.send(*[DataFrame(number, b"x" * 10_000) for _ in range(20)])
    await is_alive(peer)


@pytest.mark.upstream
@pytest.mark.parametrize("kind", ["path", "method", "connect"])
async def test_a_bad_request_ends_hypercorn(plain_hypercorn, http2, app, aeventually, kind):
    """One of these requests ends plain Hypercorn's worker."""
    peer = await http2(await plain_hypercorn(app))
    await peer.get(**BAD[kind])
    await aeventually(lambda: plain_hypercorn.error, "the server has ended")


@pytest.mark.upstream
async def test_late_data_ends_hypercorn(plain_hypercorn, http2, app, aeventually):
    """DATA after the response does, too."""
    peer = await http2(await plain_hypercorn(app))
    number = peer.open("/", method="POST", ended=False)
    await peer.flush()
    await peer.finished(number)
    await peer.send(DataFrame(number, b"x"))
    await aeventually(lambda: plain_hypercorn.error, "the server has ended")


def headers(number, fields=GET, *flags, priority=()):
    """Return a HEADERS frame that says so in full, leaving HPACK's table as it was."""
    encoder = hpack.Encoder()
    block = encoder.encode([hpack.NeverIndexedHeaderTuple(*field) for field in fields])
    return HeadersFrame(number, block, flags=["END_HEADERS", *flags, *priority])


def continuations():
    first = HeadersFrame(1, b"", flags=["END_STREAM"])
    return [first, *[ContinuationFrame(1, b"") for _ in range(1000)]]


# What a whole connection ends for, by RFC 9113 or by h2's own bounds.
ENDING = {
    "continuation flood": continuations,
    "header bomb": lambda: (
        [headers(1, [*GET, *[("x", "y" * 4000)] * 4]) for _ in range(1)]
        + [ContinuationFrame(1, b"")]
    ),
    "window overflow": lambda: [WindowUpdateFrame(0, 2**31 - 1)],
    "even stream": lambda: [headers(2)],
    "self-dependency": lambda: [PriorityFrame(1, depends_on=1)],
    "data on stream 0": lambda: [headers(1), DataFrame(3, b"x")],
    "reset of an idle stream": lambda: [RstStreamFrame(99), headers(1), headers(1)],
    "initial window": lambda: [SettingsFrame(0, {4: 2**31})],
}


@pytest.mark.parametrize("kind", ENDING)
async def test_frames_that_end_a_connection(server, http2, app, clean_log, kind):
    """These end the connection that they came on, and no other."""
    url = await server(app)
    other, peer = await http2(url), await http2(url)
    await peer.send(*ENDING[kind]())
    await peer.until_closed()
    await is_alive(other)


async def test_window_overflow_on_a_stream(server, http2, app, clean_log):
    """It resets the stream (RFC 9113 § 6.9.1)."""
    peer = await http2(await server(app))
    ticking, number = await peer.get("/ticks"), await peer.get("/waits")
    await peer.until(lambda: peer.bodies[number])
    await peer.send(WindowUpdateFrame(number, 2**31 - 1))
    await peer.finished(number)
    assert peer.resets == {number: ErrorCodes.FLOW_CONTROL_ERROR}
    size = len(peer.bodies[ticking])
    await peer.until(lambda: len(peer.bodies[ticking]) > size + 100)


async def test_priorities_are_ignored(server, http2, app, clean_log):
    """However many, for whatever streams, in chains or loops: requests are served."""
    peer = await http2(await server(app))
    many = range(101, 6001, 2)
    await peer.send(*[PriorityFrame(number, depends_on=0) for number in many])
    await peer.send(*[PriorityFrame(n, depends_on=n - 2, stream_weight=255) for n in many])
    await peer.send(*[PriorityFrame(n - 2, depends_on=n, exclusive=True) for n in many])
    await is_alive(peer)
    await peer.send(PriorityFrame(1, depends_on=3), PriorityFrame(3, depends_on=1))
    await is_alive(peer)


@pytest.mark.upstream
async def test_priorities_end_hypercorn(plain_hypercorn, http2, app, aeventually):
    """A thousand PRIORITY frames fill plain Hypercorn's tree and end its worker."""
    peer = await http2(await plain_hypercorn(app))
    await peer.send(*[PriorityFrame(number, depends_on=0) for number in range(1, 4001, 2)])
    await aeventually(lambda: plain_hypercorn.error, "the server has ended")


# -- floods ------------------------------------------------------------------------------


async def test_rapid_reset(server, http2, app, clean_log):
    """Thousands of requests that are reset at once start a bounded number of applications
    and end with ENHANCE_YOUR_CALM; another connection is served meanwhile.
    """
    url = await server(app)
    other, peer = await http2(url), await http2(url)
    await is_alive(other)

    async def flood():
        with trio.move_on_after(10):
            for start in range(1, 40_001, 1000):
                frames = []
                for number in range(start, start + 1000, 2):
                    frames += [headers(number, GET), RstStreamFrame(number, error_code=8)]
                try:
                    await peer.send(*frames)
                except trio.BrokenResourceError:
                    return
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        slowest = 0.0
        for _ in range(5):
            start = time.monotonic()
            await is_alive(other)
            slowest = max(slowest, time.monotonic() - start)
    # Not by h2, which knows nothing of these requests.
    said = await read_to_end(peer.stream)
    if goaway := said.partition(GOAWAY)[2]:  # it may be lost in the reset of the connection
        assert goaway[4:8] == ErrorCodes.ENHANCE_YOUR_CALM.to_bytes(4, "big")
    assert app.most <= 200
    assert app.started <= 1200
    assert slowest < 10
    await is_alive(other)


async def test_applications_that_outlast_their_streams(server, http2, app, aeventually):
    """With twice as many at work as streams are allowed, further requests are refused unseen."""
    peer = await http2(await server(app, h2_max_concurrent_streams=10))
    for _ in range(2):
        numbers = [peer.open("/stubborn") for _ in range(10)]
        await peer.flush()
        await peer.until(lambda: all(peer.bodies[n] for n in numbers))  # noqa: B023
        for number in numbers:
            peer.h2.reset_stream(number, ErrorCodes.CANCEL)
        await peer.fence()
    refused = await peer.get("/")
    await peer.finished(refused)
    assert peer.resets[refused] == ErrorCodes.REFUSED_STREAM
    assert app.started == 20
    app.let_go.set()
    await aeventually(lambda: not app.running, "they have ended")
    await is_alive(peer)


async def begin_and_reset_a_hundred(peer, path):
    """Ask for a hundred streams, and reset each once something of all has come."""
    numbers = [peer.open(path) for _ in range(100)]
    await peer.flush()
    await peer.until(lambda: all(peer.bodies[n] for n in numbers))
    for number in numbers:
        peer.h2.reset_stream(number, ErrorCodes.CANCEL)
    await peer.fence()


async def test_a_user_who_leaves_a_hundred_streams(server, http2, app, aeventually, clean_log):
    """Resetting all that one has, and asking for as much again, is not taken amiss."""
    peer = await http2(await server(app, keep_alive_max_requests=10_000))
    for _ in range(5):
        await begin_and_reset_a_hundred(peer, "/ticks")
    await is_alive(peer)
    await aeventually(lambda: len(app.reports) == 500, "every stream has its report")
    assert {report.reason for report in app.reports} == {CloseReason.CLIENT_DISCONNECTED}


@pytest.mark.parametrize("kind", ["ping", "settings", "empty data"])
async def test_floods_of_small_frames(server, http2, app, aeventually, clean_log, kind):
    """A client that floods and takes no answers is held by TCP; another one is served."""
    url = await server(app, write_timeout=0.5)
    other, peer = await http2(url), await http2(url, receive_buffer=4096)
    upload = peer.open("/waits", method="POST", ended=False)
    await peer.flush()
    frame = {
        "ping": PingFrame(0, b"12345678"),
        "settings": SettingsFrame(0, {4: 70_000}),
        "empty data": DataFrame(upload, b""),
    }[kind].serialize()
    sent = 0
    with trio.move_on_after(1.0):
        try:
            while sent < 60_000:
                await peer.stream.send_all(frame * 1000)
                sent += 1000
        except trio.BrokenResourceError:
            pass
    await is_alive(other)
    if kind == "empty data":
        await aeventually(lambda: app.running == 1, "the upload goes on")


# -- the client resets -------------------------------------------------------------------


async def test_a_tight_loop_is_told(server, http2, app, aeventually, clean_log):
    """After RST_STREAM, send() raises an OSError to an app that does nothing but send."""
    peer = await http2(await server(app))
    number = await peer.get("/spins")
    await peer.until(lambda: len(peer.bodies[number]) > 10)
    peer.h2.reset_stream(number, ErrorCodes.CANCEL)
    await peer.flush()
    await aeventually(lambda: app.log, "the app has heard of it")
    assert app.log == ["ClientGoneError"]
    await is_alive(peer)


async def test_receive_is_told(server, http2, app, aeventually, clean_log):
    """After RST_STREAM, receive() has http.disconnect."""
    peer = await http2(await server(app))
    number = await peer.get("/waits")
    await peer.until(lambda: peer.bodies[number])
    peer.h2.reset_stream(number, ErrorCodes.CANCEL)
    await peer.flush()
    await aeventually(lambda: app.log == ["http.disconnect"], "the app has heard of it")


@pytest.mark.upstream
async def test_hypercorn_freezes(plain_hypercorn, http2, app, aeventually):
    """In plain Hypercorn, a loop that sends to a stream that was reset lets nobody else run."""
    peer = await http2(await plain_hypercorn(app), grants=False)
    number = await peer.get("/spins")
    await peer.until(lambda: len(peer.bodies[number]) > 10)
    peer.h2.reset_stream(number, ErrorCodes.CANCEL)
    await peer.flush()
    longest = 0.0
    while not app.log:
        start = time.monotonic()
        await trio.sleep(0.001)
        longest = max(longest, time.monotonic() - start)
    assert app.log == ["five seconds"]
    assert longest > 1


async def test_a_reset_stream_leaves_nothing(server, http2, app, aeventually, clean_log):
    """Quiet streams that are reset, more of them than the server allows at once, are forgotten."""
    peer = await http2(await server(app, keep_alive_max_requests=10_000))
    for _ in range(15):
        await begin_and_reset_a_hundred(peer, "/waits")
    await aeventually(lambda: not app.running, "all apps have ended")
    await is_alive(peer)
