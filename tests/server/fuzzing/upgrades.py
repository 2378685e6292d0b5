"""Requests to change the protocol, with odd combinations of fields, and what comes behind them.

What comes behind an upgrade that nobody has granted asks for ``/hidden``. No application may be
asked for that.
"""

import hpack

from fuzzing.http2 import PREFACE
from fuzzing.settings import asked, settings
from fuzzing.uploads import HIDDEN
from fuzzing.websockets import masked

CONNECTIONS = (
    "Upgrade",
    "upgrade",
    "keep-alive, Upgrade",
    "Upgrade, HTTP2-Settings",
    "HTTP2-Settings",
    "close",
    "close, upgrade",
    "Upgrade,,",
    "Up grade",
    "\xa0upgrade",
    "upgrade;q=1",
)
UPGRADES = (
    "websocket",
    "WebSocket",
    "h2c",
    "H2C",
    "h2c, websocket",
    "websocket, h2c",
    "websocket/13",
    "h2",
    "TLS/1.0",
    "HTTP/2.0",
    "\x0bwebsocket",
    "",
)
OTHERS = (
    "HTTP2-Settings: AAMAAABkAAQAAP__",
    "HTTP2-Settings: ",
    "HTTP2-Settings: !!",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    "Sec-WebSocket-Key: AAAA",
    "Sec-WebSocket-Key: ",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA== ",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Version: 8",
    "Sec-WebSocket-Version: 13, 8",
    "Sec-WebSocket-Protocol: a, b",
    "Sec-WebSocket-Protocol: a,,b",
    "Sec-WebSocket-Accept: x",
    "Content-Length: 0",
    "Content-Length: 3",
    "Transfer-Encoding: chunked",
    "Expect: 100-continue",
    "Origin: null",
)


def hidden_http2():
    """Return HTTP/2 with a request that nobody may answer."""
    return (
        PREFACE
        + settings()
        + asked(hpack.Encoder(), 1, "/hidden")
        + asked(hpack.Encoder(), 3, "/hidden")
    )


def upgraded(rng):
    """A request to change the protocol, and what would follow if it was granted."""
    method = rng.choice(("GET", "GET", "GET", "HEAD", "POST", "OPTIONS", "CONNECT"))
    version = rng.choice(("1.1", "1.1", "1.1", "1.0"))
    lines = [f"{method} {rng.choice(('/e', '/a', '/r', '/s'))} HTTP/{version}", "Host: localhost"]
    lines += [f"Connection: {rng.choice(CONNECTIONS)}" for _ in range(rng.choice((0, 1, 1, 2)))]
    lines += [f"Upgrade: {rng.choice(UPGRADES)}" for _ in range(rng.choice((0, 1, 1, 2)))]
    if rng.random() < 0.5:
        lines += [OTHERS[3], OTHERS[7]]
    lines += rng.sample(OTHERS, rng.choice((0, 0, 1, 3)))
    if rng.random() < 0.5:
        lines[1:] = rng.sample(lines[1:], len(lines) - 1)
    request = "\r\n".join((*lines, "", "")).encode("latin-1")
    frames = [masked(0x81, b"hello"), masked(0x89, b""), masked(0x88, b"\x03\xe8")]
    again = HIDDEN.replace(b"/hidden", b"/a")
    behind = rng.choice(([], [hidden_http2()], [hidden_http2()], frames, [again], [b"\0" * 20]))
    return [request, *behind]


def downgraded(rng):
    """HTTP/1.1 behind the preface of HTTP/2, or the preface where it can't be."""
    whole = hidden_http2()
    at = rng.choice((1, 3, 14, 16, 18, 23))
    plain = HIDDEN.replace(b"/hidden", b"/a")
    return rng.choice(
        (
            [plain, whole],  # a connection that is HTTP/1.1 already
            [PREFACE[:at], plain],
            [PREFACE, HIDDEN],
            [PREFACE.replace(b"2.0", b"2.1"), whole[len(PREFACE) :]],
            [PREFACE.replace(b"*", b"/hidden"), whole[len(PREFACE) :]],
            [PREFACE.replace(b"\r\n\r\nSM", b"\r\nHost: localhost\r\n\r\nSM"), whole[24:]],
            [plain, plain + whole[:at], whole[at:]],
        )
    )
