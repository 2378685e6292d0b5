"""Bytes that go past the protocol, straight to the socket: direct writes."""

import itertools
import socket
from urllib.parse import urlsplit

import h11
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

import flowstream
from flowstream.asgi._carrier import STATE_KEY
from flowstream.asgi._direct_write import DIRECT_WRITE_KEY, NotDirect
from flowstream.server import streaming_config

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
EXPECT = (
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello"
)
FIRST = b"what is sent first"
START = {"type": "http.response.start", "status": 200, "headers": []}


def chunk(data):
    """Return `data` as HTTP/1.1 frames it (RFC 9112 § 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def body(data, more=True):
    return {"type": "http.response.body", "body": data, "more_body": more}


class Carried:
    """A stream, as far as the connection is concerned."""

    stall_timeout = None

    def __init__(self):
        self.reasons = []

    def close(self, reason, detail=""):
        self.reasons.append(reason)

    abort = close


sizes = st.one_of(st.integers(1, 60), st.integers(1, 20_000), st.integers(100_000, 300_000))
plans = st.tuples(st.lists(sizes, max_size=8), st.lists(sizes, max_size=12))


class Writer:
    """An app that writes in both ways at once, and notes the order in which it was let to."""

    def __init__(self, plans):
        self.plans = iter(plans)
        self.expected = []
        self.refused = self.carried = 0

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return
        by_send, past_it = next(self.plans)
        connection, marks = scope["state"][STATE_KEY], itertools.cycle(b"abcdefghijkl")
        direct_write = scope["state"][DIRECT_WRITE_KEY]
        self.expected.append(written := [])
        connection.attach(stream := Carried())
        await send(START)

        async def send_one(data):
            written.append(data)
            direct_write.hand_over(data)
            await send(body(data))

        async def send_all():
            for size in by_send:
                await send_one(bytes([next(marks)]) * size)

        async def write_all():
            for size in past_it:
                data = bytes([next(marks)]) * size
                while not direct_write.write(chunk(data)):
                    self.refused += 1
                    await trio.sleep(0.001)
                self.carried += bool(connection._outgoing._rest)
                assert len(connection._outgoing._rest) < len(chunk(data))
                written.append(data)
                await trio.lowlevel.checkpoint()

        await send_one(b"the first is sent")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all)
            nursery.start_soon(write_all)
        connection.detach(stream)
        await send(body(b"", more=False))


async def read_responses(sock, requests, steps, *, pipelined):
    """Return the body of each response, read in steps of these sizes."""
    bodies, steps = [], itertools.cycle(steps)
    parser = h11.Connection(h11.CLIENT)
    if pipelined:
        await sock.send(b"".join(requests))
    for request in requests:
        if not pipelined:
            await sock.send(request)
        # What h11 thinks we send: the bytes above are our own.
        parser.send(h11.Request(method="GET", target="/", headers=[("Host", "localhost")]))
        parser.send(h11.EndOfMessage())
        found = b""
        while not isinstance(event := parser.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                parser.receive_data(await sock.recv(next(steps)))
            elif isinstance(event, h11.Data):
                found += event.data
            else:
                assert isinstance(event, (h11.Response, h11.InformationalResponse))
        bodies.append(found)
        parser.start_next_cycle()
    return bodies


@settings(max_examples=60, deadline=None)
@given(
    plans=st.lists(plans, min_size=1, max_size=3),
    steps=st.lists(st.integers(1, 100_000), min_size=1, max_size=5).filter(
        lambda steps: sum(steps) > 500 * len(steps)
    ),
    expect=st.booleans(),
    pipelined=st.booleans(),
)
def test_both_ways_at_once(plans, steps, expect, pipelined):
    """However the two ways to write interleave, and in whatever steps the client reads, it gets
    each chunk whole, in the order in which they were accepted, and the end last.
    """
    app = Writer(plans)

    async def main():
        async with trio.open_nursery() as nursery:
            config = streaming_config(bind=["127.0.0.1:0"], errorlog=None)

            async def serving(task_status):
                await flowstream.serve(app, config, task_status=task_status)

            (url,) = await nursery.start(serving)
            address = urlsplit(url)
            with trio.socket.socket() as sock, trio.fail_after(20):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                await sock.connect((address.hostname, address.port))
                requests = [EXPECT if expect else GET] * len(plans)
                bodies = await read_responses(sock, requests, steps, pipelined=pipelined)
            nursery.cancel_scope.cancel()
        return bodies

    assert trio.run(main) == [b"".join(written) for written in app.expected]


class Prober:
    """An app that has a test's function look at its connection amid a response."""

    def __init__(self, probe):
        self.probe = probe
        self.connection = None
        self.result = None
        self.done = trio.Event()

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            self.connection = scope["state"][STATE_KEY]
            self.carried = Carried()
            self.connection.attach(self.carried)
            self.direct_write = scope["state"][DIRECT_WRITE_KEY]
            await send(START)
            self.direct_write.hand_over(FIRST)
            await send(body(FIRST))
            self.result = await self.probe(self.connection, receive)
            self.done.set()


