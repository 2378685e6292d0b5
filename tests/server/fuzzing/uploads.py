"""Uploads: bodies that are short, long, slow, odd, unwanted, or framed in two ways.

What has to be refused goes to the path ``/hidden``. No application may be asked for that.
"""

import hpack

from fuzzing.conversation import Pause, Read, sends
from fuzzing.http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PADDED,
    PREFACE,
    RST_STREAM,
    WINDOW_UPDATE,
    frame,
)
from fuzzing.settings import INITIAL_WINDOW, settings

PATHS = ("/r", "/r", "/e", "/a", "/i", "/b", "/f", "/d", "/n", "/q", "/k", "/t")
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"


def head(path, *fields, method="POST"):
    """Return the head of a request."""
    lines = (f"{method} {path} HTTP/1.1", "Host: localhost", *fields, "", "")
    return "\r\n".join(lines).encode("latin-1")


def chunk(rng, data):
    """Return a chunk whose size is written in one of the ways that RFC 9112 § 7.1 allows."""
    size = f"{len(data):x}"
    size = rng.choice((size, size.upper(), "000" + size))
    size += rng.choice(("", "", ";a", ";a=b", ';a="b;c"', "; a = b", ";" + "x" * 500))
    return f"{size}\r\n".encode() + data + b"\r\n"


def chunked(rng):
    """Return a body in chunks, and its end."""
    sizes = [rng.choice((1, 1, 15, 16, 255, 4096, 20000)) for _ in range(rng.randint(0, 6))]
    end = rng.choice((b"0\r\n\r\n", b"0\r\n\r\n", b"000;x\r\n\r\n", b"0\r\nA: b\r\nC: d\r\n\r\n"))
    return [chunk(rng, rng.randbytes(size)) for size in sizes] + [end]


def upload(rng):
    """Return the steps of one or two uploads over HTTP/1.1 that are as they should be."""
    steps, count = [], rng.randint(1, 2)
    for _ in range(count):
        # Those that read to the end, or answer at once, leave the connection to the next.
        path = rng.choice(("/r", "/e", "/r", "/k", "/t"))
        fields = ["Expect: 100-continue"] if rng.random() < 0.3 else []
        if rng.random() < 0.5:
            size = rng.choice((0, 1, 100, 5000, 70000))
            body = [rng.randbytes(size)]
            fields.append(f"Content-Length: {size}")
        else:
            body = chunked(rng)
            fields.append(rng.choice(("Transfer-Encoding: chunked", "transfer-encoding:CHUNKED")))
        steps += sends(head(path, *fields, method=rng.choice(("POST", "PUT", "PATCH"))))
        if len(fields) == 2 and rng.random() < 0.7:
            steps.append(Read())
        for part in body:
            steps += sends(part)
            if rng.random() < 0.2:
                steps.append(rng.choice((Read(), Pause(1))))
    return steps, count


