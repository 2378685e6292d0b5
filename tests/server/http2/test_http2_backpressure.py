"""HTTP/2 clients that take little or nothing, and what it costs the server and the others."""

import select
import time

import pytest
import trio
from h2.errors import ErrorCodes
from trio.testing import wait_all_tasks_blocked

from flowstream import Limits, raw, sse

CHUNK = b"x" * 4096
ENOUGH = 4 << 20
DEADLINE = 0.6


class Flood:
    """Sends 4 KiB chunks without an end, as a plain ASGI app or as a stream.

    Attributes:
        made: bytes that were made so far, by path.
        sent: bytes that `send` has taken.
        errors: what `send` has raised, by path.
        reports: those of the streams.
    """

    def __init__(self, **options):
        self.options = options
        self.made, self.errors, self.reports, self.ended_at = {}, {}, [], {}

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError  # which is how to do without a lifespan
        path = scope["path"]
        if path == "/ticks":
            await sse(self.ticks)(scope, receive, send)
        elif path.startswith("/plain"):
            await self.plain(path, receive, send)
        else:
            make = {"sse": sse, "raw": raw}[path[1:4]]
            response = make(self.source(path), on_close=self.reports.append, **self.options)
            await response(scope, receive, send)
            self.ended_at[path] = time.monotonic()

    async def plain(self, path, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while self.made.get(path, 0) < ENOUGH:
                self.made[path] = self.made.get(path, 0) + len(CHUNK)
                await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
        except OSError as error:
            self.errors[path] = error
            self.ended_at[path] = time.monotonic()
            raise

    async def source(self, path):
        chunk = CHUNK if path.startswith("/raw") else CHUNK.decode()
        while self.made.get(path, 0) < ENOUGH:
            self.made[path] = self.made.get(path, 0) + len(CHUNK)
            yield chunk

    async def ticks(self):
        while True:
            yield "tick"
            await trio.sleep(0.01)


async def settled(flood, path, aeventually):
    await aeventually(lambda: flood.made.get(path), "the first chunk")
    await wait_all_tasks_blocked(0.05)
    return flood.made[path]


@pytest.mark.parametrize("tls", [False, True], ids=["cleartext", "tls"])
@pytest.mark.parametrize("path", ["/plain", "/sse", "/raw"])
async def test_without_a_window_the_producer_blocks(
    server, http2, aeventually, certificate, tls, path
):
    """A client that opens no window has an app make less than 150 KB; a stream whose own
    buffer is 16 KiB no more, either.
    """
    flood = Flood(buffer=4)
    url = await server(flood, **certificate if tls else {})
    peer = await http2(url, grants=False)
    number = await peer.get(path)
    await peer.until(lambda: len(peer.bodies[number]) == 65535)
    assert await settled(flood, path, aeventually) < 150_000


@pytest.mark.upstream
async def test_hypercorn_takes_it_all(plain_hypercorn, http2, aeventually):
    """Plain Hypercorn takes in more than 1 MB for a client that opens no window."""
    flood = Flood()
    peer = await http2(await plain_hypercorn(flood), grants=False)
    number = await peer.get("/plain")
    await peer.until(lambda: len(peer.bodies[number]) == 65535)
    await aeventually(lambda: flood.made["/plain"] > 1 << 20, "a megabyte is taken in")


async def test_a_window_lets_as_much_through(server, http2, aeventually):
    """What the client grants is what arrives, and the producer goes on for as much."""
    flood = Flood()
    peer = await http2(await server(flood), grants=False)
    number = await peer.get("/plain")
    before = await settled(flood, "/plain", aeventually)
    await peer.grant(number, 1 << 20)
    await peer.until(lambda: len(peer.bodies[number]) == 65535 + (1 << 20))
    after = await settled(flood, "/plain", aeventually)
    assert abs(after - before - (1 << 20)) <= 32 * 1024


# -- the deadline ------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True], ids=["cleartext", "tls"])
@pytest.mark.parametrize("path", ["/plain", "/sse"])
async def test_nothing_moves(
    server, http2, aeventually, certificate, clean_log, patient_clock, tls, path
):
    """A client that grants nothing to anything loses its connection at the deadline."""
    flood = Flood()
    url = await server(flood, write_timeout=DEADLINE, **certificate if tls else {})
    peer = await http2(url, grants=False)
    number = await peer.get(path)
    await peer.until(lambda: len(peer.bodies[number]) == 65535)
    start = trio.current_time()
    await peer.until_closed()
    assert 0.9 * DEADLINE <= trio.current_time() - start <= 1.5 * DEADLINE
    if path == "/sse":
        await aeventually(lambda: flood.reports, "the report")
        assert [report.reason.value for report in flood.reports] == ["stalled"]
    else:
        await aeventually(lambda: path in flood.errors, "send() raises")


@pytest.mark.parametrize("path", ["/plain", "/sse"])
async def test_other_streams_move(server, http2, aeventually, clean_log, patient_clock, path):
    """One stream without a window is cancelled at the deadline, and the others go on."""
    flood = Flood()
    peer = await http2(
        await server(flood, write_timeout=DEADLINE), initial_window_size=10_000, grants=False
    )
    ticking = await peer.get("/ticks")
    await peer.grant(ticking, 1 << 20)
    stalled = await peer.get(path)
    await peer.until(lambda: len(peer.bodies[stalled]) == 10_000)
    start = trio.current_time()
    await peer.until(lambda: stalled in peer.resets)
    assert 0.9 * DEADLINE <= trio.current_time() - start <= 1.5 * DEADLINE
    assert peer.resets == {stalled: ErrorCodes.CANCEL}
    assert len(peer.bodies[stalled]) == 10_000
    size = len(peer.bodies[ticking])
    await peer.until(lambda: len(peer.bodies[ticking]) > size + 100)
    if path == "/sse":
        await aeventually(lambda: flood.reports, "the report")
        assert [report.reason.value for report in flood.reports] == ["stalled"]
    else:
        await aeventually(lambda: path in flood.errors, "send() raises")


async def test_a_quiet_stream_survives_its_neighbour(server, http2, clean_log):
    """A stream that says nothing for longer than the deadline is no victim of one that stalls."""

    async def quiet(scope, receive, send):
        await sse(says)(scope, receive, send)

    async def says():
        yield "before"
        await over.wait()
        yield "after"

    over, flood = trio.Event(), Flood()

    async def app(scope, receive, send):
        await (quiet if scope["path"] == "/quiet" else flood)(scope, receive, send)

    peer = await http2(await server(app, write_timeout=0.5), initial_window_size=1000, grants=False)
    quietly = await peer.get("/quiet")
    stalled = await peer.get("/plain")
    await peer.until(lambda: stalled in peer.resets)
    over.set()
    await peer.until(lambda: b"after" in peer.bodies[quietly])


@pytest.mark.parametrize("tls", [False, True], ids=["cleartext", "tls"])
async def test_the_tcp_window_is_closed(server, http2, aeventually, certificate, clean_log, tls):
    """A client that grants everything and reads nothing is reset at the deadline."""
    flood = Flood()
    url = await server(flood, write_timeout=DEADLINE, **certificate if tls else {})
    peer = await http2(url, receive_buffer=4096, initial_window_size=2**31 - 1)
    await peer.get("/sse")
    await peer.grant(0, 2**30)
    await settled(flood, "/sse", aeventually)
    await aeventually(lambda: is_reset(peer), "the connection is reset")
    await aeventually(lambda: flood.reports, "the report")
    assert [report.reason.value for report in flood.reports] == ["stalled"]


def is_reset(peer):
    """Return whether RST has come, without reading what came before it."""
    stream = getattr(peer.stream, "transport_stream", peer.stream)
    poll = select.poll()
    poll.register(stream.socket.fileno(), 0)
    return bool(poll.poll(0))


async def test_slow_but_steady(server, http2, aeventually, clean_log, patient_clock):
    """A client that grants a little, long after each other but always in time, is kept."""
    flood = Flood()
    peer = await http2(await server(flood, write_timeout=0.4), grants=False)
    number = await peer.get("/plain")
    await peer.until(lambda: len(peer.bodies[number]) == 65535)
    start = trio.current_time()
    size = 65535
    while trio.current_time() - start < 1.5:
        await trio.sleep(0.1)
        await peer.grant(number, 10)
        size += 10
        await peer.until(lambda: len(peer.bodies[number]) == size)  # noqa: B023
    assert not peer.resets


async def test_a_streams_own_stall_timeout(server, http2, clean_log):
    """stall_timeout resets its stream alone, long before the connection's deadline."""
    flood = Flood(limits=Limits(stall_timeout=0.3))
    peer = await http2(await server(flood), grants=False, initial_window_size=5000)
    ticking, stalled = await peer.get("/ticks"), await peer.get("/sse")
    await peer.grant(ticking, 1 << 20)
    await peer.until(lambda: stalled in peer.resets)
    assert peer.resets == {stalled: ErrorCodes.CANCEL}
    assert [report.reason.value for report in flood.reports] == ["stalled"]
    size = len(peer.bodies[ticking])
    await peer.until(lambda: len(peer.bodies[ticking]) > size + 100)