async def end_of(app):
    with trio.fail_after(10):
        await app.done.wait()
    return app.result


async def test_no_short_way_through_tls(server, connect, certificate):
    """With TLS there is no way past the encryption."""

    async def probe(connection, receive):
        return app.direct_write.write(chunk(b"plain"))

    app = Prober(probe)
    stream = await connect(await server(app, **certificate))
    await stream.send_all(GET)
    assert await end_of(app) is False
    assert app.direct_write.why_not is NotDirect.ENCRYPTED


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_nothing_after_the_end(server, connect, how):
    """Once the client is gone, or was given up, there is nothing to write to."""

    async def probe(connection, receive):
        if how == "abort":
            connection.abort("stalled")
        else:
            while (await receive())["type"] != "http.disconnect":
                pass
        return app.direct_write.write(chunk(b"hello"))

    app = Prober(probe)
    stream = await connect(await server(app))
    await stream.send_all(GET)
    await stream.receive_some()
    await stream.aclose()
    assert await end_of(app) is False


async def test_what_is_carried_is_under_the_deadline(server, connect, aeventually):
    """What the kernel does not take is no more than what one call was given, further calls are
    refused, and a client that never takes it is reset, with its stream told.
    """
    data = chunk(b"x" * 5_000_000)

    async def probe(connection, receive):
        assert app.direct_write.write(data)
        assert 0 < len(connection._outgoing._rest) < len(data)
        assert not app.direct_write.write(data)
        while (await receive())["type"] != "http.disconnect":
            pass

    app = Prober(probe)
    stream = await connect(await server(app, write_timeout=0.3), receive_buffer=4096)
    await stream.send_all(GET)
    await end_of(app)
    assert app.carried.reasons == ["stalled"]
    await aeventually(lambda: not app.connection._connections, "no connection is left")


async def answer_cancelled(scope, receive, send):
    """Send each of three parts under a scope that is cancelled already."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for part in (b"one ", b"two ", b"three"):
        with trio.move_on_after(0):
            await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def test_a_cancelled_send_has_sent(server, connect, plain_hypercorn):
    """What a protocol counts as sent is written though its sender is cancelled; Hypercorn
    leaves it out, in the middle of a response that looks whole.
    """
    bodies = []
    for start in (server, plain_hypercorn):
        client = await connect(await start(answer_cancelled))
        await client.send_all(GET)
        data = b""
        while not data.endswith(b"0\r\n\r\n"):
            data += await client.receive_some()
        bodies.append(data.partition(b"\r\n\r\n")[2])
    assert bodies[0] == b"4\r\none \r\n4\r\ntwo \r\n5\r\nthree\r\n0\r\n\r\n"
    assert bodies[1] == b"0\r\n\r\n"
