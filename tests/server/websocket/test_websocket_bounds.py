"""WebSocket messages that are too long, compressed or odd; and handshakes that are none."""

import random
import struct
import zlib

import pytest
import trio
import wsproto
from _http2_client import Peer
from _reading import read_to_end
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Message, Ping, Pong, TextMessage
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import CloseReason

from flowstream.server.websocket._message_bound import MessageBound, Pieces
from flowstream.server.websocket._ws_handshake import is_valid

MOST = 100_000
KEY = b"AAAAAAAAAAAAAAAAAAAAAA=="
TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9


def frame(opcode, payload=b"", *, fin=True, rsv1=False, length=None):
    """Return a client's frame, masked with zeros; `length` is what it announces."""
    length = len(payload) if length is None else length
    first = bytes([fin << 7 | rsv1 << 6 | opcode])
    if length < 126:
        size = bytes([0x80 | length])
    elif length < 1 << 16:
        size = b"\xfe" + struct.pack("!H", length)
    else:
        size = b"\xff" + struct.pack("!Q", length)
    return first + size + bytes(4) + payload


def deflated(data):
    made = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (made.compress(data) + made.flush(zlib.Z_SYNC_FLUSH))[:-4]


BOMB = deflated(bytes(64 << 20))  # 64 KB


def receiver(most=MOST, offer="permessage-deflate"):
    """Return a server's end, which agreed on compression if one was offered."""
    bound = MessageBound(most)
    if offer:
        assert bound.accept(offer) is not None
    return Connection(ConnectionType.SERVER, [bound])


def messages_of(connection, data, size=1000):
    """Feed `data` in pieces; return the messages, and the code of the close if there is one."""
    pieces, found = Pieces(), []
    for start in range(0, len(data), size):
        connection.receive_data(data[start : start + size])
        for event in connection.events():
            if isinstance(event, CloseConnection):
                return found, event.code
            if isinstance(event, Message) and (whole := pieces.add(event)):
                found.append(whole["text"] if whole["bytes"] is None else whole["bytes"])
    return found, None


TOO_LONG = {
    "one that is announced": frame(BINARY, length=MOST + 1),
    "a terabyte that is announced": frame(TEXT, length=1 << 40),
    "many fragments": frame(BINARY, b"x" * 999, fin=False) + frame(0, b"x" * 999, fin=False) * 100,
    "the last fragment": frame(BINARY, bytes(MOST), fin=False) + frame(0, b"x"),
    "a bomb": frame(BINARY, BOMB, rsv1=True),
    "a bomb in fragments": frame(BINARY, BOMB[:9], rsv1=True, fin=False) + frame(0, BOMB[9:]),
    "a bomb of text": frame(TEXT, deflated(b"\xf0\x9f\x98\x80" * (MOST // 4 + 1)), rsv1=True),
    "one byte more, compressed": frame(BINARY, deflated(bytes(MOST + 1)), rsv1=True),
    "a bomb behind a good one": frame(BINARY, deflated(b"good"), rsv1=True)
    + frame(BINARY, deflated(bytes(MOST + 1)), rsv1=True),
}


@pytest.mark.parametrize("name", TOO_LONG)
def test_too_long_a_message_is_refused(name):
    """With 1009, before more of it is there than there may be."""
    found, code = messages_of(receiver(), TOO_LONG[name])
    assert code == CloseReason.MESSAGE_TOO_BIG
    assert found in ([], [b"good"])


def test_as_much_as_there_may_be_is_taken():
    """Compressed or not, in one frame or in two, one message after the other."""
    whole = bytes(MOST)
    data = frame(BINARY, whole) + frame(BINARY, deflated(whole), rsv1=True)
    data += frame(BINARY, whole[:70], fin=False) + frame(PING, b"?") + frame(0, whole[70:])
    assert messages_of(receiver(), data) == ([whole] * 3, None)


def test_a_ping_may_come_between_the_frames_of_a_compressed_message():
    """It leaves the message compressed."""
    squeezed = deflated(b"hello " * 100)
    data = frame(BINARY, squeezed[:5], rsv1=True, fin=False) + frame(PING) + frame(0, squeezed[5:])
    assert messages_of(receiver(), data, 3) == ([b"hello " * 100], None)


def test_final_blocks():
    """One is read as RFC 7692 § 7.2.3.4 has it; a message of nothing else is refused."""
    rfc = bytes.fromhex("f3 48 cd c9 c9 07 00 00")
    data = frame(TEXT, rfc, rsv1=True) + frame(TEXT, deflated(b"more"), rsv1=True)
    assert messages_of(receiver(), data) == (["Hello", "more"], None)
    ends = frame(BINARY, b"\x03\x00" * 40_000, rsv1=True)
    assert messages_of(receiver(), ends) == ([], CloseReason.INVALID_FRAME_PAYLOAD_DATA)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(BINARY, b"\xff\xff\xff", rsv1=True), 1007),
        (frame(BINARY, b"", rsv1=True, fin=False) + frame(0, b"", rsv1=True), 1002),
        (frame(PING, b"", rsv1=True), 1002),
        (frame(TEXT, deflated(b"\xff"), rsv1=True), 1007),
    ],
)
def test_what_is_not_deflate(data, code):
    """It is refused with the code that RFC 6455 has for it."""
    assert messages_of(receiver(), data) == ([], code)


