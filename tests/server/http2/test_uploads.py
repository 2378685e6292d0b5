"""What one HTTP/2 connection uploads, and no application receives, is bounded for all together."""

import h2.config
import h2.connection
import h2.errors
import h2.events
import pytest
import trio
from h2.settings import SettingCodes
from hyperframe.frame import DataFrame

from flowstream.server.http2._stream_faults import keep_apart
from flowstream.server.http2._uploads import INITIAL, LEAST, SHARED, Uploads, Windows

HEAD = [(":method", "POST"), (":path", "/"), (":scheme", "http"), (":authority", "a")]
STREAMS = 100
MOST = SHARED + INITIAL + STREAMS * LEAST  # and what comes until narrower windows hold


class Pair:
    """A client and a server of h2's, with the server's uploads.

    Attributes:
        answers: whether the client acknowledges settings.
    """

    def __init__(self, *, answers=True):
        self.answers = answers
        self.client = h2.connection.H2Connection(h2.config.H2Configuration())
        self.server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.client.initiate_connection()
        self.server.initiate_connection()
        keep_apart(self.server, 256)
        self.uploads = Uploads(self.server)
        self.held = b""
        self.exchange()

    def exchange(self):
        """Pass on what both have said, as a server does it."""
        while True:
            data = self.client.data_to_send()
            for event in self.server.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    self.uploads.open(event.stream_id)
                elif isinstance(event, h2.events.DataReceived):
                    size = event.flow_controlled_length
                    self.uploads.arrived(event.stream_id, event.data, size)
                elif isinstance(event, h2.events.StreamEnded):
                    self.uploads.end(event.stream_id)
                elif isinstance(event, h2.events.SettingsAcknowledged):
                    self.uploads.acknowledged(event.changed_settings)
            self.uploads.settle()
            answer = self.server.data_to_send()
            if not (data or answer):
                return
            if self.answers:
                self.client.receive_data(answer)
            else:
                self.held += answer
                return

    def open(self):
        number = self.client.get_next_available_stream_id()
        self.client.send_headers(number, HEAD)
        return number

    def fill(self, numbers):
        """Send all that the windows have room for; return how much that was."""
        sent = 0
        while True:
            before = sent
            for number in numbers:
                size = min(self.client.local_flow_control_window(number), 16384)
                if size > 0:
                    self.client.send_data(number, b"x" * size)
                    sent += size
                    self.exchange()
            if sent == before:
                return sent

    def read(self, number):
        """Receive what has come on a stream; return how much that was."""
        size = len(self.uploads.get(number).take())
        self.uploads.received(number)
        self.exchange()
        return size


@pytest.fixture
def pair():
    return Pair()


def test_few_have_the_windows_of_http2(pair):
    """Two uploads are not bounded by anything else, and no settings are changed."""
    numbers = [pair.open(), pair.open()]
    assert pair.fill(numbers) == 2 * INITIAL
    assert pair.uploads.state is Windows.WIDE
    for number in numbers:
        assert pair.read(number) == INITIAL
    assert pair.fill(numbers) == 2 * INITIAL


def test_many_that_nobody_reads(pair):
    """They have their bound together, and no window is open any more."""
    numbers = [pair.open() for _ in range(STREAMS)]
    sent = pair.fill(numbers)
    assert pair.uploads.state is Windows.NARROW
    assert STREAMS * LEAST <= sent <= MOST


def test_many_that_have_ended(pair):
    """An upload that is complete counts as well, for as long as nobody reads it."""
    sent = 0
    for _ in range(STREAMS):
        number = pair.open()
        sent += pair.fill([number])
        pair.client.end_stream(number)
        pair.exchange()
    assert sent <= MOST + INITIAL


def test_one_goes_on_beside_them(pair):
    """Beside uploads that nobody reads each other one has a window, and gets it again."""
    pair.fill([pair.open() for _ in range(STREAMS - 1)])
    number = pair.open()
    for _ in range(100):
        assert pair.fill([number]) >= LEAST // 2
        pair.read(number)


def test_they_share_alike(pair):
    """Uploads that are read have equal windows, and larger ones when others have ended."""
    numbers = [pair.open() for _ in range(8)]
    pair.fill(numbers)
    for _ in range(10):
        for number in numbers:
            pair.read(number)
            pair.fill([number])
    for number in numbers:
        pair.read(number)
    pair.exchange()
    sizes = [pair.fill([number]) for number in numbers]
    assert min(sizes) >= SHARED // 8 // 2
    assert max(sizes) <= SHARED // 8
    for number in numbers[1:]:
        pair.client.end_stream(number)
        pair.exchange()
        pair.uploads.close(number)
    for _ in range(10):
        pair.read(numbers[0])
        size = pair.fill(numbers[:1])
    assert size > INITIAL // 2


def test_a_client_that_acknowledges_nothing():
    """Until it does, it has the connection's one window, and what it had before."""
    pair = Pair(answers=False)
    numbers = [pair.open() for _ in range(STREAMS)]
    pair.exchange()
    assert pair.fill(numbers) == INITIAL
    assert pair.uploads.state is Windows.CROWDED
    pair.answers = True
    pair.client.receive_data(pair.held)
    pair.exchange()
    assert pair.uploads.state is Windows.NARROW
    assert pair.fill(numbers) <= MOST - INITIAL


