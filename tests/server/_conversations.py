"""Conversations that clients might have with a server, and what can go wrong with them.

Each is made from a number: the same one gives the same conversation, whatever came before.
Half of them are what h11, h2 and wsproto say, damaged: bytes flipped, inserted, deleted,
parts repeated, dropped, exchanged or cut short. The other half is put together of valid
frames and header fields in an order and with values that no library would let through,
since damage alone seldom gets past a checksum-like thing such as HPACK.
"""

import base64
import functools
import random
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.settings
import h11
import hpack
import wsproto
from wsproto.connection import ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.extensions import PerMessageDeflate

ENDS = ("close", "half-close", "reset", "wait", "stall")
"""How a client ends: at once, its own half only, with RST, not at all, or by reading nothing."""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# The applications of the test server, by the first letter of the path.
PATHS = [f"/{letter}" for letter in "abdefgnqrsw"] + ["/r%20?q=1"]
WEBSOCKET_PATHS = [f"/{letter}" for letter in "cefrsnw"]


@dataclass
class Conversation:
    """What one client does.

    Attributes:
        name: from which it can be made again.
        pieces: what is sent, in as many writes.
        pauses: how many turns of the scheduler the client waits after each piece.
        reads: whether the client takes the answers meanwhile.
        end: how it ends, one of `ENDS`.
    """

    name: str
    pieces: list[bytes]
    pauses: list[int] = field(default_factory=list)
    reads: bool = True
    end: str = "close"


def conversation(seed, number):
    """Return a conversation, always the same for a seed and a number."""
    name = f"{seed}/{number}"
    rng = random.Random(name)
    parts = some_parts(rng)
    if rng.random() < 0.5:
        parts = shuffled(rng, parts)
    data = b"".join(parts)
    if rng.random() < 0.6:
        data = damaged(rng, data)
    pieces = cut(rng, data) if rng.random() < 0.7 else [part for part in parts if part]
    return Conversation(
        name,
        pieces,
        [rng.choice((0, 0, 1, 2, 8)) for _ in pieces],
        rng.random() < 0.8,
        rng.choice(ENDS),
    )


# -- damage ------------------------------------------------------------------------------------


def shuffled(rng, parts):
    """Return the parts with some of them repeated, dropped or exchanged."""
    parts = list(parts)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(parts))
        match rng.randrange(4):
            case 0:
                parts.insert(rng.randrange(len(parts) + 1), parts[at])
            case 1 if len(parts) > 1:
                del parts[at]
            case 2:
                other = rng.randrange(len(parts))
                parts[at], parts[other] = parts[other], parts[at]
            case _:
                parts.insert(at, b"".join(some_parts(rng)[:2]))
    return parts


