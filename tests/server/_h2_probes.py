"""What a client may send over HTTP/2 that is odd or wrong, and what is to come of it.

The cases and their numbers are those of h2spec 2.6. Its clauses are those of RFC 7540; `clause` is
the one of RFC 9113, or of RFC 7541 (HPACK). The frames are made here by hand: libraries refuse to
write most of them.

What comes of a case is one of these, where stream 1 is meant unless it says another:

* ``"200"``: the stream is answered, and the connection serves on.
* ``"ignored"``: nothing comes of it, and the connection serves on.
* ``"data 1"``: the stream gets one DATA frame of this length, and the connection serves on.
* ``"stream PROTOCOL_ERROR"``: the stream is reset, and the connection serves on.
* ``"connection PROTOCOL_ERROR"``: GOAWAY, and the end of the connection.
* ``"closed"``: the end of the connection, without a word.
"""

import struct
from typing import NamedTuple

import hpack
from fuzzing.http2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    frame,
)
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

# What a client waits for before it goes on.
ACKED, DATA_CAME, ENDED = "its settings are acknowledged", "data on stream 1", "stream 1 has ended"


class Probe(NamedTuple):
    """One case."""

    number: str
    """As h2spec has it."""
    name: str
    clause: str
    """Of RFC 9113, or with a letter of RFC 7541."""
    send: tuple
    """Bytes, behind the preface and settings, and what is waited for between them."""
    asked: str
    """What is to come of it; several, with "or" between them."""
    ours: str = ""
    """What does, if several are allowed or if it is something else."""
    why: str = ""
    """Why something else does."""
    stream: int = 1
    """What is looked at."""

    @property
    def allowed(self):
        """Each of what was asked."""
        return self.asked.split(" or ")

    @property
    def expected(self):
        """What comes of it here."""
        return self.ours or self.asked


# -- frames ------------------------------------------------------------------------------

OPEN, WHOLE = END_HEADERS, END_HEADERS | END_STREAM


def fields(*more, method="GET", path="/", scheme="http"):
    """Return the fields of a request; what is None is left out."""
    pseudo = {":method": method, ":path": path, ":scheme": scheme, ":authority": "x"}
    return [*((name, value) for name, value in pseudo.items() if value is not None), *more]


def block(given):
    """Return a header block. It refers to nothing that was sent before."""
    return hpack.Encoder().encode(given)


def headers(flags=WHOLE, stream=1, given=None, *, before=b"", behind=b""):
    """Return a HEADERS frame, with a request in it unless it says otherwise."""
    return frame(
        HEADERS, flags, stream, before + block(fields() if given is None else given) + behind
    )


def coded(*more):
    """Return a request whose header block ends with these bytes."""
    return (headers(behind=b"".join(more)),)


def upload(*more):
    """Return a request that a body follows."""
    return headers(OPEN, given=fields(*more, method="POST"))


def data(text=b"test", flags=END_STREAM, stream=1):
    return frame(DATA, flags, stream, text)


def continuation(flags=END_HEADERS, stream=1, name="x-dummy"):
    return frame(CONTINUATION, flags, stream, block([(name, "some")]))


def dependency(on, weight=255, exclusive=False):
    return struct.pack("!IB", on | exclusive << 31, weight)


def priority(on=0, *, stream=1, **how):
    return frame(PRIORITY, 0, stream, dependency(on, **how))


def number(value):
    return struct.pack("!I", value)


def reset(stream=1, code=8):
    return frame(RST_STREAM, 0, stream, number(code))


def window(increment, stream=1):
    return frame(WINDOW_UPDATE, 0, stream, number(increment))


def settings(*pairs):
    return frame(SETTINGS, 0, 0, b"".join(struct.pack("!HI", *pair) for pair in pairs))


def huffman(*symbols, padding="1"):
    """Return these symbols in HPACK's Huffman code, as a string with its length."""
    bits = "".join(f"{REQUEST_CODES[one]:0{REQUEST_CODES_LENGTH[one]}b}" for one in symbols)
    bits += padding * (-len(bits) % 8)
    octets = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return bytes([0x80 | len(octets)]) + octets


def plain(text):
    return bytes([len(text)]) + text


