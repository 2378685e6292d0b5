"""HTTP/2 over cleartext, spoken by hand: frames that no HTTP library lets one choose."""

import h2.config
import h2.connection
import h2.events
import pytest
import trio

from flowstream import CloseReason, sse


class Connection:
    """One HTTP/2 connection by prior knowledge."""

    def __init__(self, stream):
        self.stream = stream
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.bodies = {}
        self.ended = set()

    async def flush(self):
        await self.stream.send_all(self.h2.data_to_send())

    async def get(self, path, *headers):
        number = self.h2.get_next_available_stream_id()
        head = [(":method", "GET"), (":path", path), (":scheme", "http"), (":authority", "a")]
        self.h2.send_headers(number, [*head, *headers], end_stream=True)
        self.bodies[number] = b""
        await self.flush()
        return number

    async def receive(self):
        data = await self.stream.receive_some(65536)
        assert data, "the server has closed the connection"
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                self.bodies[event.stream_id] += event.data
                size = event.flow_controlled_length
                self.h2.acknowledge_received_data(size, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.ended.add(event.stream_id)
        await self.flush()

    async def until(self, condition):
        with trio.fail_after(10):
            while not condition():
                await self.receive()


@pytest.fixture
async def connect():
    """Connect to a server: ``await connect(url)``."""
    opened = []

    async def open_one(url):
        stream = await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
        opened.append(stream)
        connection = Connection(stream)
        await connection.flush()
        return connection

    yield open_one
    for stream in opened:
        await stream.aclose()


class App:
    """An endless stream, or a short one at /short."""

    def __init__(self):
        self.reports = []
        self.cleaned = 0

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            source = ["a", "b"] if scope["path"] == "/short" else self.endless
            await sse(source, on_close=self.reports.append)(scope, receive, send)

    async def endless(self):
        try:
            while True:
                yield "tick"
                await trio.sleep(0.001)
        finally:
            self.cleaned += 1


async def test_a_stream_and_its_end(server, connect, clean_log, aeventually):
    """An SSE stream ends with END_STREAM, and other streams of the connection go on."""
    app = App()
    connection = await connect(await server(app))
    endless = await connection.get("/")
    short = await connection.get("/short")
    await connection.until(lambda: short in connection.ended)
    assert b"event: end\n" in connection.bodies[short]
    size = len(connection.bodies[endless])
    await connection.until(lambda: len(connection.bodies[endless]) > size + 1000)
    await aeventually(lambda: app.reports, "the report")
    assert [report.reason for report in app.reports] == [CloseReason.COMPLETED]


async def test_rst_stream(server, connect, clean_log, aeventually):
    """RST_STREAM cancels that stream's producer, and only that."""
    app = App()
    connection = await connect(await server(app))
    first, second = await connection.get("/"), await connection.get("/")
    await connection.until(lambda: connection.bodies[first] and connection.bodies[second])
    connection.h2.reset_stream(first)
    await connection.flush()
    await aeventually(lambda: app.reports, "the report")
    size = len(connection.bodies[second])
    await connection.until(lambda: len(connection.bodies[second]) > size + 1000)
    assert app.cleaned == 1
    assert [report.reason for report in app.reports] == [CloseReason.CLIENT_DISCONNECTED]


async def test_the_connection_goes_away(server, connect, clean_log, aeventually):
    """Closing the connection cancels the producers of all its streams."""
    app = App()
    connection = await connect(await server(app))
    streams = [await connection.get("/") for _ in range(10)]
    await connection.until(lambda: all(connection.bodies[number] for number in streams))
    await connection.stream.aclose()
    await aeventually(lambda: len(app.reports) == 10, "ten reports")
    assert app.cleaned == 10


async def test_no_connection_headers(server, connect, clean_log):
    """A response over HTTP/2 has no header that HTTP/2 forbids; h2 would not take one."""
    app = App()
    connection = await connect(await server(app))
    number = await connection.get("/short", ("last-event-id", "abc.1"))
    await connection.until(lambda: number in connection.ended)
    assert connection.bodies[number] == b""