def damaged(rng, data):
    """Return the bytes with a few of them changed."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 12))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1 if data:
                data[at % len(data)] = rng.choice(b"\0\r\n :;,/\x7f\x80\xff0")
            case 2:
                data[at:at] = rng.randbytes(rng.choice((1, 2, 9, 100)))
            case 3:
                del data[at : at + rng.choice((1, 2, 9, 100))]
            case 4:
                data[at:at] = data[at : at + rng.choice((1, 9, 60))] * rng.choice((1, 2, 50))
            case 5 if rng.random() < 0.3:
                del data[at:]
    return bytes(data)


def cut(rng, data):
    """Return the bytes in pieces, cut at any point."""
    if len(data) < 60 and rng.random() < 0.1:
        return [data[at : at + 1] for at in range(len(data))]
    points = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice((0, 1, 2, 5))))
    return [
        data[start:end]
        for start, end in zip([0, *points], [*points, len(data)], strict=True)
        if end > start
    ]


# -- HTTP/1.1 ----------------------------------------------------------------------------------


def http1(rng):
    """A few requests, as h11 writes them."""
    parts = []
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        connection = h11.Connection(h11.CLIENT)
        headers = [("Host", "localhost")]
        body = [rng.randbytes(rng.choice((0, 1, 300, 5000))) for _ in range(rng.randint(1, 3))]
        method = rng.choice(("GET", "GET", "HEAD", "POST", "PUT", "OPTIONS", "DELETE"))
        if method in {"POST", "PUT"}:
            if rng.random() < 0.5:
                headers.append(("Transfer-Encoding", "chunked"))
            else:
                headers.append(("Content-Length", str(sum(map(len, body)))))
            if rng.random() < 0.3:
                headers.append(("Expect", "100-continue"))
        else:
            body = []
        if rng.random() < 0.2:
            headers.append(("Connection", "close"))
        if rng.random() < 0.2:
            headers.append(("Last-Event-ID", "1.2"))
        target = rng.choice(PATHS)
        request = h11.Request(method=method, target=target, headers=headers)
        parts.append(connection.send(request))
        parts += [connection.send(h11.Data(data=data)) for data in body]
        parts.append(connection.send(h11.EndOfMessage()))
    return parts


ODD_FIELDS = (
    "Connection: close",
    "Connection: keep-alive, Upgrade",
    "Connection: upgrade",
    "Upgrade: h2c",
    "Upgrade: websocket",
    "Upgrade: \xffwebsocket",
    "HTTP2-Settings: AAMAAABkAAQAAP__",
    "HTTP2-Settings: !!",
    "HTTP2-Settings: AA",
    "HTTP2-Settings: AAMAAABkAAQAAP__AAA",
    "HTTP2-Settings: \xff",
    "Content-Length: 0",
    "Content-Length: 5",
    "Content-Length: 99999999999999999999",
    "Content-Length: -1",
    "Content-Length: 5, 5",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip, chunked",
    "Expect: 100-continue",
    "Expect: \xe9",
    "Host: localhost",
    "Host: \xe9",
    "Host:",
    "Last-Event-ID: \xff",
    "Last-Event-ID: 0123.end",
    "Cookie: " + "a" * 4000,
    "X-Long: " + "b" * 20000,
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Version: 12",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    "Sec-WebSocket-Key: \xe9",
    "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=99",
    "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits",
    "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=x",
    "Sec-WebSocket-Extensions: \xe9",
    "Sec-WebSocket-Protocol: \xe9, ,",
    " continued",
    ": nameless",
    "Name",
)
ODD_TARGETS = (
    *PATHS,
    "*",
    "http://localhost/r",
    "localhost:80",
    "/%",
    "/%ff%00",
    "/r?\xe9",
    "/\xe9",
    "//",
    "/" + "x" * 9000,
)
ODD_METHODS = ("GET", "POST", "HEAD", "CONNECT", "get", "PRI", "\xe9", "G\0T", "OPTIONS", "X" * 300)
ODD_VERSIONS = ("1.1", "1.1", "1.1", "1.0", "0.9", "2.0", "1.9", "1", "9.9")
ODD_BODIES = (
    b"",
    b"hello",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"5;x=y\r\nhello\r\n0\r\nTrailer: x\r\n\r\n",
    b"FFFFFFFFFFFFFFFFFFFFF\r\n",
    b"-1\r\n",
    b"0\r\n\r\n" * 3,
    b"5\r\nhel",
    b"\x81\x80\0\0\0\0",
)


def odd_http1(rng):
    """Requests of fields that do not go together."""
    parts = []
    for _ in range(rng.choice((1, 1, 2, 4))):
        line = f"{rng.choice(ODD_METHODS)} {rng.choice(ODD_TARGETS)} "
        line += f"HTTP/{rng.choice(ODD_VERSIONS)}"
        fields = ["Host: localhost"] if rng.random() < 0.8 else []
        fields += rng.sample(ODD_FIELDS, rng.choice((0, 1, 2, 5)))
        parts += [f"{line}\r\n".encode("latin-1")]
        parts += [f"{one}\r\n".encode("latin-1") for one in fields]
        parts += [b"\r\n", rng.choice(ODD_BODIES)]
        if rng.random() < 0.1:
            parts += http2(rng)
    return parts


def upgrade_to_http2(rng):
    """A request that asks for HTTP/2, and HTTP/2."""
    settings = rng.choice(("AAMAAABkAAQAAP__", "", "AAQAAAAA", "AAQ_____", "AAEAAAAAAAUAAEAA"))
    head = (
        f"{rng.choice(('GET', 'HEAD', 'POST'))} {rng.choice(PATHS)} HTTP/1.1\r\nHost: localhost\r\n"
        f"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: {settings}\r\n\r\n"
    )
    return [head.encode(), *(http2(rng) if rng.random() < 0.5 else odd_http2(rng))]


# -- HTTP/2 ------------------------------------------------------------------------------------


def http2(rng):
    """Requests on some streams, as h2 writes them."""
    connection = h2.connection.H2Connection(
        h2.config.H2Configuration(client_side=True, header_encoding=None)
    )
    connection.initiate_connection()
    if rng.random() < 0.3:
        window = rng.choice((0, 1, 100, 1 << 20))
        connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
    parts = [connection.data_to_send()]
    for _ in range(rng.randint(1, 5)):
        stream = connection.get_next_available_stream_id()
        headers = [
            (":method", rng.choice(("GET", "POST", "HEAD"))),
            (":path", rng.choice(PATHS)),
            (":scheme", "http"),
            (":authority", "localhost"),
        ]
        bodiless = rng.random() < 0.5
        priority = {}
        if rng.random() < 0.2:
            priority = {"priority_weight": rng.randint(1, 256), "priority_exclusive": True}
        connection.send_headers(stream, headers, end_stream=bodiless, **priority)
        parts.append(connection.data_to_send())
        if not bodiless:
            for _ in range(rng.randint(0, 3)):
                connection.send_data(stream, rng.randbytes(rng.choice((0, 1, 500, 9000))))
                parts.append(connection.data_to_send())
            match rng.randrange(4):
                case 0:
                    connection.reset_stream(stream)
                case 1:
                    connection.send_headers(stream, [("trailer", "x")], end_stream=True)
                case 2:
                    connection.end_stream(stream)
            parts.append(connection.data_to_send())
        if rng.random() < 0.3:
            connection.ping(b"12345678")
        if rng.random() < 0.4:
            connection.increment_flow_control_window(rng.choice((1, 100, 1 << 20)))
        if rng.random() < 0.2:
            connection.prioritize(stream, weight=7, depends_on=stream + 2)
        parts.append(connection.data_to_send())
    if rng.random() < 0.2:
        connection.close_connection()
        parts.append(connection.data_to_send())
    return [part for part in parts if part]


ODD_HEADERS = (
    (b":method", b"GET"),
    (b":method", b"CONNECT"),
    (b":method", b"\xe9"),
    (b":method", b""),
    (b":path", b"/r"),
    (b":path", b"/\xe9"),
    (b":path", b""),
    (b":path", b"r"),
    (b":path", b"*"),
    (b":scheme", b"\xff"),
    (b":scheme", b""),
    (b":authority", b"\xe9"),
    (b":authority", b""),
    (b":protocol", b"websocket"),
    (b":protocol", b"\xe9"),
    (b":status", b"200"),
    (b":odd", b""),
    (b"host", b"elsewhere"),
    (b"host", b"\xe9"),
    (b"content-length", b"3"),
    (b"content-length", b"x"),
    (b"content-length", b"-1"),
    (b"connection", b"close"),
    (b"te", b"trailers"),
    (b"te", b"gzip"),
    (b"expect", b"100-continue"),
    (b"cookie", b"a" * 3000),
    (b"x", b"y" * 30000),
    (b"Upper", b"Case"),
    (b"", b""),
    (b"a\r\nb", b"c\0d"),
    (b"last-event-id", b"\xff"),
    (b"sec-websocket-version", b"13"),
    (b"sec-websocket-protocol", b"\xe9"),
    (b"sec-websocket-extensions", b"permessage-deflate; server_max_window_bits=1"),
    (b"sec-websocket-extensions", b"\xe9"),
    (b"trailer", b"x"),
)


def odd_http2(rng):
    """Valid frames in an order, and with values, that make no sense."""
    encoder = hpack.Encoder()
    streams = rng.choices((1, 1, 1, 3, 3, 5, 7, 2, 0), k=rng.randint(1, 14))
    odd = [odd_frame(rng, stream, encoder) for stream in streams]
    return [PREFACE, frame(SETTINGS, 0, 0), *odd]


DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY = range(8)
WINDOW_UPDATE, CONTINUATION = 8, 9
END_STREAM = ACK = 1
END_HEADERS, PADDED, WITH_PRIORITY = 4, 8, 32


def frame(kind, flags, stream, payload=b""):
    """Return a frame as RFC 9113 § 4.1 has it; hyperframe would refuse the odd ones."""
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags))
    return head + stream.to_bytes(4, "big") + payload


def odd_frame(rng, stream, encoder):
    """Return any frame."""
    number = rng.choice((0, 0, 1, 1000, (1 << 31) - 1)).to_bytes(4, "big")
    ended = END_STREAM if rng.random() < 0.4 else 0
    match rng.choice((*[HEADERS] * 5, *[DATA] * 5, *range(12))):
        case 1:
            payload = odd_headers(rng, encoder)
            flags = END_HEADERS | ended
            if rng.random() < 0.1:
                flags |= WITH_PRIORITY
                payload = odd_priority(rng, stream) + payload
            if rng.random() < 0.05:
                flags &= ~END_HEADERS
            return frame(HEADERS, flags, stream, payload)
        case 0:
            payload = b"".join(websocket_frame(rng) for _ in range(rng.randrange(3)))
            payload = (payload + rng.randbytes(rng.choice((0, 0, 5, 1000, 16384))))[:16384]
            padded = PADDED if rng.random() < 0.1 else 0
            return frame(DATA, ended | padded, stream, payload)
        case 2:
            return frame(PRIORITY, 0, stream, odd_priority(rng, stream))
        case 3:
            return frame(RST_STREAM, 0, stream, number)
        case 4:
            values = (0, 1, 2, 100, 16384, 1 << 24, (1 << 31) - 1, 1 << 31)
            payload = b"".join(
                rng.choice((*range(10), 0x8A8A, 0xFFFF)).to_bytes(2, "big")
                + rng.choice(values).to_bytes(4, "big")
                for _ in range(rng.choice((0, 1, 2, 3, 500)))
            )
            return frame(SETTINGS, ended if not payload else 0, 0, payload)
        case 5:
            payload = b"\0\0\0\2" + odd_headers(rng, encoder)
            return frame(PUSH_PROMISE, END_HEADERS, stream, payload)
        case 6:
            return frame(PING, ended, 0, b"12345678")
        case 7:
            return frame(GOAWAY, 0, 0, number + rng.choice((b"\0\0\0\0", b"\0\0\0\2bye")))
        case 8:
            return frame(WINDOW_UPDATE, 0, rng.choice((0, stream)), number)
        case 9:
            return frame(CONTINUATION, END_HEADERS, stream, odd_headers(rng, encoder))
        case kind:
            return frame(kind, rng.randrange(256), stream, rng.randbytes(rng.randrange(40)))


def odd_priority(rng, stream):
    """Return a dependency on any stream, the same one included."""
    depends_on = rng.choice((0, 1, 3, 5, 9, stream)) | rng.choice((0, 1 << 31))
    return depends_on.to_bytes(4, "big") + bytes((rng.randrange(256),))


def odd_headers(rng, encoder):
    """Return the fields of a request, mostly, some of them odd."""
    websocket = rng.random() < 0.3
    headers = [
        (b":method", b"CONNECT" if websocket else rng.choice((b"GET", b"POST", b"HEAD"))),
        (b":path", rng.choice(WEBSOCKET_PATHS if websocket else PATHS).encode()),
        (b":scheme", b"http"),
        (b":authority", b"localhost"),
    ]
    if websocket:
        headers += [(b":protocol", b"websocket"), (b"sec-websocket-version", b"13")]
    if rng.random() < 0.4:
        name, value = rng.choice(ODD_HEADERS)
        if rng.random() < 0.5:
            headers = [one for one in headers if one[0] != name]
        at = rng.choice((0, len(headers)))
        headers.insert(at, (name, value))
    if rng.random() < 0.1:
        del headers[rng.randrange(len(headers))]
    return encoder.encode(headers)


# -- WebSocket ---------------------------------------------------------------------------------


def handshake(rng):
    """Return the request that opens a WebSocket."""
    key = base64.b64encode(rng.randbytes(16)).decode()
    head = (
        f"GET {rng.choice(WEBSOCKET_PATHS)} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
    )
    if rng.random() < 0.3:
        head += "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    if rng.random() < 0.2:
        head += "Sec-WebSocket-Protocol: chat, other\r\n"
    return f"{head}\r\n".encode()


def websocket(rng):
    """A handshake and messages, as wsproto writes them."""
    opening = handshake(rng)
    extensions = []
    if b"permessage-deflate" in opening:
        deflate = PerMessageDeflate()
        deflate.finalize("permessage-deflate")
        extensions = [deflate]
    connection = wsproto.Connection(ConnectionType.CLIENT, extensions)
    parts = [opening]
    for _ in range(rng.randint(1, 8)):
        match rng.randrange(7):
            case 0:
                parts.append(connection.send(TextMessage("hé" * rng.choice((0, 1, 200)))))
            case 1:
                data = rng.randbytes(rng.choice((0, 9, 70000)))
                parts.append(connection.send(BytesMessage(data)))
            case 2:
                parts.append(connection.send(TextMessage("a", message_finished=False)))
                parts.append(connection.send(Ping(b"between")))
                parts.append(connection.send(TextMessage("b", message_finished=True)))
            case 3:
                parts.append(connection.send(Ping(rng.randbytes(125))))
            case 4:
                parts.append(connection.send(Pong()))
            case 5:
                parts.append(websocket_frame(rng))
            case _:
                parts.append(connection.send(CloseConnection(rng.choice((1000, 1001, 4999)), "b")))
                break
    return parts


def websocket_frame(rng):
    """Return a frame with any opcode, flags, length and mask."""
    payload = rng.choice((b"", b"x", b"\xff\xfe", b"\x03\xe8", b"\x00\x00bye", b"z" * 126))
    first = rng.choice((0x80, 0x80, 0, 0xC0, 0xF0)) | rng.choice((1, 1, 2, 0, 8, 9, 10, 3, 15))
    length = rng.choice((len(payload),) * 4 + (127, 126, 1))
    masked = rng.choice((0x80, 0x80, 0x80, 0))
    mask = b"\0\0\0\0" if masked else b""
    if length < 126:
        return bytes((first, masked | length)) + mask + payload
    if rng.random() < 0.7:
        return bytes((first, masked | 126)) + length.to_bytes(2, "big") + mask + payload
    huge = rng.choice((length, 1 << 20, 1 << 62, (1 << 64) - 1))
    return bytes((first, masked | 127)) + huge.to_bytes(8, "big") + mask + payload


def odd_websocket(rng):
    """A handshake, and frames that wsproto would not write."""
    return [handshake(rng), *(websocket_frame(rng) for _ in range(rng.randint(1, 6)))]


def noise(rng):
    """Nothing in particular."""
    start = rng.choice((b"", b"", PREFACE, PREFACE[:11], b"GET / HTTP/1.1\r\n", b"\x16\x03\x01"))
    return [start, rng.randbytes(rng.choice((1, 9, 100, 3000)))]


WRITTEN = (http1, http2, websocket, upgrade_to_http2)
ODD = (odd_http1, odd_http2, odd_http2, odd_websocket, noise)


@functools.cache
def written(kind, number):
    """Return what a library writes: made once, since it is made slowly."""
    return kind(random.Random(f"{kind.__name__}/{number}"))


def some_parts(rng):
    """Return any conversation, in its parts."""
    if rng.random() < 0.5:
        return written(rng.choice(WRITTEN), rng.randrange(100))
    return rng.choice(ODD)(rng)
