"""One table of what WebSocket clients send, and one verdict over HTTP/1.1 and HTTP/2 (RFC 8441).

Conformance suites speak HTTP/1.1 alone. This is what they ask, asked over both, of the same
application. A verdict is all that either end is told: what the application received, the code that
it was told, and the frames that the client got back.
"""

import struct
import zlib
from dataclasses import dataclass, field
from functools import partial

import pytest
import trio
from _http2_client import Peer
from _reading import read_to_end
from h2.errors import ErrorCodes
from wsproto.connection import Connection

from flowstream.server.websocket._websocket import CLOSE_TIMEOUT

MOST = 1000
KEY = b"AAAAAAAAAAAAAAAAAAAAAA=="
MORE, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
DEFLATE = (b"sec-websocket-extensions", b"permessage-deflate")


def frame(opcode, payload=b"", *, fin=True, rsv=0, masked=True, size=None):
    """Return a client's frame; `size` is in how many bytes its length is told."""
    length = len(payload)
    if size is None:
        size = 0 if length < 126 else 2 if length < 1 << 16 else 8
    short = length if size == 0 else {2: 126, 8: 127}[size]
    told = length.to_bytes(size, "big") if size else b""
    head = bytes([fin << 7 | rsv << 4 | opcode, masked << 7 | short]) + told
    if not masked:
        return head + payload
    mask = b"\x37\xfa\x21\x3d"
    return head + mask + bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))


def closing(code, reason=b""):
    return frame(CLOSE, struct.pack("!H", code) + reason)


def deflated(data, before=b""):
    """Return it deflated, as if `before` had come before it."""
    made = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=before)
    return (made.compress(data) + made.flush(zlib.Z_SYNC_FLUSH))[:-4]


BYE = closing(1000)
ANSWER = struct.pack("!H", 1000)


class App:
    """Accepts, closes if told with which code, and notes what it receives until the disconnect."""

    def __init__(self, closes):
        self.closes, self.subprotocols = closes, None
        self.received, self.code, self.ended = [], None, trio.Event()

    async def __call__(self, scope, receive, send):
        self.subprotocols = scope["subprotocols"]
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        if self.closes is not None:
            await send({"type": "websocket.close", "code": self.closes})
        while (message := await receive())["type"] == "websocket.receive":
            self.received.append(message["text"] if message["bytes"] is None else message["bytes"])
        self.code = message["code"]
        self.ended.set()


class Apps:
    """An application of its own for each WebSocket."""

    def __init__(self, *, closes=None):
        self.closes, self.asked = closes, []

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})
        elif scope["type"] == "websocket":
            self.asked.append(App(self.closes))
            await self.asked[-1](scope, receive, send)
        else:
            raise NotImplementedError


def with_default(headers, name, value):
    return [*headers, *([] if name in dict(headers) else [(name, value)])]


class OverHTTP1:
    """A client whose WebSockets have a connection each."""

    def __init__(self, connect):
        self._connect, self._stream, self._data = connect, None, b""

    async def open(self, *headers, changes=()):
        """Ask for another one; return the status, 200 for 101, and the headers of the answer."""
        fields = {
            b"host": b"localhost",
            b"upgrade": b"websocket",
            b"connection": b"Upgrade",
            b"sec-websocket-key": KEY,
        } | dict(changes)
        fields = with_default([*fields.items(), *headers], b"sec-websocket-version", b"13")
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in fields)
        self._stream, self._data = await self._connect(), b""
        await self._stream.send_all(b"GET / HTTP/1.1\r\n" + lines + b"\r\n")
        while b"\r\n\r\n" not in self._data:
            self._data += await self._stream.receive_some()
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        status, *lines = head.decode().lower().split("\r\n")
        code = int(status.split()[1])
        return (200 if code == 101 else code), dict(line.split(": ", 1) for line in lines)

    async def send(self, data):
        await self._stream.send_all(data)

    async def send_eof(self):
        await self._stream.send_eof()

    async def reset(self):
        linger = struct.pack("ii", 1, 0)
        self._stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, linger)
        await self._stream.aclose()

    async def read_to_end(self):
        """Return all that the server has sent, when it has ended."""
        return self._data + await read_to_end(self._stream)