def odd_upload(rng):
    """Return the steps of an upload over HTTP/1.1 that is not as it should be."""
    path = rng.choice(PATHS)
    data = rng.randbytes(rng.choice((0, 10, 5000)))
    match rng.randrange(10):
        case 0:  # less than was announced, and then nothing, or the end
            return sends(head(path, f"Content-Length: {len(data) + rng.choice((1, 10**9))}"), data)
        case 1:  # more than was announced
            return sends(head(path, f"Content-Length: {len(data) // 2}"), data)
        case 2:  # byte by byte, slower than anybody needs
            steps = [*sends(head(path, "Content-Length: 1000"))]
            for byte in data[:40]:
                steps += [*sends(bytes((byte,))), Pause(rng.choice((0.1, 1, 3)))]
            return steps
        case 3:  # never asked to go on
            return [*sends(head(path, "Content-Length: 5", "Expect: 100-continue")), Read()]
        case 4:
            return sends(head(path, "Content-Length: 5", "Expect: 200-maybe"), b"hello")
        case 5:  # behind the answer
            late = [*sends(head(rng.choice(("/a", "/i", "/f")), "Content-Length: 100000")), Read()]
            return [*late, *sends(*[bytes(10000)] * rng.randint(1, 11)), Read(), *sends(HEAD_A)]
        case 6:  # chunks that are never ended
            return sends(head(path, "Transfer-Encoding: chunked"), *chunked(rng)[:-1])
        case 7:  # sizes that are none
            size = rng.choice((b"0x5", b"-5", b"+5", b"5 ", b" 5", b"g", b"", b"F" * 17, b"5\t"))
            body = size + b"\r\nhello\r\n0\r\n\r\n"
            return sends(head(path, "Transfer-Encoding: chunked"), body)
        case 8:  # trailers without end
            parts = [b"T: " + b"x" * 1000 + b"\r\n"] * rng.choice((1, 30, 200))
            return sends(head(path, "Transfer-Encoding: chunked"), b"0\r\n", *parts)
        case _:  # many tiny chunks
            return sends(head(path, "Transfer-Encoding: chunked"), b"1\r\nx\r\n" * 5000)


HEAD_A = head("/a", method="GET")
REFUSED = (
    # Two framings, or one that is none: another reader sees another request in it.
    ("Content-Length: 4", "Transfer-Encoding: chunked"),
    ("Transfer-Encoding: chunked", "Content-Length: 4"),
    ("Content-Length: 5", "Content-Length: 5"),
    ("Content-Length: 5", "Content-Length: 6"),
    ("Content-Length: 5, 5",),
    ("Content-Length: +5",),
    ("Content-Length: 0x5",),
    ("Content-Length: -5",),
    ("Content-Length: 5\x0b",),
    ("Content-Length : 5",),
    ("Content-Length:\r\n 5",),
    ("Transfer-Encoding: xchunked",),
    ("Transfer-Encoding: chunked, identity",),
    ("Transfer-Encoding: chunked, chunked",),
    ("Transfer-Encoding:\x0bchunked",),
    ("Transfer-Encoding : chunked",),
    ("Transfer-Encoding: chunked\r\n ,identity",),
    ("X: 1\r\n Transfer-Encoding: chunked",),
    ("X: 1\rTransfer-Encoding: chunked",),
    ("X: 1\0",),
    (" X: 1",),
    ("Host: elsewhere",),
    ("X\x00: 1",),
)
# What makes the size of a chunk, or what follows it, another one to another reader.
SPLIT = (
    b"5;\rx\r\nhello\r\n0\r\n\r\n",
    b"5\rx\r\nhello\r\n0\r\n\r\n",
    b"5;a=\r\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhelloX0\r\n\r\n",
    b"5\r\nhello\r0\r\n\r\n",
    b"0\r\nX: 1\r\n Y: 2\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
)


