"""HTTP/2 settings and windows: unknown, extreme, many, and changed while a response is sent."""

import functools

import hpack

from fuzzing.http2 import (
    ACK,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME, MAX_LIST = range(1, 7)
CONNECT_PROTOCOL, NO_PRIORITIES = 8, 9
EXTREMES = (0, 1, 2, 100, 4096, 16383, 16384, 65535, (1 << 24) - 1, 1 << 24, (1 << 31) - 1, 1 << 31)


def setting(key, value):
    """Return one setting (RFC 9113 § 6.5.1)."""
    return key.to_bytes(2, "big") + value.to_bytes(4, "big")


def settings(*pairs):
    """Return a frame of settings."""
    return frame(SETTINGS, 0, 0, b"".join(setting(*pair) for pair in pairs))


def grant(stream, size):
    """Return a frame that opens a window."""
    return frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))


def asked(encoder, stream, path):
    """Return a whole request without a body."""
    fields = [(":method", "GET"), (":path", path), (":scheme", "http"), (":authority", "localhost")]
    return frame(HEADERS, END_HEADERS | END_STREAM, stream, encoder.encode(fields))


def settled(rng):
    """Settings in every state of a connection with one to four requests."""
    encoder = hpack.Encoder()
    parts = [PREFACE, first(rng)]
    for number in range(rng.randint(1, 4)):
        parts += change(rng)
        # Those that fail after a part of the answer or flood are where a window matters.
        parts.append(asked(encoder, 2 * number + 1, rng.choice(("/a", "/g", "/g", "/s", "/k"))))
    for _ in range(rng.randint(0, 4)):
        parts += change(rng)
    return parts


def first(rng):
    """Return the settings that a connection begins with."""
    if rng.random() < 0.5:
        return settings()
    return settings((INITIAL_WINDOW, rng.choice((0, 1, 1000, (1 << 31) - 1))), (ENABLE_PUSH, 0))


@functools.cache
def every_id():
    """Return settings of all ids that nobody knows."""
    ids = range(10, 1 << 16)
    return [settings(*((key, 1) for key in ids[at : at + 2700])) for at in ids[::2700]]


def change(rng):
    """Return frames that change what the server may do."""
    stream = rng.choice((0, 1, 3))
    match rng.randrange(14):
        case 0:
            known = rng.choice((1, 2, 3, 4, 5, 6, 8, 9))
            return [settings((known, rng.choice(EXTREMES)))]
        case 1:  # unknown ones
            ids = rng.sample(range(10, 1 << 16), rng.choice((1, 10, 300)))
            return [settings(*((key, key) for key in ids))]
        case 2:  # the same one, over and over
            return [settings(*[(INITIAL_WINDOW, rng.choice(EXTREMES[:-2]))] * 300)]
        case 3:  # many frames
            return [settings((MAX_STREAMS, rng.choice((0, 100))))] * rng.choice((2, 50, 200))
        case 4:  # a window that is opened, then made smaller than what was used of it
            sizes = rng.choice(((65535, 0, 65535), (1 << 20, 1), (0, 1, 0, 1, 5)))
            return [settings((INITIAL_WINDOW, size)) for size in sizes]
        case 5:  # a window beyond what there is (RFC 9113 § 6.9.1, § 6.9.2)
            return [grant(stream, (1 << 31) - 1), settings((INITIAL_WINDOW, (1 << 31) - 1))]
        case 6:
            return [grant(stream, rng.choice((0, 1, 5, 70000)))] * rng.choice((1, 1, 40))
        case 7:  # the table of headers: none, huge, and back
            sizes = rng.choice(((0,), (0, 4096), ((1 << 32) - 1,), (4096, 0, 100), (1,) * 200))
            return [settings(*((HEADER_TABLE_SIZE, size) for size in sizes))]
        case 8:
            sizes = rng.choice(((16384, (1 << 24) - 1, 16384), (16383,), (1 << 24,), (0,)))
            return [settings((MAX_FRAME, size)) for size in sizes]
        case 9:  # an ACK for which there were no settings, and one with something in it
            return [frame(SETTINGS, ACK, 0, rng.choice((b"", b"", setting(1, 1))))] * 3
        case 10:  # of a length that is none, or on a stream
            return [frame(SETTINGS, 0, rng.choice((0, 1)), bytes(rng.choice((5, 7, 6))))]
        case 11:
            return [settings((rng.choice((ENABLE_PUSH, CONNECT_PROTOCOL)), rng.choice((0, 1, 2))))]
        case 12:
            return [frame(PING, 0, 0, b"12345678"), frame(RST_STREAM, 0, 3, bytes(4))]
        case _:  # each id that there can be, in as many frames as that takes
            if rng.random() < 0.9:
                return []
            return every_id()


def patient(rng):
    """Requests whose windows are opened step by step, each of which has to be answered."""
    encoder = hpack.Encoder()
    start = rng.choice((0, 1, 100))
    parts = [PREFACE, settings((INITIAL_WINDOW, start), *(((0x0A0A, 1),) * rng.choice((0, 30))))]
    count = rng.randint(1, 3)
    parts += [asked(encoder, 2 * one + 1, "/a") for one in range(count)]
    parts.append(settings((HEADER_TABLE_SIZE, rng.choice((0, 100, 1 << 20)))))
    parts += [grant(2 * one + 1, 50) for one in range(count)]
    return parts, count