class OverHTTP2:
    """A client whose WebSockets are streams of one connection."""

    def __init__(self, connect):
        self._connect, self._peer, self._number = connect, None, 0

    async def open(self, *headers):
        """Ask for another one; return the status and the headers of the answer."""
        if self._peer is None:
            self._peer = Peer(await self._connect())
        fields = [(name.decode(), value.decode("latin-1")) for name, value in headers]
        self._number = await self._peer.get(
            "/",
            *with_default(fields, "sec-websocket-version", "13"),
            method="CONNECT",
            ended=False,
            protocol="websocket",
        )
        await self._peer.until(lambda: self._number in self._peer.statuses)
        return self._peer.statuses[self._number], self._peer.headers[self._number]

    async def send(self, data):
        assert len(data) <= self._peer.h2.local_flow_control_window(self._number)
        for start in range(0, len(data), 1 << 14):
            self._peer.h2.send_data(self._number, data[start : start + (1 << 14)])
        await self._peer.flush()

    async def send_eof(self):
        self._peer.h2.end_stream(self._number)
        await self._peer.flush()

    async def reset(self):
        self._peer.h2.reset_stream(self._number, ErrorCodes.CANCEL)
        await self._peer.flush()

    async def read_to_end(self):
        """Return all that the server has sent, when it has ended, and not by an error."""
        body = await self._peer.finished(self._number)
        assert self._peer.resets.get(self._number, ErrorCodes.NO_ERROR) is ErrorCodes.NO_ERROR
        return body


CARRIERS = {"HTTP/1.1": OverHTTP1, "HTTP/2": OverHTTP2}


@pytest.fixture(params=CARRIERS)
async def client(request, connect):
    """A client over each carrier: ``ask = client(url)``."""

    def make(url):
        return CARRIERS[request.param](partial(connect, url))

    make.carrier = request.param
    return make


def frames_of(data):
    """Return the frames that a server has sent, as opcode, RSV bits and payload."""
    found = []
    while data:
        short, start = data[1], 2
        assert short < 128, "a server's frame is not masked"
        if short >= 126:
            start = 4 if short == 126 else 10
            short = int.from_bytes(data[2:start], "big")
        found.append((data[0] & 15, data[0] >> 4 & 7, data[start : start + short]))
        data = data[start + short :]
    return found


@dataclass
class Case:
    """What a client sends, and what both ends are to be told.

    Attributes:
        sent: frames.
        received: what the application gets.
        code: of the server's close frame; None if there is none.
        app_code: of the application's disconnect, if it is another.
        pongs: the payloads that come back.
        reason: what the server's close frame has behind the code.
    """

    sent: bytes
    code: int | None
    received: list = field(default_factory=list)
    app_code: int | None = None
    pongs: list = field(default_factory=list)
    reason: bytes = b""
    compressed: bool = False


def bad(sent, code=1002, received=(), **more):
    """Return a case in which the frame behind the good ones fails the connection.

    What comes behind it is not looked at.
    """
    return Case(sent + frame(TEXT, b"more") + BYE, code, list(received), **more)


def good(sent, received=(), **more):
    """Return a case that the client ends with a close."""
    return Case(sent + BYE, 1000, list(received), **more)


SNOWMAN = "☃".encode()
EVERY = "κόσμε\U0010ffff\0"

