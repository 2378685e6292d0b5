"""Attacks over HTTP/1.1, and before it: TCP and TLS."""

from __future__ import annotations

from itertools import count

import trio
from _attackers import Aim, attack

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
END = b"hello, world\n"


@attack(200)
async def slow_head(aim: Aim) -> None:
    """A head, one byte every half second."""
    wire = await aim.connect()
    for byte in GET:
        await wire.send(bytes([byte]))
        await trio.sleep(0.5)


@attack(200)
async def slow_body(aim: Aim) -> None:
    """A body, one byte every half second."""
    wire = await aim.connect()
    await wire.send(b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n")
    while True:
        await wire.send(b"x")
        await trio.sleep(0.5)


@attack(50)
async def tiny_chunks(aim: Aim) -> None:
    """A body in chunks of one byte, as fast as they go."""
    wire = await aim.connect()
    await wire.send(b"POST /read HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
    await wire.flood(b"1\r\nx\r\n" * 2000)


@attack(20)
async def stalled_reader(aim: Aim) -> None:
    """An endless response that is never read."""
    wire = await aim.connect()
    await wire.send(b"GET /flood HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await trio.sleep_forever()


@attack(50)
async def endless_head(aim: Aim) -> None:
    """Headers without end."""
    wire = await aim.connect()
    await wire.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
    await wire.flood(b"".join(b"x-%d: y\r\n" % number for number in range(1000)))


@attack(50)
async def many_headers(aim: Aim) -> None:
    """Requests with 900 headers each."""
    head = b"".join(b"x-%d: y\r\n" % number for number in range(900))
    wire = await aim.connect()
    for _ in range(100):
        await wire.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n")
        await wire.until(b"\r\n\r\n")


@attack(50)
async def two_lengths(aim: Aim) -> None:
    """Content-Length with Transfer-Encoding, and a request behind it."""
    wire = await aim.connect()
    await wire.send(
        b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + GET
    )
    await wire.hold()


@attack(20)
async def pipelined(aim: Aim) -> None:
    """Requests without waiting for the answers."""
    wire = await aim.connect()
    await wire.flood(GET * 100)


@attack(20)
async def pipelined_unread(aim: Aim) -> None:
    """Requests without waiting for the answers, which are never read."""
    wire = await aim.connect()
    await wire.flood(GET * 100, reads=False)


@attack(50)
async def churn(aim: Aim) -> None:
    """A connection for each request."""
    wire = await aim.connect()
    await wire.send(GET)
    await wire.until(END)


@attack(50)
async def leaving(aim: Aim) -> None:
    """Streams that are asked for and left at once."""
    wire = await aim.connect()
    await wire.send(b"GET /flood HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await wire.receive()


@attack(50)
async def garbage(aim: Aim) -> None:
    """Bytes that are no protocol."""
    wire = await aim.connect()
    await wire.flood(bytes(range(256)) * 64)


@attack(500)
async def idle(aim: Aim) -> None:
    """Connections that say nothing."""
    wire = await aim.connect()
    await wire.hold()


@attack(200)
async def stalled_tls(aim: Aim) -> None:
    """A TLS handshake that stops in the middle."""
    wire = await aim.connect(aim.https)
    # A record of 512 bytes that holds a ClientHello, of which 5 come.
    await wire.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03")
    await wire.hold()


@attack(10)
async def tls_churn(aim: Aim) -> None:
    """TLS handshakes, one after the other."""
    await aim.connect_tls()


_names = count()


@attack(50)
async def distinct_requests(aim: Aim) -> None:
    """Requests of which no two are alike: paths, queries, hosts."""
    wire = await aim.connect()
    for _ in range(500):
        n = next(_names)
        await wire.send(b"GET /?%d HTTP/1.1\r\nHost: h%d\r\nx-%d: 1\r\n\r\n" % (n, n, n))
        await wire.until(END)
