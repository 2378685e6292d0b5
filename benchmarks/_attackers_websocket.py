"""Attacks by WebSocket. The server's bound of a message is 8 MiB."""

from __future__ import annotations

import zlib

from _attackers import MIB, Aim, Wire, attack

TEXT, BINARY, CONTINUED, PING = 1, 2, 0, 9
FIN, COMPRESSED = 0x80, 0x40
BOUND = 10 * MIB


def frame(opcode: int, payload: bytes, *, bits: int = FIN) -> bytes:
    """Return a frame with a mask of zeros (RFC 6455 § 5.2)."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 65536:
        length = b"\xfe" + size.to_bytes(2, "big")
    else:
        length = b"\xff" + size.to_bytes(8, "big")
    return bytes([bits | opcode]) + length + bytes(4) + payload


def deflated(data: bytes) -> bytes:
    """Return a message as permessage-deflate has it (RFC 7692 § 7.2.1)."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (squeeze.compress(data) + squeeze.flush(zlib.Z_SYNC_FLUSH))[:-4]


BOMB = deflated(bytes(64 * MIB))
LARGE = deflated(bytes(7 * MIB))


async def connect(aim: Aim, *, compressed: bool = False) -> Wire:
    wire = await aim.connect()
    offer = b"Sec-WebSocket-Extensions: permessage-deflate\r\n" if compressed else b""
    await wire.send(
        b"GET /socket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        + offer
        + b"\r\n"
    )
    await wire.until(b"\r\n\r\n")
    return wire


@attack(10, bound=BOUND)
async def ws_over_bound(aim: Aim) -> None:
    """A message of a terabyte, of which 32 MiB come."""
    wire = await connect(aim)
    await wire.send(bytes([FIN | BINARY, 0xFF]) + (1 << 40).to_bytes(8, "big") + bytes(4))
    for _ in range(512):
        await wire.send(bytes(65536))
    await wire.hold()


@attack(10, bound=BOUND)
async def ws_fragments_over_bound(aim: Aim) -> None:
    """A message without end in frames of 64 KiB, of which 32 MiB come."""
    wire = await connect(aim)
    await wire.send(frame(BINARY, b"x", bits=0))
    for _ in range(512):
        await wire.send(frame(CONTINUED, bytes(65536), bits=0))
    await wire.hold()


@attack(10, bound=BOUND)
async def ws_deflate_bomb(aim: Aim) -> None:
    """64 MiB in 64 KiB of deflate."""
    wire = await connect(aim, compressed=True)
    await wire.send(frame(BINARY, BOMB, bits=FIN | COMPRESSED))
    await wire.hold()


@attack(10, bound=BOUND)
async def ws_compressed_fragments(aim: Aim) -> None:
    """7 MiB of deflate in frames of 16 bytes, without the last."""
    pieces = [LARGE[start : start + 16] for start in range(0, len(LARGE), 16)]
    wire = await connect(aim, compressed=True)
    await wire.send(frame(BINARY, pieces[0], bits=COMPRESSED))
    await wire.send(b"".join(frame(CONTINUED, piece, bits=0) for piece in pieces[1:]))
    await wire.hold()


@attack(10, bound=BOUND)
async def ws_tiny_fragments(aim: Aim) -> None:
    """A message in frames of one byte, as fast as they go."""
    wire = await connect(aim)
    await wire.send(frame(TEXT, b"x", bits=0))
    await wire.flood(frame(CONTINUED, b"x", bits=0) * 2000)


@attack(10, bound=BOUND)
async def ws_compressed_messages(aim: Aim) -> None:
    """Messages of 4 MiB in 4 KiB of deflate, one after the other."""
    message = frame(BINARY, deflated(bytes(4 * MIB)), bits=FIN | COMPRESSED)
    wire = await connect(aim, compressed=True)
    await wire.flood(message)


@attack(20)
async def ws_pings(aim: Aim) -> None:
    """Pings, whose answers are never read."""
    wire = await connect(aim)
    await wire.flood(frame(PING, b"x" * 100) * 200, reads=False)
