"""Every state of a connection in which its client can keep a server waiting has a deadline."""

import struct

import pytest
import trio

IDLE = 5  # keep_alive_timeout


def h2_frame(kind, flags, stream, payload=b""):
    return (
        struct.pack("!I", len(payload))[1:]
        + bytes([kind, flags])
        + struct.pack("!I", stream)
        + payload
    )


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = h2_frame(4, 0, 0)
GET = b"\x82\x84\x86\x41\x01x"  # :method GET, :path /, :scheme http, :authority x
POST = b"\x83\x84\x86\x41\x01x"
BEGUN = PREFACE + SETTINGS
ASKED = BEGUN + h2_frame(1, 5, 1, GET)  # END_STREAM and END_HEADERS
PLAIN = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

STATES = {
    "nothing": b"",
    "half a request line": b"GET /",
    "half a head": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ",
    "an empty line": b"\r\n",
    "between two requests": PLAIN,
    "between two requests that are not plain": b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "half a second head": PLAIN + b"GET / HTTP/1.1\r\n",
    "half of HTTP/2's preface": PREFACE[:10],
    "HTTP/2's preface": PREFACE,
    "the preface and settings": BEGUN,
    "half a frame": BEGUN + h2_frame(6, 0, 0, b"12345678")[:12],
    "headers without end": BEGUN + h2_frame(1, 1, 1, GET),
    "headers and a continuation without end": BEGUN
    + h2_frame(1, 1, 1, GET)
    + h2_frame(9, 0, 1, b""),
    "a ping": BEGUN + h2_frame(6, 0, 0, b"12345678"),
    "after an answer over HTTP/2": ASKED,
    "headers without end, after an answer": ASKED + h2_frame(1, 1, 3, GET),
    "a window, after an answer": ASKED + h2_frame(8, 0, 0, b"\0\0\0\1"),
    "a reset of what was asked": BEGUN + h2_frame(1, 4, 1, POST) + h2_frame(3, 0, 1, b"\0\0\0\0"),
}
# What a client goes on to send, at an interval shorter than any bound.
DRIPS = {
    "a head, byte by byte": (b"GET / HTTP/1.1\r\nX: ", b"x"),
    "empty lines": (b"", b"\r\n"),
    "pings": (BEGUN, h2_frame(6, 0, 0, b"12345678")),
    "settings": (BEGUN, SETTINGS),
    "continuations": (BEGUN + h2_frame(1, 1, 1, GET), h2_frame(9, 0, 1, b"")),
    "unknown frames": (BEGUN, h2_frame(99, 0, 0, b"x")),
    "a frame, byte by byte": (BEGUN + b"\0\x3f\xff\x63\0\0\0\0\0", b"x"),
}


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def closed(stream):
    """Wait until the server closes; return how long that took."""
    start = trio.current_time()
    try:
        while await stream.receive_some():
            pass
    except trio.BrokenResourceError:
        pass
    return trio.current_time() - start


@pytest.mark.parametrize("name", STATES)
async def test_a_client_that_stops(server, connect, autojump_clock, name):
    """Wherever it stops, its connection is closed after `keep_alive_timeout`."""
    stream = await connect(await server(app, keep_alive_timeout=IDLE))
    await stream.send_all(STATES[name])
    with trio.move_on_after(100) as scope:
        took = await closed(stream)
    assert not scope.cancelled_caught, "it is kept"
    assert took <= IDLE + 1


@pytest.mark.parametrize("name", [name for name in STATES if "HTTP/2" in name or "headers" in name])
async def test_a_client_that_stops_over_tls(server, connect, certificate, autojump_clock, name):
    """With HTTP/2 by ALPN it is the same."""
    url = await server(app, keep_alive_timeout=IDLE, **certificate)
    stream = await connect(url, alpn="h2")
    await stream.send_all(STATES[name])
    with trio.move_on_after(100) as scope:
        took = await closed(stream)
    assert not scope.cancelled_caught, "it is kept"
    assert took <= IDLE + 2


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01"])
async def test_a_tls_handshake_that_stops(server, connect, certificate, autojump_clock, sent):
    """It is given up after `ssl_handshake_timeout`, half a record or not."""
    url = await server(app, ssl_handshake_timeout=IDLE, **certificate)
    stream = await connect(url.replace("https", "http"))
    await stream.send_all(sent)
    assert await closed(stream) <= IDLE + 1


@pytest.mark.parametrize("name", DRIPS)
async def test_a_client_that_drips(server, connect, autojump_clock, name):
    """Sending a little now and then, but no request, gains it nothing."""
    first, drop = DRIPS[name]
    stream = await connect(await server(app, keep_alive_timeout=IDLE))
    await stream.send_all(first)
    with trio.move_on_after(100) as scope:
        async with trio.open_nursery() as nursery:

            async def drip():
                try:
                    while True:
                        await trio.sleep(1)
                        await stream.send_all(drop)
                except trio.BrokenResourceError:
                    pass

            nursery.start_soon(drip)
            took = await closed(stream)
            nursery.cancel_scope.cancel()
    assert not scope.cancelled_caught, "it is kept"
    assert took <= IDLE + 2