CASES = {
    # fragments
    "fragments": good(
        frame(TEXT, b"a", fin=False) + frame(MORE, b"b", fin=False) + frame(MORE, b"c"), ["abc"]
    ),
    "fragments with control frames between": good(
        frame(BINARY, b"a", fin=False) + frame(PING, b"1") + frame(PONG) + frame(MORE, b"b"),
        [b"ab"],
        pongs=[b"1"],
    ),
    "empty fragments": good(
        frame(TEXT, fin=False) + frame(MORE, fin=False) * 9 + frame(MORE), [""]
    ),
    "a continuation of nothing": bad(frame(MORE, b"x")),
    "a continuation that goes on, of nothing": bad(frame(MORE, b"x", fin=False)),
    "a continuation of what is complete": bad(frame(TEXT, b"x") + frame(MORE, b"y"), 1002, ["x"]),
    "a message amid a message": bad(frame(TEXT, b"x", fin=False) + frame(TEXT, b"y")),
    "another kind amid a message": bad(frame(TEXT, b"x", fin=False) + frame(BINARY, b"y")),
    "a close amid a message": good(frame(TEXT, b"x", fin=False)),
    # control frames
    "a ping": good(frame(PING) + frame(PING, b"x" * 125), pongs=[b"", b"x" * 125]),
    "a ping that is no text": good(frame(PING, b"\xff\x00"), pongs=[b"\xff\x00"]),
    "a ping that is too long": bad(frame(PING, b"x" * 126)),
    "a pong that is too long": bad(frame(PONG, b"x" * 126)),
    "a close that is too long": bad(closing(1000, b"x" * 124)),
    "a ping in pieces": bad(frame(PING, b"x", fin=False) + frame(MORE, b"x")),
    "a pong in pieces": bad(frame(PONG, b"x", fin=False)),
    "a close in pieces": bad(frame(CLOSE, ANSWER, fin=False)),
    "a pong that nobody asked for": good(frame(PONG, b"x") * 10),
    "a ping whose length takes more bytes than it needs": bad(frame(PING, b"x", size=2)),
    # frames
    **{f"RSV{bit}": bad(frame(TEXT, b"x", rsv=8 >> bit)) for bit in (1, 2, 3)},
    "RSV1 on a ping": bad(frame(PING, rsv=4)),
    "RSV1 on a close": bad(frame(CLOSE, ANSWER, rsv=4)),
    "RSV behind a good message": bad(frame(TEXT, b"x") + frame(TEXT, b"y", rsv=7), 1002, ["x"]),
    **{f"the opcode {n}": bad(frame(n)) for n in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "an opcode that nobody knows, amid a message": bad(frame(TEXT, b"x", fin=False) + frame(5)),
    "a frame that is not masked": bad(frame(TEXT, b"x", masked=False)),
    "a ping that is not masked": bad(frame(PING, masked=False)),
    "a close that is not masked": bad(frame(CLOSE, ANSWER, masked=False)),
    "a length in 2 bytes that fits in none": bad(frame(BINARY, b"x", size=2)),
    "a length in 8 bytes that fits in 2": bad(frame(BINARY, b"x" * 200, size=8)),
    "a length beyond 63 bits": bad(b"\x82\xff" + b"\xff" * 8 + bytes(4)),
    # the bound
    "as much as there may be": good(
        frame(TEXT, b"x" * MOST) + frame(BINARY, b"x" * MOST), ["x" * MOST, b"x" * MOST]
    ),
    "one byte more": bad(frame(BINARY, b"x" * (MOST + 1)), 1009),
    "one byte more, behind as much as there may be": bad(
        frame(TEXT, b"x" * MOST) + frame(TEXT, b"x" * (MOST + 1)), 1009, ["x" * MOST]
    ),
    "one byte more, in another fragment": bad(
        frame(BINARY, b"x" * MOST, fin=False) + frame(PING) + frame(MORE, b"x"), 1009, pongs=[b""]
    ),
    "bytes count, not characters": bad(frame(TEXT, SNOWMAN * (MOST // 3 + 1)), 1009),
    "2^62 bytes": bad(b"\x81\xff" + (1 << 62).to_bytes(8, "big") + bytes(4), 1009),
    # text
    "every kind of character": good(frame(TEXT, EVERY.encode()), [EVERY]),
    "a character over two fragments": good(
        frame(TEXT, SNOWMAN[:1], fin=False) + frame(MORE, SNOWMAN[1:]), ["☃"]
    ),
    "bytes that are no UTF-8": bad(frame(TEXT, b"ab\xff"), 1007),
    "half a character at the end": bad(frame(TEXT, SNOWMAN[:2]), 1007),
    "half a character at the end of the last fragment": bad(
        frame(TEXT, b"ab", fin=False) + frame(MORE, SNOWMAN[:1]), 1007
    ),
    "half a character before an empty end": bad(
        frame(TEXT, SNOWMAN[:2], fin=False) + frame(MORE), 1007
    ),
    "no UTF-8 over two fragments": bad(
        frame(TEXT, SNOWMAN[:1], fin=False) + frame(MORE, b"x"), 1007
    ),
    "no UTF-8 in a message without its end": bad(frame(TEXT, b"\xf4\x90", fin=False), 1007),
    "a surrogate": bad(frame(TEXT, b"\xed\xa0\x80"), 1007),
    "an overlong slash": bad(frame(TEXT, b"\xc0\xaf"), 1007),
    "a code point beyond the last": bad(frame(TEXT, b"\xf4\x90\x80\x80"), 1007),
    "no UTF-8 in bytes": good(frame(BINARY, b"\xff\xfe"), [b"\xff\xfe"]),
    # the close
    "an empty close": Case(frame(CLOSE), None, app_code=1005),
    "a close of one byte": bad(frame(CLOSE, b"\x03")),
    **{
        f"a close with {code}": Case(closing(code), code)
        for code in (1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 4999)
    },
    **{  # 1014 was registered when wsproto had its list
        f"a close with {code}, which is none": bad(closing(code))
        for code in (0, 1, 999, 1004, 1005, 1006, 1014, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    },
    "a close with a reason": Case(closing(1001, SNOWMAN), 1001, reason=SNOWMAN),
    "a close with as long a reason as there may be": Case(
        closing(1000, b"x" * 123), 1000, reason=b"x" * 123
    ),
    "a close with a reason that is no UTF-8": bad(closing(1000, b"\xff"), 1007),
    "a close with half a character at its end": bad(closing(1000, SNOWMAN[:2]), 1007),
    "two closes": Case(BYE + closing(1001), 1000),
    "a message after the close": Case(BYE + frame(TEXT, b"x"), 1000),
    "a ping after the close": Case(BYE + frame(PING), 1000),
    "nonsense after the close": Case(BYE + b"\xff" * 99, 1000),
    "messages, and the close": good(frame(TEXT, b"a") + frame(BINARY, b"b"), ["a", b"b"]),
    # compression
    "compressed": good(frame(TEXT, deflated(b"hello"), rsv=4), ["hello"], compressed=True),
    "uncompressed where it is agreed on": good(frame(TEXT, b"hi"), ["hi"], compressed=True),
    "compressed in fragments": good(
        frame(TEXT, deflated(b"hello")[:3], rsv=4, fin=False)
        + frame(PING)
        + frame(MORE, deflated(b"hello")[3:]),
        ["hello"],
        pongs=[b""],
        compressed=True,
    ),
    "nothing, compressed": good(frame(TEXT, b"\0", rsv=4), [""], compressed=True),
    "nothing at all, said to be compressed": good(frame(BINARY, rsv=4), [b""], compressed=True),
    "nothing at all, in fragments": good(
        frame(BINARY, rsv=4, fin=False) + frame(MORE), [b""], compressed=True
    ),
    "a ping that is compressed": bad(frame(PING, deflated(b"x"), rsv=4), compressed=True),
    "a close that is compressed": bad(frame(CLOSE, deflated(ANSWER), rsv=4), compressed=True),
    "RSV1 on a continuation": bad(
        frame(TEXT, deflated(b"x"), rsv=4, fin=False) + frame(MORE, rsv=4), compressed=True
    ),
    "RSV2 on what is compressed": bad(frame(TEXT, deflated(b"x"), rsv=6), compressed=True),
    "what is no deflate": bad(frame(TEXT, b"\xff" * 9, rsv=4), 1007, compressed=True),
    "a block that is cut short": bad(
        frame(BINARY, deflated(b"hello" * 9)[:-3], rsv=4), 1007, compressed=True
    ),
    "a reference to what never was": bad(
        frame(BINARY, deflated(b"hello, hello", b"hello, hello"), rsv=4), 1007, compressed=True
    ),
    "no UTF-8, compressed": bad(frame(TEXT, deflated(b"\xff"), rsv=4), 1007, compressed=True),
    "as much as there may be, compressed": good(
        frame(BINARY, deflated(bytes(MOST)), rsv=4), [bytes(MOST)], compressed=True
    ),
    "one byte more, compressed": bad(
        frame(BINARY, deflated(bytes(MOST + 1)), rsv=4), 1009, compressed=True
    ),
}


@pytest.mark.parametrize("compressed", [False, True], ids=["as it is", "compressed"])
async def test_the_verdicts(server, client, clean_log, compressed):
    """They are those of the table, over each carrier, and the next WebSocket is not affected."""
    apps, found, expected = Apps(), {}, {}
    ask = client(await server(apps, websocket_max_message_size=MOST))
    with trio.fail_after(60):
        for name, case in CASES.items():
            if case.compressed is not compressed:
                continue
            status, answered = await ask.open(*([DEFLATE] if compressed else []))
            assert (status, "sec-websocket-extensions" in answered) == (200, compressed)
            await ask.send(case.sent)
            frames = frames_of(await ask.read_to_end())
            app = apps.asked[-1]
            await app.ended.wait()
            found[name] = (frames, app.received, app.code)
            told = b"" if case.code is None else struct.pack("!H", case.code) + case.reason
            answers = [*((PONG, 0, payload) for payload in case.pongs), (CLOSE, 0, told)]
            expected[name] = (answers, case.received, case.app_code or case.code)
    assert found == expected


BEFORE = {
    "open": b"",
    "amid a head": frame(TEXT, b"x" * 200)[:3],
    "amid a frame": frame(TEXT, b"hello")[:-1],
    "amid a message": frame(TEXT, b"hello", fin=False),
    "after a close": closing(4000),
}


@pytest.mark.parametrize("end", ["send_eof", "reset"])
async def test_a_client_that_leaves(server, client, clean_log, end):
    """In whichever state, its app hears of it; if only its half is closed, the other is, too."""
    apps, codes = Apps(), {}
    url = await server(apps)
    with trio.fail_after(30):
        for name, before in BEFORE.items():
            ask = client(url)
            await ask.open()
            await ask.send(before)
            await getattr(ask, end)()
            if end == "send_eof":
                await ask.read_to_end()
            await apps.asked[-1].ended.wait()
            codes[name] = apps.asked[-1].code
    # A reset may overtake what came before it.
    assert codes.pop("after a close") in ((4000,) if end == "send_eof" else (4000, 1006))
    assert set(codes.values()) == {1006}


ANSWERS = {
    "with the same code": (closing(4000), 4000),
    "with another code": (closing(1000), 1000),
    "with none": (frame(CLOSE), 1005),
    "after a message": (frame(TEXT, b"x") + closing(4000), 4000),
    "with a ping first, which is not answered": (frame(PING) + closing(4000), 4000),
    "with nonsense": (b"\xff" * 30, 1006),
    "with a code that is none": (closing(1004), 1006),
}


async def test_the_answer_to_a_close(server, client, clean_log):
    """When the application has closed, it hears with which code the client answers."""
    apps, found = Apps(closes=4000), {}
    ask = client(await server(apps))
    with trio.fail_after(30):
        for name, (answer, _) in ANSWERS.items():
            await ask.open()
            await ask.send(answer)
            assert frames_of(await ask.read_to_end()) == [(CLOSE, 0, struct.pack("!H", 4000))]
            await apps.asked[-1].ended.wait()
            found[name] = apps.asked[-1].code
    assert found == {name: code for name, (_, code) in ANSWERS.items()}


@pytest.mark.parametrize("end", ["send_eof", "reset"])
async def test_leaving_instead_of_an_answer(server, client, clean_log, end):
    """The application hears of that."""
    apps = Apps(closes=4000)
    ask = client(await server(apps))
    with trio.fail_after(10):
        await ask.open()
        await getattr(ask, end)()
        await apps.asked[-1].ended.wait()
    assert apps.asked[-1].code == 1006


@pytest.mark.parametrize("drips", [b"", frame(TEXT, b"x"), frame(PING)], ids=["", "text", "pings"])
async def test_a_close_that_is_never_answered(server, client, clean_log, autojump_clock, drips):
    """It has a deadline, whatever the client goes on to send."""
    apps = Apps(closes=4000)
    ask = client(await server(apps))
    await ask.open()
    (app,) = apps.asked
    start = trio.current_time()
    with trio.fail_after(100):
        while not app.ended.is_set():
            with trio.move_on_after(0.7):
                await app.ended.wait()
            if drips and not app.ended.is_set():
                await ask.send(drips)
    assert CLOSE_TIMEOUT - 1 <= trio.current_time() - start <= CLOSE_TIMEOUT + 1
    assert app.code == 1006
    assert frames_of(await ask.read_to_end()) == [(CLOSE, 0, struct.pack("!H", 4000))]


def lines(name, *values):
    return [(name, value) for value in values]


VERSION, PROTOCOL = b"sec-websocket-version", b"sec-websocket-protocol"
EXTENSIONS = b"sec-websocket-extensions"
HANDSHAKES = {
    # what is asked: the status, the subprotocols that the application sees, and the extensions
    "nothing": ([], 200, [], None),
    "another version": (lines(VERSION, b"8"), 400, None, None),
    "several versions": (lines(VERSION, b"13, 8"), 400, None, None),
    "no version": (lines(VERSION, b""), 400, None, None),
    "a version with a zero": (lines(VERSION, b"013"), 400, None, None),
    "the version twice": (lines(VERSION, b"13", b"13"), 400, None, None),
    "protocols": (lines(PROTOCOL, b"a,b , c"), 200, ["a", "b", "c"], None),
    "protocols in two lines": (lines(PROTOCOL, b"a", b"b, c"), 200, ["a", "b", "c"], None),
    "a protocol twice": (lines(PROTOCOL, b"a, a"), 200, ["a", "a"], None),
    "a protocol that is none": (lines(PROTOCOL, b"a, b c"), 400, None, None),
    "a protocol that is none in another line": (lines(PROTOCOL, b"a", b"b@c"), 400, None, None),
    "an empty protocol": (lines(PROTOCOL, b""), 400, None, None),
    "an unknown extension": (lines(EXTENSIONS, b"x; y=1"), 200, [], None),
    "compression in the first of two lines": (
        lines(EXTENSIONS, b"permessage-deflate", b"x"),
        200,
        [],
        "permessage-deflate",
    ),
    "the first offer is nonsense": (
        lines(EXTENSIONS, b"permessage-deflate; x, permessage-deflate"),
        200,
        [],
        "permessage-deflate",
    ),
    "compression twice": (
        lines(EXTENSIONS, b"permessage-deflate, permessage-deflate; server_max_window_bits=9"),
        200,
        [],
        "permessage-deflate",
    ),
    "an extension that begins as compression does": (
        lines(EXTENSIONS, b"permessage-deflatex"),
        200,
        [],
        None,
    ),
    "no extension": (lines(EXTENSIONS, b""), 200, [], None),
    "beyond ASCII": (lines(EXTENSIONS, b"x=\xb2"), 400, None, None),
    "an origin": (lines(b"origin", b"null"), 200, [], None),
    "an origin beyond ASCII": (lines(b"origin", b"\xff"), 200, [], None),
    "no body": (lines(b"content-length", b"0"), 200, [], None),
    "a body": (lines(b"content-length", b"5"), 400, None, None),
}


async def test_handshakes(server, client, clean_log):
    """Both carriers answer alike; who is refused is told which version there is, and no app."""
    apps, found = Apps(), {}
    url = await server(apps)
    with trio.fail_after(30):
        for name, (headers, _, _, _) in HANDSHAKES.items():
            before, ask = len(apps.asked), client(url)
            status, answered = await ask.open(*headers)
            assert answered.get("sec-websocket-version") == ("13" if status == 400 else None)
            asked = apps.asked[before:]
            subprotocols = asked[0].subprotocols if asked else None
            found[name] = (status, subprotocols, answered.get("sec-websocket-extensions"))
    assert found == {name: tuple(expected) for name, (_, *expected) in HANDSHAKES.items()}


UPGRADES = {
    "a browser's": ([(b"connection", b"keep-alive, Upgrade")], 200),
    "in two lines": ([(b"connection", b"Upgrade"), (b"Connection", b"keep-alive")], 200),
    "in capitals": ([(b"upgrade", b"WEBSOCKET"), (b"connection", b"UPGRADE")], 200),
    "without a connection": ([(b"connection", b"keep-alive")], 204),
    "of something else": ([(b"upgrade", b"websockets")], 204),
    "a body in chunks": ([(b"transfer-encoding", b"chunked")], 400),
}


@pytest.mark.parametrize("raw", [False, True], ids=["names in lower case", "names as they came"])
async def test_what_is_an_upgrade(server, connect, clean_log, raw):
    """Over HTTP/1.1; a request that asks for none is answered as any other."""
    url = await server(Apps(), h11_pass_raw_headers=raw)
    found = {}
    with trio.fail_after(30):
        for name, (changes, _) in UPGRADES.items():
            found[name], _ = await OverHTTP1(partial(connect, url)).open(changes=changes)
    assert found == {name: status for name, (_, status) in UPGRADES.items()}


async def test_http_1_0_has_no_upgrades(server, connect, clean_log):
    """There it is ignored (RFC 9110 § 7.8)."""
    stream = await connect(await server(Apps()))
    await stream.send_all(
        b"GET / HTTP/1.0\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: " + KEY + b"\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert (await read_to_end(stream)).startswith(b"HTTP/1.1 204 ")


SMALL = {
    "fragments of a byte": frame(TEXT, b"x", fin=False) + frame(MORE, b"x", fin=False) * 2000,
    "fragments of nothing": frame(TEXT, fin=False) + frame(MORE, fin=False) * 2000,
    "pongs": frame(PONG) * 2000,
}


@pytest.mark.parametrize("name", SMALL)
async def test_others_run_between_small_frames(server, client, clean_log, monkeypatch, name):
    """After 64 of them at most, however many have come at once."""
    since, most = 0, 0
    events = Connection.events

    def counted(self):
        nonlocal since, most
        for event in events(self):
            since += 1
            most = max(most, since)
            yield event

    async def others():
        nonlocal since
        while True:
            since = 0
            await trio.lowlevel.checkpoint()

    monkeypatch.setattr(Connection, "events", counted)
    apps = Apps()
    ask = client(await server(apps))
    await ask.open()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        with trio.fail_after(20):
            await ask.send(SMALL[name] + BYE)
            await apps.asked[-1].ended.wait()
        nursery.cancel_scope.cancel()
    assert apps.asked[-1].code == 1000
    assert 32 < most <= 2 * 64  # the two tasks are woken in any order
