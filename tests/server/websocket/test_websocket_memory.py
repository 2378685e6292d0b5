"""What the WebSockets of one connection keep of messages: one long one, and a share for each."""

import struct
import tracemalloc

import pytest
import trio
from _http2_client import Peer
from h2.errors import ErrorCodes
from trio.testing import wait_all_tasks_blocked
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, Pong, TextMessage

from flowstream.server import ServerConfig
from flowstream.server._hypercorn import StreamClosed
from flowstream.server._inbox import Inbox
from flowstream.server.websocket._message_bound import Pieces
from flowstream.server.websocket._message_memory import (
    COMPRESSING,
    SHARE,
    MemoryShare,
    MessageMemory,
)
from flowstream.server.websocket._websocket import WebSocket

pytestmark = pytest.mark.chaos

MOST = 1 << 19
WINDOW = 1 << 16
COUNT = 6
TEXT, BINARY, PING = 1, 2, 9
HEADERS = [("sec-websocket-version", "13")]
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-version: 13\r\n\r\n"
)


def frame(opcode, payload=b""):
    """Return a client's frame, masked with zeros."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xff" + struct.pack("!Q", size)
    return bytes([0x80 | opcode]) + length + bytes(4) + payload


# -- as values ---------------------------------------------------------------------------------


def test_a_share_is_free_and_more_needs_the_permit():
    """One of two has it; the other reads up to its share, deflate counted 1,032 times."""
    memory = MessageMemory()
    one, other = MemoryShare(memory), MemoryShare(memory)
    assert one.step(0, SHARE, compressed=False) == SHARE
    assert not one.has_permit
    assert one.step(SHARE, 100, compressed=False) == 100
    assert one.has_permit
    assert other.step(0, SHARE + 1, compressed=False) == SHARE
    assert other.step(SHARE, 1, compressed=False) == 0
    assert other.step(0, 5000, compressed=True) == SHARE // 1032
    assert other.step(SHARE - 1000, 1, compressed=True) == 0
    assert one.step(0, 5000, compressed=True) == 1024
    one.settle(SHARE + 1)
    assert one.has_permit
    one.settle(SHARE)
    assert other.step(SHARE, 1, compressed=False) == 1
    assert other.has_permit


async def test_who_waits_for_the_permit_gets_it_or_is_woken(autojump_clock):
    """In the order in which they came; one that is woken has none, and holds up nobody."""
    memory = MessageMemory()
    first, woken, last = (MemoryShare(memory) for _ in range(3))
    await first.wait()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(woken.wait)
        await wait_all_tasks_blocked()
        nursery.start_soon(last.wait)
        await wait_all_tasks_blocked()
        woken.stop_waiting()
        await wait_all_tasks_blocked()
        assert not woken.has_permit
        assert not last.has_permit
        first.settle(0)
    assert last.has_permit


async def test_who_is_cancelled_leaves_the_permit():
    """Nobody has it who has left."""
    memory = MessageMemory()
    first, second = MemoryShare(memory), MemoryShare(memory)
    await first.wait()
    with trio.CancelScope() as scope:
        scope.cancel()
        await second.wait()
    assert scope.cancelled_caught
    first.settle(0)
    assert memory.permit.value == 1


async def test_text_waits_as_utf_8():
    """One emoji makes each character of a `str` take four bytes; the app gets a `str`."""
    text = "😀" + "a" * 100_000
    pieces, inbox = Pieces(), Inbox("websocket", 10)
    await inbox.put(pieces.add(TextMessage(data=text)))
    assert inbox.size == len(text.encode())
    assert (await inbox.receive())["text"] == text
    assert inbox.size == 0
    assert pieces.add(TextMessage(data=text[:70], message_finished=False)) is None
    assert pieces.size == len(text[:70].encode())
    await inbox.put(pieces.add(TextMessage(data=text[70:])))
    assert inbox.size == len(text.encode())
    assert (await inbox.receive())["text"] == text


async def test_the_end_of_one_that_never_began():
    """A stream may be closed before its request has come."""
    socket = WebSocket(None, ServerConfig(), None, None, False, None, None, None, 1)
    await socket.handle(StreamClosed(stream_id=1))
    assert socket.closed


# -- served ------------------------------------------------------------------------------------


class Apps:
    """Each accepts, and receives when it is told to; notes what it received.

    Attributes:
        may: set when they may receive.
        received: the lengths of the messages.
    """

    def __init__(self):
        self.may, self.received, self.ended = trio.Event(), [], 0

    async def __call__(self, scope, receive, send):
        if scope["type"] != "websocket":
            raise NotImplementedError
        await receive()
        await send({"type": "websocket.accept"})
        if scope["path"] == "/leaves":
            await self.may.wait()
            return
        if scope["path"] == "/waits":
            await self.may.wait()
        while (message := await receive())["type"] == "websocket.receive":
            data = message["bytes"]
            self.received.append(len(data))
            await send({"type": "websocket.send", "bytes": data[:9]})
        self.ended += 1


class Sockets:
    """WebSockets on one HTTP/2 connection, and what is yet to be sent on them."""

    def __init__(self, stream):
        self.peer = Peer(stream)
        self.left, self.sent = {}, 0

    async def open(self, path="/", *headers):
        number = await self.peer.get(
            path, *HEADERS, *headers, method="CONNECT", ended=False, protocol="websocket"
        )
        await self.peer.until(lambda: number in self.peer.statuses)
        self.left[number] = b""
        return number

    def reset(self, number):
        self.peer.h2.reset_stream(number, ErrorCodes.CANCEL)
        self.left[number] = b""

    async def exchange(self):
        """Send what there are windows for, until there are none and the server has read all."""
        quiet = 0
        while quiet < 5:
            quiet += 1
            for number, data in self.left.items():
                size = min(len(data), 1 << 14)
                if number in self.peer.ended or number in self.peer.resets:
                    size = 0
                if size:
                    size = min(size, self.peer.h2.local_flow_control_window(number))
                if size > 0:
                    self.peer.h2.send_data(number, data[:size])
                    self.left[number] = data[size:]
                    self.sent += size
                    quiet = 0
            self.peer.h2.ping(b"12345678")
            pongs = self.peer.pongs
            await self.peer.flush()
            await self.peer.until(lambda: self.peer.pongs > pongs)  # noqa: B023  # at once


@pytest.fixture
async def sockets(server, connect, clean_log):
    """WebSockets of `COUNT` applications that don't receive, each with a long message."""
    apps = Apps()
    url = await server(apps, websocket_max_message_size=MOST)
    sockets = Sockets(await connect(url))
    sockets.apps = apps
    return sockets