def test_compression_that_was_not_agreed_on():
    """Its bit is one that is reserved."""
    data = frame(BINARY, deflated(b"x"), rsv1=True)
    assert messages_of(receiver(offer=None), data) == ([], 1002)


@settings(deadline=None)  # a busy machine has none
@given(
    sent=st.lists(st.one_of(st.text(max_size=300), st.binary(max_size=300)), max_size=8),
    size=st.integers(1, 200),
    seed=st.integers(0, 1 << 30),
    offer=st.sampled_from(
        [
            None,
            "permessage-deflate",
            "permessage-deflate; client_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; client_max_window_bits=9; server_max_window_bits=10",
        ]
    ),
)
def test_every_message_arrives_as_it_was_sent(sent, size, seed, offer):
    """However it is cut into frames and packets, with pings in between; and so does the answer."""
    chance = random.Random(seed)
    server = receiver(offer=offer)
    extension = PerMessageDeflate()
    if offer:
        extension.finalize(offer)
    client = Connection(ConnectionType.CLIENT, [extension])
    data = b""
    for message in sent:
        kind = TextMessage if isinstance(message, str) else BytesMessage
        cut = chance.randint(0, len(message))
        data += client.send(kind(data=message[:cut], message_finished=False))
        data += client.send(Ping(payload=b"?"))
        data += client.send(kind(data=message[cut:]))
    assert messages_of(server, data, size) == (sent, None)
    pieces, back = Pieces(), []
    for message in sent:
        kind = TextMessage if isinstance(message, str) else BytesMessage
        client.receive_data(server.send(kind(data=message)))
        back.extend(pieces.add(event) for event in client.events())
    assert [m["text"] if m["bytes"] is None else m["bytes"] for m in back if m] == sent


@pytest.mark.parametrize(
    ("offer", "accepted"),
    [
        ("permessage-deflate", ""),
        ("permessage-deflate; client_max_window_bits", "client_max_window_bits=15"),
        ("permessage-deflate; server_max_window_bits=10", "server_max_window_bits=10"),
        ("permessage-deflate;client_no_context_takeover", "client_no_context_takeover"),
        ("permessage-deflate; client_max_window_bits=abc", None),
        ("permessage-deflate; client_max_window_bits=", None),
        ("permessage-deflate; client_max_window_bits=99999999999999999999", None),
        ("permessage-deflate; client_max_window_bits=8", None),  # zlib has no such window
        ("permessage-deflate; server_max_window_bits", None),
        ("permessage-deflate; server_max_window_bits=016", None),
        ("permessage-deflate; client_no_context_takeover=1", None),
        ("permessage-deflate; client_no_context_takeover_", None),
        ("permessage-deflate; x", None),
        ("permessage-deflate; server_max_window_bits=9; server_max_window_bits=9", None),
    ],
)
def test_offers_of_compression(offer, accepted):
    """One that is not as RFC 7692 § 7.1 has it is declined."""
    assert MessageBound(MOST).accept(offer) == accepted


