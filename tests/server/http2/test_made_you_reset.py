"""Clients that have the server reset its streams, by what they send behind a request.

To the server a stream that it has reset is over, and another may be opened: but its application may
still be at work (CVE-2025-8671, "MadeYouReset").
"""

import hpack
import pytest
import trio
from hyperframe.frame import DataFrame, HeadersFrame, PriorityFrame, WindowUpdateFrame

LIMIT = 10  # streams at once
HEAD = [(":method", "POST"), (":path", "/"), (":scheme", "http"), (":authority", "a")]


class App:
    """Answers, and takes its time to end though its client has gone.

    Attributes:
        started, running, most: applications, ever, now, and at once at the most.
    """

    def __init__(self):
        self.started = self.running = self.most = 0

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        if scope["method"] == "GET":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"hello"})
            return
        self.started += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            while (await receive())["type"] != "http.disconnect":
                pass
            await trio.sleep(0.2)
        finally:
            self.running -= 1


def raw_frame(kind, stream, payload):
    return len(payload).to_bytes(3, "big") + bytes([kind, 0]) + stream.to_bytes(4, "big") + payload


PROVOCATIONS = {
    "a window that is too large": lambda n: WindowUpdateFrame(n, 2**31 - 1).serialize(),
    "a window that grows by nothing": lambda n: raw_frame(8, n, b"\0\0\0\0"),
    "a body that is too long": lambda n: DataFrame(n, b"x" * 20, flags=["END_STREAM"]).serialize(),
    "trailers that are no end": lambda n: head(n, [("a", "b")]),
    "trailers with a pseudo-header": lambda n: head(n, [(":path", "/")], "END_STREAM"),
    "a priority of itself": lambda n: PriorityFrame(n, depends_on=n).serialize(),
    "a priority that is too short": lambda n: raw_frame(2, n, b"\0\0\0\0"),
}


def head(number, fields, *flags):
    """Return a HEADERS frame that leaves HPACK's table as it was."""
    block = hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*field) for field in fields])
    return HeadersFrame(number, block, flags=["END_HEADERS", *flags]).serialize()


@pytest.mark.parametrize("name", PROVOCATIONS)
async def test_streams_that_the_server_is_made_to_reset(server, http2, clean_log, name):
    """A client gets no more applications to work than the streams that it may have, twice, and its
    connection ends; another client is served.
    """
    app = App()
    url = await server(app, h2_max_concurrent_streams=LIMIT)
    other, peer = await http2(url), await http2(url)
    number = 1
    with trio.move_on_after(20):
        try:
            while not peer.closed:
                request = head(number, [*HEAD, ("content-length", "5")])
                await peer.stream.send_all(request + PROVOCATIONS[name](number))
                number += 2
                if number % 100 == 1:
                    with trio.move_on_after(0.001):
                        await peer.stream.receive_some()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            peer.closed = True
    assert peer.closed, f"the connection goes on after {number // 2} streams"
    assert app.most <= 2 * LIMIT
    assert app.started <= 1500
    assert await other.finished(await other.get("/")) == b"hello"
