"""How often the server writes to the socket of a new client, counted in each home."""

import pytest
import trio
from _homes import HOMES

from flowstream import Topic, raw, sse
from flowstream.server._wire import Wire

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def one_item():
    yield "hello"
    await trio.sleep_forever()


async def nothing():
    await trio.sleep_forever()
    yield b""


@pytest.fixture
def writes(monkeypatch):
    """Return the list of what the server writes."""
    written = []
    write = Wire.write_nowait

    def counted(wire, data):
        written.append(bytes(data))
        return write(wire, data)

    monkeypatch.setattr(Wire, "write_nowait", counted)
    return written


async def read_until(stream, mark):
    found = b""
    with trio.fail_after(10):
        while mark not in found:
            found += await stream.receive_some()
    return found


@pytest.mark.parametrize("home", HOMES)
async def test_head_and_first_item(server, connect, writes, home):
    """The head, what the format begins with and the first item are one write."""
    stream = await connect(await server(HOMES[home](lambda: sse(one_item(), retry=1000))))
    await stream.send_all(GET)
    await read_until(stream, b"data: hello\n\n")
    (whole,) = writes
    assert whole.startswith(b"HTTP/1.1 200")
    assert b"retry: 1000" in whole


@pytest.mark.parametrize("home", HOMES)
async def test_head_and_opening(server, connect, writes, home):
    """A silent topic has its head and the format's beginning in one write, at once."""
    topic = Topic("t")
    stream = await connect(await server(HOMES[home](lambda: sse(topic))))
    await stream.send_all(GET)
    await read_until(stream, b":")
    (whole,) = writes
    assert whole.startswith(b"HTTP/1.1 200")
    await topic.aclose()


@pytest.mark.parametrize("home", HOMES)
async def test_a_head_alone(server, connect, writes, home):
    """A silent source whose format begins with nothing has its head sent at once."""
    stream = await connect(await server(HOMES[home](lambda: raw(nothing()))))
    await stream.send_all(GET)
    await read_until(stream, b"\r\n\r\n")
    (whole,) = writes
    assert whole.endswith(b"\r\n\r\n")


def frame_types(data):
    """Return the types of the HTTP/2 frames in `data` (RFC 9113 § 4.1)."""
    types = []
    while data:
        types.append(data[3])
        data = data[9 + int.from_bytes(data[:3]) :]
    return types


HEADERS, DATA = 1, 0


async def test_http2(server, http2, writes):
    """In HTTP/2 the head and the first item are one write, too."""
    peer = await http2(await server(HOMES["bare"](lambda: sse(one_item()))))
    await peer.fence()  # what is written for the greetings is written
    number = await peer.get("/")
    await peer.until(lambda: b"hello" in peer.bodies[number])
    (whole,) = [data for data in writes if HEADERS in frame_types(data)]
    assert frame_types(whole) == [HEADERS, DATA]
    assert b"hello" in whole


async def test_http2_head_alone(server, http2):
    """In HTTP/2 a silent source has its head sent at once, too."""
    peer = await http2(await server(HOMES["bare"](lambda: raw(nothing()))))
    number = await peer.get("/")
    await peer.until(lambda: peer.statuses.get(number) == 200)


async def test_http2_without_a_window(server, http2):
    """A client that grants no window has the head all the same."""
    url = await server(HOMES["bare"](lambda: sse(one_item())))
    peer = await http2(url, grants=False, initial_window_size=0)
    number = await peer.get("/")
    await peer.until(lambda: peer.statuses.get(number) == 200)


async def fill_as_the_head_leaves():
    """Make an item and end in the pass in which a head without a body is written."""
    for _ in range(3):
        await trio.lowlevel.checkpoint()
    yield b"whole"


async def test_nothing_is_missed(server, connect):
    """What is made while the head is written by itself is not forgotten."""
    url = await server(HOMES["bare"](lambda: raw(fill_as_the_head_leaves())))
    for _ in range(20):  # the event loop takes tasks in any order
        stream = await connect(url)
        await stream.send_all(GET)
        assert (await read_until(stream, b"0\r\n\r\n")).endswith(b"5\r\nwhole\r\n0\r\n\r\n")