HANDSHAKES = {
    "good": ([], True),
    "a short key": ([(b"sec-websocket-key", b"AAAA")], False),
    "an empty key": ([(b"sec-websocket-key", b"")], False),
    "a long key": ([(b"sec-websocket-key", KEY[:-2] + b"AA" + KEY)], False),
    "a key that is no base64": ([(b"sec-websocket-key", b"?" * 22 + b"==")], False),
    "no key": ([(b"sec-websocket-key", None)], False),
    "two keys": ([(b"sec-websocket-key", KEY), (b"Sec-WebSocket-Key", KEY)], False),
    "two versions": ([(b"sec-websocket-version", b"13"), (b"Sec-WebSocket-Version", b"13")], False),
    "another version": ([(b"sec-websocket-version", b"8")], False),
    "an extension beyond ASCII": ([(b"sec-websocket-extensions", b"a; b=\xb2")], False),
    "a protocol beyond ASCII": ([(b"sec-websocket-protocol", b"\xff")], False),
    "a protocol of two words": ([(b"sec-websocket-protocol", b"a b")], False),
    "an empty protocol": ([(b"sec-websocket-protocol", b"a,,b")], False),
    "protocols": ([(b"sec-websocket-protocol", b"a, b")], True),
    "a connection beyond ASCII": ([(b"connection", b"upgrade, \xff")], False),
    "an unknown extension": ([(b"sec-websocket-extensions", b"x; y=z, ;;, =")], True),
    "an offer of nonsense": (
        [(b"sec-websocket-extensions", b"permessage-deflate; client_max_window_bits=abc")],
        True,
    ),
}


def handshake_of(changes):
    fields = {
        b"host": b"localhost",
        b"upgrade": b"websocket",
        b"connection": b"Upgrade",
        b"sec-websocket-key": KEY,
        b"sec-websocket-version": b"13",
    } | dict(changes)
    lines = [name + b": " + value for name, value in fields.items() if value is not None]
    return b"GET / HTTP/1.1\r\n" + b"\r\n".join(lines) + b"\r\n\r\n"


class App:
    """Accepts, and notes what it receives until the disconnect."""

    def __init__(self):
        self.received, self.asked, self.ended = [], 0, trio.Event()

    async def __call__(self, scope, receive, send):
        if scope["type"] != "websocket":
            raise NotImplementedError
        self.asked += 1
        await send({"type": "websocket.accept"})
        while not self.received or self.received[-1]["type"] != "websocket.disconnect":
            self.received.append(await receive())
        self.ended.set()


@pytest.mark.parametrize("name", HANDSHAKES)
async def test_handshakes(server, connect, clean_log, name):
    """One that is not as RFC 6455 § 4.2.1 has it gets 400, its app isn't asked, and it ends."""
    changes, is_good = HANDSHAKES[name]
    app = App()
    stream = await connect(await server(app))
    await stream.send_all(handshake_of(changes))
    if is_good:
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 101 ")
        await stream.aclose()
    else:
        assert (await read_to_end(stream)).startswith(b"HTTP/1.1 400 ")
        assert app.asked == 0


def test_an_http_2_handshake_has_no_key():
    """RFC 8441 § 5: the key and its answer are left out."""
    assert is_valid([(b"sec-websocket-version", b"13")], "2")
    assert not is_valid([(b"sec-websocket-version", b"13")] * 2, "2")


OFFER = (b"sec-websocket-extensions", b"permessage-deflate")


@pytest.mark.parametrize("name", TOO_LONG)
async def test_a_connection_with_too_long_a_message_ends(server, connect, clean_log, name):
    """It gets a close with 1009, what it goes on to send isn't read, and its app hears of it."""
    app = App()
    stream = await connect(await server(app, websocket_max_message_size=MOST))
    await stream.send_all(handshake_of([OFFER]))
    head = await stream.receive_some()
    assert b"permessage-deflate" in head
    sent = 0
    with trio.fail_after(10):
        try:
            await stream.send_all(TOO_LONG[name])
            while sent < 1 << 30:
                await stream.send_all(bytes(1 << 16))
                sent += 1 << 16
        except trio.BrokenResourceError:
            pass
        await app.ended.wait()
    assert sent < 100 << 20  # what fits into the kernel's buffers
    assert app.received[-1]["type"] == "websocket.disconnect"
    assert app.received[-1]["code"] == 1009


async def test_a_client_that_waits_reads_why(server, connect, clean_log):
    """1009 reaches a client that stops by itself."""
    stream = await connect(await server(App(), websocket_max_message_size=MOST))
    await stream.send_all(handshake_of([OFFER]))
    await stream.receive_some()
    await stream.send_all(TOO_LONG["one that is announced"])
    assert await read_to_end(stream) == b"\x88\x02" + struct.pack("!H", 1009)