INDEXED, UNINDEXED, NEVER = b"\x40", b"\x00", b"\x10"
EOS = 256
LONG_AGENT, LONG_NAME = plain(b"user-agent") + plain(b"a"), plain(b"x-test") + plain(b"a")
CODED_AGENT = huffman(*b"user-agent") + huffman(*b"a")
CODED_NAME = huffman(*b"x-test") + huffman(*b"a")
EIGHT = b"12345678"
UNKNOWN = frame(22, 0, 0, bytes(8))
# The settings' ids.
TABLE_SIZE, PUSH, STREAMS, WINDOW, FRAME_SIZE, LIST_SIZE = range(1, 7)
LARGEST = 16384  # the frame that has to be taken
# An application that does not answer: the stream stays as it is.
SILENT = headers(given=fields(path="/silent"))
BEGUN = headers(END_STREAM)  # a header block that is not ended

PROTOCOL = "connection PROTOCOL_ERROR"
COMPRESSION = "connection COMPRESSION_ERROR"
SIZE = "connection FRAME_SIZE_ERROR"
FLOW = "connection FLOW_CONTROL_ERROR"
CLOSED = "connection STREAM_CLOSED"
BAD_STREAM = "stream PROTOCOL_ERROR"
STREAM_CLOSED = "stream STREAM_CLOSED"

CODE = "h2 ends the connection with another code"
H2 = "h2 ends the connection, as § 5.4.1 allows for any error of a stream"


# -- the table ---------------------------------------------------------------------------

# As h2spec has it, RFC 7540 § 3.5; over TLS, since in the clear it is a bad request of HTTP/1.1.
BAD_PREFACE = Probe(
    "http2/3.5/2",
    "no preface",
    "3.4",
    (b"INVALID CONNECTION PREFACE\r\n\r\n",),
    f"{PROTOCOL} or closed",
    "closed",
)

