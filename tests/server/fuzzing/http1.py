"""HTTP/1.1 as h11 writes it, and requests of fields that do not go together."""

import h11

from fuzzing.http2 import PATHS, http2, odd_http2


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
    'User-Agent: "\\" -',
    "Referer: \x9b31m",
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
    "/%0a%1b[31m%22",
    "/%22%5c?%0d%0a",
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