async def test_what_is_no_websocket_is_told(server, connect, clean_log):
    """A fault of the protocol gets a close with its code, and the end."""
    stream = await connect(await server(App()))
    await stream.send_all(handshake_of([]))
    await stream.receive_some()
    await stream.send_all(b"\x83\x80\x00\x00\x00\x00")
    assert await read_to_end(stream) == b"\x88\x02" + struct.pack("!H", 1002)


async def test_over_http_2_the_stream_ends_and_no_other(server, connect, clean_log):
    """Its window is given back, and another stream of the connection goes on."""
    app = App()
    peer = Peer(await connect(await server(app, websocket_max_message_size=MOST)))
    extra = [("sec-websocket-version", "13")]
    bad = peer.open("/", *extra, method="CONNECT", ended=False, protocol="websocket")
    await peer.flush()
    with trio.fail_after(10):
        while bad not in peer.statuses:
            await peer.receive()
        peer.h2.send_data(bad, TOO_LONG["one that is announced"])
        await peer.flush()
        while bad not in peer.resets and bad not in peer.ended:
            await peer.receive()
        await app.ended.wait()
        assert app.received[-1]["code"] == 1009
        good = peer.open("/", *extra, method="CONNECT", ended=False, protocol="websocket")
        await peer.flush()
        while good not in peer.statuses:
            await peer.receive()
    assert peer.statuses[good] == 200
    assert not peer.closed
    assert peer.goaway is None


async def test_an_empty_piece_over_http_2(server, connect, clean_log):
    """It is nothing, and the message behind it arrives."""
    app = App()
    peer = Peer(await connect(await server(app)))
    number = peer.open(
        "/", ("sec-websocket-version", "13"), method="CONNECT", ended=False, protocol="websocket"
    )
    await peer.flush()
    with trio.fail_after(10):
        while number not in peer.statuses:
            await peer.receive()
        for data in (b"", frame(BINARY, b"hello"), b"", frame(CLOSE)):
            peer.h2.send_data(number, data)
            await peer.flush()
        await app.ended.wait()
    assert [message.get("bytes") for message in app.received[1:]] == [b"hello", None]


async def test_others_run_while_a_message_is_decompressed(server, connect, clean_log):
    """A bomb of 16 MiB is worked on in pieces, between which another task runs."""
    app, turns = App(), 0
    stream = await connect(await server(app, websocket_max_message_size=16 << 20))
    await stream.send_all(handshake_of([OFFER]))
    await stream.receive_some()

    async def count():
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await trio.lowlevel.checkpoint()
        before = turns
        await stream.send_all(frame(BINARY, deflated(bytes(16 << 20)), rsv1=True))
        with trio.fail_after(10):
            while len(app.received) < 2:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert turns - before >= 14
    assert len(app.received[1]["bytes"]) == 16 << 20


@pytest.mark.parametrize("code", [1000, 1001, 4321])
async def test_the_app_hears_with_which_code_the_client_closed(server, connect, clean_log, code):
    """And the client gets the same one back."""
    app = App()
    stream = await connect(await server(app))
    await stream.send_all(handshake_of([]))
    await stream.receive_some()
    await stream.send_all(frame(CLOSE, struct.pack("!H", code)))
    assert await read_to_end(stream) == b"\x88\x02" + struct.pack("!H", code)
    assert app.received[-1] == {"type": "websocket.disconnect", "code": code}


async def test_a_pong_is_sent_for_each_ping(server, connect, clean_log):
    """Of a flood of them, too, as fast as the client reads."""
    stream = await connect(await server(App()))
    await stream.send_all(handshake_of([]))
    await stream.receive_some()
    client = Connection(ConnectionType.CLIENT)
    pongs = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, frame(PING, b"?") * 1000)
        with trio.fail_after(10):
            while pongs < 1000:
                client.receive_data(await stream.receive_some())
                pongs += sum(isinstance(event, Pong) for event in client.events())


def test_wsproto_forgets_that_a_message_is_compressed():
    """Why it isn't left to it. (If this fails, it was mended.)"""
    extension = PerMessageDeflate()
    extension.finalize("permessage-deflate")
    squeezed = deflated(b"hello")
    data = frame(BINARY, squeezed[:3], rsv1=True, fin=False) + frame(PING) + frame(0, squeezed[3:])
    found, _ = messages_of(wsproto.connection.Connection(ConnectionType.SERVER, [extension]), data)
    assert found != [b"hello"]