def test_what_is_closed_counts_no_more(pair):
    """Streams that end with data that nobody read give back all that they had."""
    for _ in range(20):
        numbers = [pair.open() for _ in range(STREAMS)]
        assert pair.fill(numbers) >= STREAMS * LEAST
        for number in numbers:
            pair.client.reset_stream(number)
            pair.exchange()
            pair.uploads.close(number)
    assert pair.uploads._above == pair.uploads._coming == 0


class App:
    """Reads what is sent to /read, and nothing else.

    Attributes:
        read: bytes so far.
    """

    def __init__(self):
        self.read = 0

    async def __call__(self, scope, receive, send):
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await trio.sleep_forever()
        if scope["type"] != "http":
            raise NotImplementedError
        if scope["path"] != "/read":
            await trio.sleep_forever()
        more = True
        while more:
            message = await receive()
            self.read += len(message["body"])
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def open_websocket(peer):
    version = ("sec-websocket-version", "13")
    return peer.open("/", version, method="CONNECT", ended=False, protocol="websocket")


def open_upload(peer):
    return peer.open("/", method="POST", ended=False)


def frames(size):
    """Return WebSocket messages that fill `size` bytes, or as few more as there may be."""
    return (b"\x82\xfe\x00\x40" + bytes(4) + b"x" * 64) * (size // 72 + 1)


async def fill(peer, numbers, data):
    """Send what the windows have room for; return how much that was."""
    sent, offsets = 0, dict.fromkeys(numbers, 0)
    while True:
        before = sent
        for number in numbers:
            while (size := min(peer.h2.local_flow_control_window(number), 16384)) > 0:
                offset = offsets[number]
                peer.h2.send_data(number, data[offset : offset + size])
                offsets[number] += size
                sent += size
                await peer.fence()
        if sent == before:
            return sent


@pytest.mark.parametrize("kind", [open_upload, open_websocket])
async def test_nobody_reads_on_a_connection(server, http2, clean_log, kind):
    """All that a hundred streams can send is bounded, be they uploads or WebSockets, and another
    upload of the same connection goes through.
    """
    app = App()
    peer = await http2(await server(app, websocket_ping_interval=None))
    numbers = [kind(peer) for _ in range(STREAMS - 1)]
    await peer.fence()
    if kind is open_websocket:
        await peer.until(lambda: all(number in peer.statuses for number in numbers))
    assert await fill(peer, numbers, frames(1 << 18)) <= 512 * 1024
    number = peer.open("/read", method="POST", ended=False)
    left = 100_000
    while left:
        await peer.until(lambda: peer.h2.local_flow_control_window(number) > 0)
        size = min(peer.h2.local_flow_control_window(number), 16384, left)
        peer.h2.send_data(number, b"x" * size)
        left -= size
        await peer.flush()
    peer.h2.end_stream(number)
    await peer.flush()
    await peer.finished(number)
    assert app.read == 100_000


async def test_applications_that_outlive_their_uploads(server, http2, clean_log):
    """What came for an application that reads nothing is gone when its stream was reset."""
    kept = []

    async def app(scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        kept.append(receive.__self__)
        with trio.CancelScope(shield=True), trio.move_on_after(5):
            await stop.wait()

    stop = trio.Event()
    peer = await http2(await server(app))
    number = open_upload(peer)
    await fill(peer, [number], frames(1 << 18))
    (inbox,) = kept
    assert inbox._size > 1000
    peer.h2.reset_stream(number)
    await peer.fence()
    assert inbox._size == 0
    assert (await inbox.receive())["type"] == "http.disconnect"
    stop.set()


async def test_empty_and_late_data(server, http2, clean_log):
    """DATA that is empty, padded, or for a stream that is over, is nothing that is kept."""
    app = App()
    peer = await http2(await server(app))
    number = open_upload(peer)
    await peer.flush()
    await peer.send(*[DataFrame(number, b"") for _ in range(500)])
    for _ in range(500):
        peer.h2.send_data(number, b"", pad_length=9)
    await peer.fence()
    peer.h2.reset_stream(number, h2.errors.ErrorCodes.CANCEL)
    await peer.send(*[DataFrame(number, b"x" * 100) for _ in range(50)])
    await peer.fence()
    assert SettingCodes.INITIAL_WINDOW_SIZE in peer.h2.remote_settings
    read = peer.open("/read", method="POST", ended=False)
    peer.h2.send_data(read, b"hello", end_stream=True)
    await peer.flush()
    await peer.finished(read)
    assert app.read == 5


def test_what_is_received_of_a_stream_that_h2_has_forgotten():
    """An application that reads on behind a reset gets what is there, and no window is opened."""
    pair = Pair()
    number = pair.open()
    pair.exchange()
    pair.fill([number])
    upload = pair.uploads.get(number)
    pair.client.reset_stream(number)
    pair.exchange()
    assert pair.server.open_inbound_streams == 0  # whereby h2 forgets it
    assert number not in pair.server.streams
    assert upload.take()
    assert not pair.uploads.received(number)
