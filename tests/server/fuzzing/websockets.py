"""WebSocket as wsproto writes it, and frames, extensions and messages that it would not write."""

import base64
import functools
import zlib

import wsproto
from wsproto.connection import ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.extensions import PerMessageDeflate

WEBSOCKET_PATHS = [f"/{letter}" for letter in "cefrsnw"]


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


# -- extensions --------------------------------------------------------------------------------

MOST = 1 << 16
"""Bytes that a message may have on the test's server."""

OFFERS = (
    "permessage-deflate",
    "permessage-deflate; client_max_window_bits",
    "permessage-deflate; client_max_window_bits=9; server_max_window_bits=9",
    "permessage-deflate; client_no_context_takeover; server_no_context_takeover",
    "permessage-deflate; server_max_window_bits=10",
    "permessage-deflate; server_max_window_bits",
    "permessage-deflate; server_max_window_bits=7",
    "permessage-deflate; client_max_window_bits=abc",
    "permessage-deflate; client_max_window_bits=015",
    'permessage-deflate; client_max_window_bits="10"',
    "permessage-deflate; client_max_window_bits=10; client_max_window_bits=11",
    "permessage-deflate; client_no_context_takeover=1",
    "permessage-deflate; unknown",
    "permessage-deflate; x=\xe9",
    "permessage-deflate; =",
    "permessage-deflate;;;",
    "permessage-deflate, permessage-deflate",
    "permessage-deflate; client_max_window_bits=99, permessage-deflate",
    "x-webkit-deflate-frame",
    "permessage-bzip2; y",
    ",",
    "",
    "p" * 5000,
)


def masked(first, payload, mask=b"\0\0\0\0"):
    """Return a frame of a client."""
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 1 << 16:
        head = bytes((first, 0xFE)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, 0xFF)) + size.to_bytes(8, "big")
    return head + mask + payload


def deflated(data, bits=15):
    """Return the data as permessage-deflate has it (RFC 7692 § 7.2.1)."""
    compress = zlib.compressobj(9, zlib.DEFLATED, -bits)
    return (compress.compress(data) + compress.flush(zlib.Z_SYNC_FLUSH))[:-4]


@functools.cache
def bomb(size):
    """Return what so many zeros are, deflated."""
    return deflated(bytes(size))


def odd_message(rng):
    """Return the frames of one message: in pieces, compressed, too long, or none of it right."""
    text = rng.choice((b"", b"a", "hé".encode() * 50, b"\xff\xfe", b"z" * 5000))
    match rng.randrange(12):
        case 0:
            return [masked(0xC1, deflated(text, rng.choice((9, 15))))]
        case 1:  # a ping between the pieces
            data = deflated(text)
            at = rng.randrange(len(data) + 1)
            return [masked(0x41, data[:at]), masked(0x89, b"p"), masked(0x80, data[at:])]
        case 2:  # no deflate
            return [masked(0xC2, rng.randbytes(rng.choice((0, 1, 50))))]
        case 3:  # what goes on says again that it is compressed
            return [masked(0x41, deflated(text)), masked(0xC0, b"\0")]
        case 4:  # many final blocks
            last = zlib.compressobj(9, zlib.DEFLATED, -15)
            block = last.compress(b"x") + last.flush()
            return [masked(0xC2, block * rng.choice((1, 2, 16, 17, 500)))]
        case 5:  # a bomb
            return [masked(0xC2, bomb(rng.choice((MOST, MOST + 1, 1 << 25))))]
        case 6:  # as much and more than a message may have, in pieces
            sizes = rng.choice(((MOST,), (MOST + 1,), (60000, 5536), (60000, 5537), (30000,) * 4))
            last = len(sizes) - 1
            return [
                masked((0x80 if at == last else 0) | (0 if at else 2), bytes(size))
                for at, size in enumerate(sizes)
            ]
        case 7:  # a character in two frames, and perhaps never whole
            return [masked(0x01, b"\xc3"), masked(0x80, rng.choice((b"\xa9", b"x", b"")))]
        case 8:  # control frames in pieces, or long
            return [masked(rng.choice((0x09, 0x08, 0x0A)), b"p"), masked(0x89, b"p" * 126)]
        case 9:  # a close with any code and reason
            code = rng.choice((0, 999, 1000, 1004, 1005, 1006, 1015, 2999, 3000, 5000, 65535))
            return [masked(0x88, code.to_bytes(2, "big") + rng.choice((b"", b"bye", b"\xff")))]
        case 10:  # a huge one is announced
            return [masked(rng.choice((0x82, 0xC2)), b"")[:1] + b"\xff" + b"\x7f" + b"\xff" * 11]
        case _:  # a piece that goes on with nothing, or many empty ones
            return [masked(rng.choice((0, 0x80)), b"x"), *[masked(0, b"")] * rng.choice((1, 300))]


def extended(rng):
    """A handshake with any offers of extensions, and messages, some of them compressed."""
    head = handshake(rng)[:-2]
    if b"permessage" in head:
        head = head[: head.index(b"Sec-WebSocket-Extensions")]
    for offer in rng.choices(OFFERS, (12, 6, *[1] * (len(OFFERS) - 2)), k=rng.choice((1, 1, 2))):
        head += f"Sec-WebSocket-Extensions: {offer}\r\n".encode("latin-1")
    parts = [head + b"\r\n"]
    for _ in range(rng.randint(1, 5)):
        parts += odd_message(rng)
    return parts
