"""HTTP/2 as h2 writes it, and valid frames in an order and with values that make no sense."""

import h2.config
import h2.connection
import h2.settings
import hpack

from fuzzing.websockets import WEBSOCKET_PATHS, websocket_frame

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# The applications of the test server, by the first letter of the path.
PATHS = [f"/{letter}" for letter in "abdefgnqrsw"] + ["/r%20?q=1"]


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