def smuggled(rng):
    """Return the steps of a request with another one hidden in it, which nobody may answer."""
    behind = rng.choice((b"0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"")) + HIDDEN
    if rng.random() < 0.5:
        return sends(head("/hidden", *rng.choice(REFUSED)), behind)
    return sends(head("/r", "Transfer-Encoding: chunked"), rng.choice(SPLIT) + HIDDEN)


# -- HTTP/2 ------------------------------------------------------------------------------------


def opened(encoder, stream, path, *fields, method="POST"):
    """Return the head of an upload."""
    head = [(":method", method), (":path", path), (":scheme", "http"), (":authority", "localhost")]
    return frame(HEADERS, END_HEADERS, stream, encoder.encode([*head, *fields]))


def data(stream, payload=b"", *, end=False, padding=None):
    """Return a frame of data, padded perhaps."""
    flags = END_STREAM if end else 0
    if padding is not None:
        flags |= PADDED
        payload = bytes((padding,)) + payload + bytes(padding)
    return frame(DATA, flags, stream, payload)


def upload_http2(rng):
    """Return the parts of some uploads over HTTP/2 that are as they should be, and how many."""
    encoder, count = hpack.Encoder(), rng.randint(1, 4)
    parts = [PREFACE + settings()]
    bodies = []
    for number in range(count):
        stream = 2 * number + 1
        sizes = [rng.choice((0, 1, 100, 4000)) for _ in range(rng.randint(0, 4))]
        fields = [("content-length", str(sum(sizes)))] if rng.random() < 0.5 else []
        if rng.random() < 0.2:
            fields.append(("expect", "100-continue"))
        parts.append(opened(encoder, stream, rng.choice(("/r", "/e", "/a", "/i", "/k")), *fields))
        padding = rng.choice((None, None, 0, 255))
        body = [data(stream, bytes(size), padding=padding) for size in sizes]
        bodies.append([*body, data(stream, end=True)])
    while bodies:  # one after the other, or mixed
        body = bodies[0 if rng.random() < 0.5 else rng.randrange(len(bodies))]
        parts.append(body.pop(0))
        bodies = [one for one in bodies if one]
    return parts, count


def odd_upload_http2(rng):
    """Return the parts of an upload over HTTP/2 that is not as it should be."""
    encoder = hpack.Encoder()
    path = rng.choice(PATHS)
    parts = [PREFACE + settings(), opened(encoder, 1, path)]
    match rng.randrange(12):
        case 0:  # over the window
            return [*parts, *[data(1, bytes(16384))] * rng.choice((3, 4, 5, 9))]
        case 1:  # behind the end
            return [*parts, data(1, b"x", end=True), data(1, b"late"), data(1, end=True)]
        case 2:  # not as long as was said
            length = rng.choice(("0", "3", "100", "x", "-1", "5, 5"))
            parts = [PREFACE + settings(), opened(encoder, 1, path, ("content-length", length))]
            return [*parts, data(1, b"hello", end=True)]
        case 3:  # nothing, over and over
            return [*parts, *[data(1)] * rng.choice((10, 2000))]
        case 4:  # padding alone, or more of it than there is
            wrong = frame(DATA, PADDED, 1, b"\xff" + bytes(rng.choice((0, 10, 254))))
            return [*parts, *[data(1, padding=255)] * rng.choice((1, 300)), wrong]
        case 5:  # where there is no stream
            return [*parts, data(rng.choice((0, 2, 3, 99)), b"x")]
        case 6:  # many that nobody reads
            streams = range(3, 2 * rng.choice((5, 50, 120)) + 1, 2)
            parts += [opened(encoder, stream, rng.choice(("/d", "/i"))) for stream in streams]
            sizes = rng.choice((1, 500, 16384))
            return [*parts, *(data(stream, bytes(sizes)) for stream in streams)]
        case 7:  # trailers, right or wrong
            field = rng.choice((("x", "y"), (":path", "/hidden"), ("Upper", "x"), ("te", "gzip")))
            flags = END_HEADERS | rng.choice((0, END_STREAM, END_STREAM))
            return [*parts, data(1, b"x"), frame(HEADERS, flags, 1, encoder.encode([field]))]
        case 8:  # reset in the middle, and more
            return [*parts, data(1, b"x"), frame(RST_STREAM, 0, 1, b"\0\0\0\x08"), data(1, b"y")]
        case 9:  # a body with a request that has ended
            fields = [(":method", "GET"), (":path", path), (":scheme", "http")]
            block = encoder.encode([*fields, (":authority", "localhost")])
            return [PREFACE + settings(), frame(HEADERS, 5, 1, block), data(1, b"x")]
        case 10:  # with the windows of the answer closed
            start = settings((INITIAL_WINDOW, 0))
            parts[0] = PREFACE + start
            update = frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1")
            return [*parts, *[data(1, bytes(5000)), update] * rng.randint(1, 12)]
        case _:  # a frame that is longer than may be
            return [*parts, data(1, bytes(rng.choice((16385, 100000))))]