@pytest.mark.parametrize("is_finished", [False, True])
async def test_one_connection_keeps_one_long_message(sockets, is_finished):
    """Unfinished, or complete and not received; small ones of others go on, and then the rest."""
    long = frame(BINARY, bytes(MOST))
    for _ in range(COUNT):
        number = await sockets.open("/waits")
        sockets.left[number] = long if is_finished else long[:-1]
    await sockets.exchange()
    assert sockets.sent < MOST + COUNT * (SHARE + 2 * WINDOW)
    small = await sockets.open("/")
    for _ in range(3):
        sockets.left[small] += frame(BINARY, b"small")
    await sockets.exchange()
    assert sockets.apps.received == [5, 5, 5]
    for number in [*sockets.left][:COUNT] if not is_finished else ():
        sockets.left[number] += long[-1:]
    sockets.apps.may.set()
    await sockets.exchange()
    assert sockets.apps.received == [5, 5, 5] + [MOST] * COUNT


async def test_memory(sockets):
    """What the server has allocated is little more than the bound."""
    long = frame(BINARY, bytes(MOST))
    for _ in range(COUNT):
        sockets.left[await sockets.open("/waits")] = long
    tracemalloc.start(1)
    try:
        await sockets.exchange()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The client's rest of each message is in this process, too.
    assert kept - sum(map(len, sockets.left.values())) < 2 * MOST


@pytest.mark.parametrize("how", ["reset", "the app returns"])
async def test_the_end_of_the_one_that_has_the_permit(sockets, how):
    """An unfinished message is dropped with its socket, and the next one has its turn."""
    first = await sockets.open("/leaves")
    sockets.left[first] = frame(BINARY, bytes(MOST))[:-1]
    await sockets.exchange()
    second = await sockets.open("/")
    sockets.left[second] = frame(BINARY, bytes(MOST))
    await sockets.exchange()
    assert sockets.apps.received == []
    if how == "reset":
        sockets.reset(first)
    else:
        sockets.apps.may.set()
    await sockets.exchange()
    assert sockets.apps.received == [MOST]


@pytest.mark.parametrize("how", ["reset", "the app returns"])
async def test_the_end_of_one_that_waits(sockets, how):
    """It ends at once, and does not get the permit, which another one needs."""
    first = await sockets.open("/")
    sockets.left[first] = frame(BINARY, bytes(MOST))[:-1]
    await sockets.exchange()
    second = await sockets.open("/leaves")
    sockets.left[second] = frame(BINARY, bytes(MOST))
    await sockets.exchange()
    if how == "reset":
        sockets.reset(second)
    else:
        sockets.apps.may.set()
        await sockets.peer.until(lambda: second in sockets.peer.ended)
    await sockets.exchange()
    sockets.left[first] = frame(BINARY, bytes(MOST))[-1:]
    third = await sockets.open("/")
    sockets.left[third] = frame(BINARY, bytes(MOST))
    await sockets.exchange()
    assert sockets.apps.received == [MOST, MOST]


async def test_few_sockets_of_a_connection_compress(sockets):
    """The others are accepted without; one that has ended makes room."""
    offer = ("sec-websocket-extensions", "permessage-deflate")
    numbers = [await sockets.open("/", offer) for _ in range(COMPRESSING + 1)]
    agreed = ["sec-websocket-extensions" in sockets.peer.headers[number] for number in numbers]
    assert agreed == [True] * COMPRESSING + [False]
    sockets.reset(numbers[0])
    number = await sockets.open("/", offer)
    assert "sec-websocket-extensions" in sockets.peer.headers[number]


async def test_a_ping_behind_a_long_message(server, connect, clean_log):
    """Its pong does not wait for the application, which has not received the message."""
    apps = Apps()
    stream = await connect(await server(apps, websocket_max_message_size=MOST))
    await stream.send_all(HANDSHAKE.replace(b"GET / ", b"GET /waits "))
    await stream.receive_some()
    client = Connection(ConnectionType.CLIENT)
    with trio.fail_after(10):
        await stream.send_all(frame(BINARY, bytes(MOST)) + frame(PING, b"?"))
        client.receive_data(await stream.receive_some())
        assert list(client.events()) == [Pong(payload=b"?")]
        apps.may.set()
        client.receive_data(await stream.receive_some())
    assert list(client.events()) == [BytesMessage(data=bytes(9))]
