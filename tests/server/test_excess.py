"""Frames and heads that no client has a use for are refused before they cost anything."""

import hpack
import pytest
from _reading import read_to_end
from fuzzing.http2 import CONTINUATION, DATA, HEADERS, PING, SETTINGS, frame
from h2.errors import ErrorCodes

from flowstream.server._frame_pieces import ExcessError, FramePieces
from flowstream.server._request_rules import judge_http2
from flowstream.server.http2._stream_faults import _Decoder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PONG = frame(PING, 0, 0, b"12345678")
SETTING = b"\0\4\0\0\xff\xff"
BLOCK = frame(HEADERS, 0, 1, b"\x82") + frame(CONTINUATION, 0, 1, b"\x86") * 8

ALLOWED = {
    "settings": frame(SETTINGS, 0, 0, SETTING * 32),
    "continuations": BLOCK,
    "length": frame(DATA, 0, 1, bytes(16384)),
}
EXCESS = {
    "settings": (b"", frame(SETTINGS, 0, 0, SETTING * 33), ErrorCodes.ENHANCE_YOUR_CALM),
    "continuations": (BLOCK, frame(CONTINUATION, 4, 1), ErrorCodes.ENHANCE_YOUR_CALM),
    "length": (b"", b"\0\x40\1\0\0\0\0\0\1", ErrorCodes.FRAME_SIZE_ERROR),
    "16 MiB": (b"", b"\xff\xff\xff\x77\0\0\0\0\0", ErrorCodes.FRAME_SIZE_ERROR),
}


async def hello(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


@pytest.mark.parametrize("kind", ALLOWED)
def test_as_much_as_is_allowed(kind):
    """What is just within its bound is passed on, whole."""
    data = PREFACE + ALLOWED[kind] * 3
    assert b"".join(FramePieces(16384).cut(data)) == data


@pytest.mark.parametrize("kind", EXCESS)
def test_one_more(kind):
    """The head of the frame that is too much is the end; what came before it is passed on."""
    before, excess, code = EXCESS[kind]
    before = PREFACE + PONG + before
    pieces = FramePieces(16384).cut(before + excess[:9])
    assert next(pieces) == before
    with pytest.raises(ExcessError) as caught:
        next(pieces)
    assert caught.value.code is code


@pytest.mark.parametrize("kind", EXCESS)
async def test_the_connection_ends(server, http2, clean_log, kind):
    """The client is told why, at the frame's head: nobody waits for the rest of it."""
    before, excess, code = EXCESS[kind]
    url = await server(hello)
    other, peer = await http2(url), await http2(url)
    await peer.fence()
    await peer.flush(before + excess[:9])
    await peer.until_closed()
    assert peer.goaway.error_code == code
    assert await other.finished(await other.get()) == b"hello"


def fields(count):
    return b"".join(b"x-%d: y\r\n" % number for number in range(count))


@pytest.mark.parametrize("begin", ["GET", "POST"])
@pytest.mark.parametrize("most", [256, 100])
async def test_fields_over_http1(server, connect, begin, most):
    """A request may have so many fields; one more is a 431, and the end of the connection."""
    url = await server(hello, max_request_fields=most)
    for count, status in ((most, b"200"), (most + 1, b"431")):
        stream = await connect(url)
        head = f"{begin} / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n".encode()
        await stream.send_all(head + fields(count - 2) + b"\r\n")
        assert (await read_to_end(stream)).startswith(b"HTTP/1.1 " + status)


async def test_fields_over_http2(server, http2):
    """The same with its pseudo-headers; the connection goes on."""
    peer = await http2(await server(hello))
    for count, status in ((256, 200), (257, 431), (500, 431)):
        number = await peer.get("/", *[(f"x-{one}", "y") for one in range(count - 4)])
        await peer.until(lambda: number in peer.ended)  # noqa: B023
        assert int(peer.statuses[number]) == status
    assert await peer.finished(await peer.get()) == b"hello"


def test_what_is_too_much_is_not_looked_at():
    """Of fields that name the table by a byte each, h2 gets one more than there may be."""
    encoder, decoder = hpack.Encoder(), _Decoder()
    decoder.most_fields = 256
    decoder.max_header_list_size = 1 << 20
    decoded = decoder.decode(encoder.encode([("a", "b")] * 5000), raw=True)
    assert len(decoded) == 257
    assert judge_http2(decoded, ended=True, most=256) == 431
    assert decoder.decode(encoder.encode([("c", "d")]), raw=True) == [(b"c", b"d")]