GENERIC = [
    Probe("generic/1/1", "the preface", "3.4", (), "ignored"),
    Probe("generic/2/1", "PRIORITY for an idle stream", "5.1", (priority(),), "ignored"),
    Probe("generic/2/2", "a window for an ended request", "5.1",
          (settings((WINDOW, 0)), headers(), window(1)), "data 1"),
    Probe("generic/2/3", "PRIORITY for an ended request", "5.1",
          (settings((WINDOW, 0)), headers(), priority(), window(1)), "data 1"),
    Probe("generic/2/4", "RST_STREAM for an ended request", "5.1", (SILENT, reset()), "ignored"),
    Probe("generic/2/5", "PRIORITY for a closed stream", "5.1",
          (headers(), ENDED, priority()), "200"),
    Probe("generic/3.1/1", "DATA", "6.1", (upload(), data()), "200"),
    Probe("generic/3.1/2", "several DATA", "6.1", (upload(), data(flags=0), data()), "200"),
    Probe("generic/3.1/3", "padded DATA", "6.1",
          (upload(), data(b"\x05test" + bytes(5), END_STREAM | PADDED)), "200"),
    Probe("generic/3.2/1", "HEADERS", "6.2", (headers(),), "200"),
    Probe("generic/3.2/2", "padded HEADERS", "6.2",
          (headers(WHOLE | PADDED, before=b"\x05", behind=bytes(5)),), "200"),
    Probe("generic/3.2/3", "HEADERS with a priority", "6.2",
          (headers(WHOLE | WITH_PRIORITY, before=dependency(0)),), "200"),
    Probe("generic/3.3/1", "a weight of 1", "6.3", (priority(weight=0), headers()), "200"),
    Probe("generic/3.3/2", "a weight of 256", "6.3", (priority(weight=255), headers()), "200"),
    Probe("generic/3.3/3", "a dependency", "6.3", (priority(1, stream=3), headers()), "200"),
    Probe("generic/3.3/4", "an exclusive one", "6.3", (priority(exclusive=True), headers()), "200"),
    Probe("generic/3.3/5", "PRIORITY for a later stream", "5.1.1",
          (priority(stream=3), headers()), "200"),
    Probe("generic/3.4/1", "RST_STREAM", "6.4", (SILENT, reset()), "ignored"),
    Probe("generic/3.5/1", "every setting", "6.5",
          (settings((TABLE_SIZE, 4096), (PUSH, 0), (STREAMS, 100), (WINDOW, 65535),
                    (FRAME_SIZE, 16384), (LIST_SIZE, 100)),), "ignored"),
    Probe("generic/3.7/1", "PING", "6.7", (frame(PING, 0, 0, EIGHT),), "ignored"),
    Probe("generic/3.8/1", "GOAWAY", "6.8", (frame(GOAWAY, 0, 0, bytes(8)),), "ignored or closed",
          "closed"),
    Probe("generic/3.9/1", "a window for the connection", "6.9", (window(1, 0),), "ignored"),
    Probe("generic/3.9/2", "a window for a stream", "6.9", (headers(), window(1)), "200"),
    Probe("generic/3.10/1", "CONTINUATION", "6.10", (BEGUN, continuation()), "200"),
    Probe("generic/3.10/2", "two of them", "6.10",
          (BEGUN, continuation(0), continuation()), "200"),
    Probe("generic/4/1", "GET", "8.1", (headers(),), "200"),
    Probe("generic/4/2", "HEAD", "8.1", (headers(given=fields(method="HEAD")),), "200"),
    Probe("generic/4/3", "POST", "8.1", (upload(), data()), "200"),
    Probe("generic/4/4", "trailers", "8.1",
          (upload(("trailer", "x-test")), data(flags=0), headers(given=[("x-test", "ok")])), "200"),
    Probe("generic/5/1", "an indexed field", "R 6.1", coded(b"\xba"), "200"),
    Probe("generic/5/2", "indexed from here on, by a known name, in Huffman's code", "R 6.2.1",
          coded(INDEXED, CODED_AGENT), "200"),
    Probe("generic/5/3", "indexed from here on, by a known name", "R 6.2.1",
          coded(INDEXED, LONG_AGENT), "200"),
    Probe("generic/5/4", "indexed from here on, by a new name", "R 6.2.1",
          coded(INDEXED, LONG_NAME), "200"),
    Probe("generic/5/5", "indexed from here on, by a new name, in Huffman's code", "R 6.2.1",
          coded(INDEXED, CODED_NAME), "200"),
    Probe("generic/5/6", "not indexed, by a known name", "R 6.2.2",
          coded(UNINDEXED, LONG_AGENT), "200"),
    Probe("generic/5/7", "not indexed, by a known name, in Huffman's code", "R 6.2.2",
          coded(UNINDEXED, CODED_AGENT), "200"),
    Probe("generic/5/8", "not indexed, by a new name", "R 6.2.2",
          coded(UNINDEXED, LONG_NAME), "200"),
    Probe("generic/5/9", "not indexed, by a new name, in Huffman's code", "R 6.2.2",
          coded(UNINDEXED, CODED_NAME), "200"),
    Probe("generic/5/10", "never indexed, by a known name", "R 6.2.3",
          coded(NEVER, LONG_AGENT), "200"),
    Probe("generic/5/11", "never indexed, by a known name, in Huffman's code", "R 6.2.3",
          coded(NEVER, CODED_AGENT), "200"),
    Probe("generic/5/12", "never indexed, by a new name", "R 6.2.3",
          coded(NEVER, LONG_NAME), "200"),
    Probe("generic/5/13", "never indexed, by a new name, in Huffman's code", "R 6.2.3",
          coded(NEVER, CODED_NAME), "200"),
    Probe("generic/5/14", "another size of the table", "R 6.3",
          (headers(before=b"\x3f\x61"),), "200"),
    Probe("generic/5/15", "two of them", "R 4.2",
          (headers(before=b"\x3f\x61\x3f\xe1\x1f"),), "200"),
]  # fmt: skip

CASES = [
    # Section 3, 4: how it begins, and frames
    Probe("http2/3.5/1", "the preface, which the server's own answers", "3.4", (), "ignored"),
    BAD_PREFACE,
    Probe("http2/4.1/1", "a frame of an unknown type", "4.1", (UNKNOWN,), "ignored"),
    Probe("http2/4.1/2", "undefined flags", "4.1", (frame(PING, 0x16, 0, bytes(8)),), "ignored"),
    Probe("http2/4.1/3", "the reserved bit", "4.1",
          (frame(PING, 0x16, 1 << 31, bytes(8)),), "ignored"),
    Probe("http2/4.2/1", "DATA of the largest size", "4.2",
          (upload(), data(bytes(LARGEST))), "200"),
    Probe("http2/4.2/2", "DATA beyond it", "4.2", (upload(), data(bytes(LARGEST + 1))),
          "stream FRAME_SIZE_ERROR", SIZE, H2),
    Probe("http2/4.2/3", "HEADERS beyond it", "4.2",
          (headers(given=fields(*[(f"x-{n}", "\xb5" * 2000) for n in range(10)])),), SIZE),
    Probe("http2/4.3/1", "a header block that breaks off", "4.3",
          (frame(HEADERS, WHOLE, 1, INDEXED),), COMPRESSION),
    Probe("http2/4.3/2", "PRIORITY in a header block", "4.3",
          (BEGUN, priority(), continuation()), PROTOCOL),
    Probe("http2/4.3/3", "HEADERS of another stream in a header block", "4.3",
          (BEGUN, headers(stream=3), continuation()), PROTOCOL),
    # Section 5: streams
    Probe("http2/5.1/1", "idle: DATA", "5.1", (data(),), PROTOCOL),
    Probe("http2/5.1/2", "idle: RST_STREAM", "5.1", (reset(),), PROTOCOL),
    Probe("http2/5.1/3", "idle: a window", "5.1", (window(100),), PROTOCOL),
    Probe("http2/5.1/4", "idle: CONTINUATION", "5.1", (continuation(),), PROTOCOL),
    Probe("http2/5.1/5", "half-closed: DATA", "5.1", (SILENT, data()), STREAM_CLOSED),
    Probe("http2/5.1/6", "half-closed: HEADERS", "5.1", (SILENT, headers()), STREAM_CLOSED),
    Probe("http2/5.1/7", "half-closed: CONTINUATION", "5.1", (SILENT, continuation()),
          f"{STREAM_CLOSED} or {PROTOCOL}", PROTOCOL),
    Probe("http2/5.1/8", "closed by RST_STREAM: DATA", "5.1",
          (SILENT, reset(), data()), STREAM_CLOSED),
    Probe("http2/5.1/9", "closed by RST_STREAM: HEADERS", "5.1",
          (SILENT, reset(), headers()), STREAM_CLOSED),
    Probe("http2/5.1/10", "closed by RST_STREAM: CONTINUATION", "5.1",
          (SILENT, reset(), continuation()), f"{STREAM_CLOSED} or {PROTOCOL}", PROTOCOL),
    Probe("http2/5.1/11", "closed: DATA", "5.1",
          (headers(), ENDED, data()), f"{STREAM_CLOSED} or {CLOSED}", STREAM_CLOSED),
    Probe("http2/5.1/12", "closed: HEADERS", "5.1", (headers(), ENDED, headers()), CLOSED),
    Probe("http2/5.1/13", "closed: CONTINUATION", "5.1",
          (headers(), ENDED, continuation()), f"{CLOSED} or {PROTOCOL}", PROTOCOL),
    Probe("http2/5.1.1/1", "an even number", "5.1.1", (headers(stream=2),), PROTOCOL),
    Probe("http2/5.1.1/2", "a number lower than one before", "5.1.1",
          (headers(stream=5), headers(stream=3)), PROTOCOL),
    Probe("http2/5.1.2/1", "more streams than are allowed", "5.1.2",
          tuple(headers(stream=n, given=fields(path="/silent")) for n in range(1, 203, 2)),
          f"{BAD_STREAM} or stream REFUSED_STREAM", "stream REFUSED_STREAM", stream=201),
    Probe("http2/5.3.1/1", "HEADERS that depend on themselves", "5.3.1",
          (headers(WHOLE | WITH_PRIORITY, before=dependency(1)),), BAD_STREAM),
    Probe("http2/5.3.1/2", "PRIORITY that depends on itself", "5.3.1",
          (priority(1),), BAD_STREAM, PROTOCOL, H2),
    Probe("http2/5.4.1/1", "an error of the connection", "5.4.1",
          (frame(PING, 0, 3, bytes(8)),), PROTOCOL),
    Probe("http2/5.4.1/2", "GOAWAY comes first", "5.4.1", (frame(PING, 0, 3, bytes(8)),), PROTOCOL),
    Probe("http2/5.5/1", "an extension's frame", "5.5", (UNKNOWN,), "ignored"),
    Probe("http2/5.5/2", "an extension's frame in a header block", "5.5",
          (BEGUN, UNKNOWN), PROTOCOL),
    # Section 6: the types of frames
    Probe("http2/6.1/1", "DATA on stream 0", "6.1", (data(stream=0),), PROTOCOL),
    Probe("http2/6.1/2", "DATA on a stream that is ended", "6.1", (SILENT, data()), STREAM_CLOSED),
    Probe("http2/6.1/3", "padding as long as the frame", "6.1",
          (upload(("content-length", "4")), data(b"\x06test", END_STREAM | PADDED)), PROTOCOL),
    Probe("http2/6.2/1", "PRIORITY before the end of HEADERS", "6.2",
          (BEGUN, priority(), continuation()), PROTOCOL),
    Probe("http2/6.2/2", "another stream before the end of HEADERS", "6.2",
          (BEGUN, headers(stream=3), continuation()), PROTOCOL),
    Probe("http2/6.2/3", "HEADERS on stream 0", "6.2", (headers(stream=0),), PROTOCOL),
    Probe("http2/6.2/4", "padding longer than the frame", "6.2",
          (headers(WHOLE | PADDED, before=b"\xff"),), PROTOCOL),
    Probe("http2/6.3/1", "PRIORITY on stream 0", "6.3", (priority(stream=0),), PROTOCOL),
    Probe("http2/6.3/2", "PRIORITY of a wrong length", "6.3",
          (SILENT, frame(PRIORITY, 0, 1, b"\x80\0\0\1")), "stream FRAME_SIZE_ERROR", SIZE, H2),
    Probe("http2/6.4/1", "RST_STREAM on stream 0", "6.4", (reset(0),), PROTOCOL),
    Probe("http2/6.4/2", "RST_STREAM on an idle stream", "6.4", (reset(),), PROTOCOL),
    Probe("http2/6.4/3", "RST_STREAM of a wrong length", "6.4",
          (SILENT, frame(RST_STREAM, 0, 1, bytes(3))), SIZE),
    Probe("http2/6.5/1", "an acknowledgement with settings", "6.5",
          (frame(SETTINGS, ACK, 0, b"\0"),), SIZE, PROTOCOL, CODE),
    Probe("http2/6.5/2", "settings on a stream", "6.5",
          (frame(SETTINGS, 0, 1, b"\0\3\0\0\0\x64"),), PROTOCOL),
    Probe("http2/6.5/3", "settings of a wrong length", "6.5",
          (frame(SETTINGS, 0, 0, b"\0\3\0"),), SIZE),
    Probe("http2/6.5.2/1", "ENABLE_PUSH of 2", "6.5.2", (settings((PUSH, 2)),), PROTOCOL),
    Probe("http2/6.5.2/2", "INITIAL_WINDOW_SIZE of 2^31", "6.5.2",
          (settings((WINDOW, 1 << 31)),), FLOW),
    Probe("http2/6.5.2/3", "MAX_FRAME_SIZE of 16383", "6.5.2",
          (settings((FRAME_SIZE, 16383)),), PROTOCOL),
    Probe("http2/6.5.2/4", "MAX_FRAME_SIZE of 2^24", "6.5.2",
          (settings((FRAME_SIZE, 1 << 24)),), PROTOCOL),
    Probe("http2/6.5.2/5", "an unknown setting", "6.5.2", (settings((255, 1)),), "ignored"),
    Probe("http2/6.5.3/1", "a setting twice", "6.5.3",
          (settings((WINDOW, 100), (WINDOW, 1)), ACKED, headers()), "data 1"),
    Probe("http2/6.5.3/2", "settings are acknowledged", "6.5.3",
          (settings((PUSH, 0)), ACKED), "ignored"),
    Probe("http2/6.7/1", "PING", "6.7", (frame(PING, 0, 0, EIGHT),), "ignored"),
    Probe("http2/6.7/2", "an acknowledgement of none", "6.7",
          (frame(PING, ACK, 0, EIGHT),), "ignored"),
    Probe("http2/6.7/3", "PING on a stream", "6.7", (frame(PING, 0, 1, bytes(8)),), PROTOCOL),
    Probe("http2/6.7/4", "PING of a wrong length", "6.7", (frame(PING, 0, 0, bytes(6)),), SIZE),
    Probe("http2/6.8/1", "GOAWAY on a stream", "6.8", (frame(GOAWAY, 0, 1, bytes(8)),), PROTOCOL),
    Probe("http2/6.9/1", "a window of 0 more for the connection", "6.9", (window(0, 0),), PROTOCOL),
    Probe("http2/6.9/2", "a window of 0 more for a stream", "6.9",
          (SILENT, window(0)), BAD_STREAM, PROTOCOL, H2),
    Probe("http2/6.9/3", "a window's frame of a wrong length", "6.9",
          (frame(WINDOW_UPDATE, 0, 0, b"\0\0\1"),), SIZE),
    Probe("http2/6.9.1/1", "a window of 1", "6.9.1",
          (settings((WINDOW, 1)), ACKED, headers()), "data 1"),
    Probe("http2/6.9.1/2", "a window beyond 2^31", "6.9.1",
          (window((1 << 31) - 1, 0), window((1 << 31) - 1, 0)), FLOW),
    Probe("http2/6.9.1/3", "a stream's window beyond 2^31", "6.9.1",
          (upload(), window((1 << 31) - 1), window((1 << 31) - 1)), "stream FLOW_CONTROL_ERROR"),
    Probe("http2/6.9.2/1", "the windows of open streams grow", "6.9.2",
          (settings((WINDOW, 0)), ACKED, headers(), settings((WINDOW, 1))), "data 1"),
    Probe("http2/6.9.2/2", "a window below 0", "6.9.2",
          (settings((WINDOW, 3)), ACKED, headers(), DATA_CAME, settings((WINDOW, 2)), ACKED,
           window(2)), "data 3 1"),
    Probe("http2/6.9.2/3", "INITIAL_WINDOW_SIZE beyond 2^31", "6.9.2",
          (settings((WINDOW, 1 << 31)),), FLOW),
    Probe("http2/6.10/1", "several CONTINUATION", "6.10",
          (BEGUN, continuation(0), continuation(name="x-more")), "200"),
    Probe("http2/6.10/2", "DATA before the last of them", "6.10",
          (BEGUN, continuation(0), data()), PROTOCOL),
    Probe("http2/6.10/3", "CONTINUATION on stream 0", "6.10",
          (BEGUN, continuation(stream=0)), PROTOCOL),
    Probe("http2/6.10/4", "CONTINUATION behind a whole HEADERS", "6.10",
          (SILENT, continuation()), PROTOCOL),
    Probe("http2/6.10/5", "CONTINUATION behind the last one", "6.10",
          (BEGUN, continuation(), continuation()), PROTOCOL),
    Probe("http2/6.10/6", "CONTINUATION behind DATA", "6.10",
          (headers(0, given=fields(method="POST")), data(), continuation()), PROTOCOL),
    # Section 7: codes of errors
    Probe("http2/7/1", "GOAWAY for an unknown reason", "7",
          (frame(GOAWAY, 0, 0, number(0) + number(255)),), "ignored or closed", "closed"),
    Probe("http2/7/2", "RST_STREAM for an unknown reason", "7",
          (upload(), reset(code=255)), "ignored"),
    # Section 8: requests
    Probe("http2/8.1/1", "trailers without an end", "8.1",
          (upload(), data(flags=0), headers(OPEN, given=[("x-test", "ok")])),
          BAD_STREAM),
    Probe("http2/8.1.2/1", "a name in capitals", "8.2.1",
          (headers(given=fields(("X-TEST", "ok"))),), BAD_STREAM),
    Probe("http2/8.1.2.1/1", "an unknown pseudo-header", "8.3",
          (headers(given=fields((":test", "ok"))),), BAD_STREAM),
    Probe("http2/8.1.2.1/2", "a response's pseudo-header", "8.3",
          (headers(given=fields((":status", "200"))),), BAD_STREAM),
    Probe("http2/8.1.2.1/3", "a pseudo-header among trailers", "8.1",
          (upload(), data(flags=0), headers(given=[(":method", "POST")])),
          BAD_STREAM),
    Probe("http2/8.1.2.1/4", "a pseudo-header behind a header", "8.3",
          (headers(given=[("x-test", "ok"), *fields()]),), BAD_STREAM),
    Probe("http2/8.1.2.2/1", "connection", "8.2.2",
          (headers(given=fields(("connection", "keep-alive"))),), BAD_STREAM),
    Probe("http2/8.1.2.2/2", "te other than trailers", "8.2.2",
          (headers(given=fields(("trailers", "test"), ("te", "trailers, deflate"))),),
          BAD_STREAM),
    Probe("http2/8.1.2.3/1", "an empty path", "8.3.1",
          (headers(given=fields(path="")),), BAD_STREAM),
    Probe("http2/8.1.2.3/2", "no method", "8.3.1",
          (headers(given=fields(method=None)),), BAD_STREAM),
    Probe("http2/8.1.2.3/3", "no scheme", "8.3.1",
          (headers(given=fields(scheme=None)),), BAD_STREAM),
    Probe("http2/8.1.2.3/4", "no path", "8.3.1",
          (headers(given=fields(path=None)),), BAD_STREAM),
    Probe("http2/8.1.2.3/5", "a method twice", "8.3.1",
          (headers(given=[*fields()[:1], *fields()]),), BAD_STREAM),
    Probe("http2/8.1.2.3/6", "a scheme twice", "8.3.1",
          (headers(given=[*fields(), (":scheme", "http")]),), BAD_STREAM),
    Probe("http2/8.1.2.3/7", "a path twice", "8.3.1",
          (headers(given=[*fields(), (":path", "/")]),), BAD_STREAM),
    Probe("http2/8.1.2.6/1", "more data than was announced", "8.1.1",
          (upload(("content-length", "1")), data()), BAD_STREAM),
    Probe("http2/8.1.2.6/2", "more data than was announced, in several frames", "8.1.1",
          (upload(("content-length", "1")), data(flags=0), data()), BAD_STREAM),
    Probe("http2/8.2/1", "a client that pushes", "8.4",
          (frame(PUSH_PROMISE, END_HEADERS, 1, number(2) + block(fields())),), PROTOCOL),
]  # fmt: skip

HPACK = [
    Probe("hpack/2.3.3/1", "an index beyond both tables", "R 2.3.3", coded(b"\xc6"), COMPRESSION),
    Probe("hpack/2.3.3/2", "a name's index beyond both tables", "R 2.3.3",
          coded(b"\x7f\x07\0"), COMPRESSION),
    Probe("hpack/4.2/1", "a size of the table at the end of a block", "R 4.2",
          coded(b"\x21"), COMPRESSION),
    Probe("hpack/5.2/1", "padding of more than 7 bits", "R 5.2",
          coded(UNINDEXED, huffman(*b"x-test"), b"\x84", huffman(*b"test")[1:], b"\xff"),
          COMPRESSION),
    Probe("hpack/5.2/2", "padding with zeros", "R 5.2",
          coded(UNINDEXED, huffman(*b"x-test"), huffman(*b"test", padding="0")), COMPRESSION),
    Probe("hpack/5.2/3", "the end of strings in a string", "R 5.2",
          coded(UNINDEXED, huffman(*b"x-test"), huffman(*b"tes", EOS, *b"t")), COMPRESSION),
    Probe("hpack/6.1/1", "index 0", "R 6.1", coded(b"\x80"), COMPRESSION),
    Probe("hpack/6.3/1", "a table beyond its bound", "R 6.3",
          (headers(before=b"\x3f\xe2\x1f"),), COMPRESSION),
]  # fmt: skip

PROBES = [*GENERIC, *CASES, *HPACK]
START = PREFACE + settings()
