"""Which cause led to a close reason, where only a server can bring it about: a table."""

import logging
import socket
import struct

import pytest
import trio
from _homes import HOMES
from h2.errors import ErrorCodes
from trio.testing import wait_all_tasks_blocked

import flowstream
from flowstream import raw, sse
from flowstream.server import streaming_config

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
# RFC 9113 § 6.5: its stream has to be 0.
SETTINGS_OF_A_STREAM = b"\0\0\0\4\0\0\0\0\1"


async def waits():
    yield "first"
    await trio.sleep_forever()


async def floods():
    while True:
        yield b"x" * 16384


class Lines(logging.Handler):
    """Keeps the lines of an access log, and their records."""

    def __init__(self):
        super().__init__()
        self.texts, self.records = [], []
        self.logger = logging.Logger("tests.access", logging.INFO)
        self.logger.addHandler(self)

    def emit(self, record):
        self.records.append(record)
        self.texts.append(record.getMessage())


@pytest.fixture
def lines():
    return Lines()


class App:
    """An app of one stream, which keeps the reports.

    Attributes:
        reports: of its streams.
    """

    def __init__(self, source, make=sse):
        self.source, self.make = source, make
        self.reports = []

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            await self.make(self.source, on_close=self.reports.append)(scope, receive, send)

    async def ended(self, aeventually):
        await aeventually(lambda: self.reports, "the stream is reported")
        (report,) = self.reports
        return report.reason, report.detail


@pytest.fixture
def serve(server, lines):
    async def start(app, **settings):
        form = '%(s)s %(reason)s "%(detail)s"'
        return await server(app, accesslog=lines.logger, access_log_format=form, **settings)

    return start


async def first_read(stream):
    await stream.send_all(GET)
    got = b""
    while b"first" not in got:
        got += await stream.receive_some()
    await wait_all_tasks_blocked(0.01)


async def one_closes(stream):
    await stream.aclose()


async def one_half_closes(stream):
    await stream.send_eof()


async def one_resets(stream):
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await stream.aclose()


@pytest.mark.parametrize(
    ("leave", "detail"),
    [
        (one_closes, "the client closed its connection"),
        (one_half_closes, "the client closed its connection"),
        (one_resets, "the client reset its connection"),
    ],
)
async def test_a_client_that_leaves(serve, lines, connect, aeventually, leave, detail):
    """The report and the access log say how it left an idle stream."""
    app = App(waits)
    stream = await connect(await serve(app))
    await first_read(stream)
    await leave(stream)
    assert await app.ended(aeventually) == ("client_disconnected", detail)
    await aeventually(lambda: lines.texts == [f'200 client_disconnected "{detail}"'], "its line")
    assert (lines.records[0].reason, lines.records[0].detail) == ("client_disconnected", detail)


async def test_read_timeout(serve, lines, connect, aeventually):
    """A server that is to hear of its clients ends those that say nothing, and says by what."""
    app = App(waits)
    stream = await connect(await serve(app, read_timeout=0.2))
    await first_read(stream)
    assert await app.ended(aeventually) == ("client_disconnected", "read_timeout 0.2 s")


@pytest.mark.parametrize("tls", [False, True], ids=["cleartext", "tls"])
async def test_write_timeout(serve, lines, connect, aeventually, certificate, tls):
    """A stream that the server's bound has ended says so, and so does its line."""
    app = App(floods, raw)
    url = await serve(app, write_timeout=0.2, **certificate if tls else {})
    stream = await connect(url, receive_buffer=4096)
    await stream.send_all(GET)
    assert await app.ended(aeventually) == ("stalled", "write_timeout 0.2 s")
    await aeventually(lambda: lines.texts == ['200 stalled "write_timeout 0.2 s"'], "its line")


async def test_no_stream_of_ours(serve, lines, connect, aeventually):
    """The line of another response that the server has ended says by which bound, too."""

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                body = {"type": "http.response.body", "body": b"x" * 16384, "more_body": True}
                await send(body)

    stream = await connect(await serve(app, write_timeout=0.2), receive_buffer=4096)
    await stream.send_all(GET)
    await aeventually(lambda: lines.texts == ['200 stalled "write_timeout 0.2 s"'], "its line")


async def test_a_whole_response_has_none(serve, lines, connect, aeventually):
    """A response that went out whole has neither reason nor detail in its line."""

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})

    await (await connect(await serve(app))).send_all(GET)
    await aeventually(lambda: lines.texts == ['204 - "-"'], "its line")


async def test_http2(serve, lines, http2, aeventually):
    """A client that resets one stream, and one that grants no window."""
    app = App(waits)
    peer = await http2(await serve(app))
    number = await peer.get()
    await peer.until(lambda: b"first" in peer.bodies[number])
    peer.h2.reset_stream(number, ErrorCodes.CANCEL)
    await peer.flush()
    detail = "the client reset the HTTP/2 stream"
    assert await app.ended(aeventually) == ("client_disconnected", detail)
    await aeventually(lambda: lines.texts == [f'200 client_disconnected "{detail}"'], "its line")
    app = App(floods, raw)
    await (await http2(await serve(app, write_timeout=0.2), grants=False)).get()
    assert await app.ended(aeventually) == ("stalled", "write_timeout 0.2 s")


async def test_an_http2_connection_that_breaks_the_rules(serve, http2, aeventually):
    """A connection that the server closes for what it was sent."""
    app = App(waits)
    peer = await http2(await serve(app))
    number = await peer.get()
    await peer.until(lambda: b"first" in peer.bodies[number])
    await peer.stream.send_all(SETTINGS_OF_A_STREAM)
    detail = "the server closed the connection"
    assert await app.ended(aeventually) == ("client_disconnected", detail)


async def test_shutdown(connect, aeventually, nursery):
    """A shutdown is the server's; one that is cancelled ends as cancelled."""
    for told in (True, False):
        app, stop, scope = App(waits), trio.Event(), trio.CancelScope()
        config = streaming_config(bind=["127.0.0.1:0"], errorlog=None)

        async def run(task_status):
            with scope:  # noqa: B023
                await flowstream.serve(
                    app,  # noqa: B023
                    config,  # noqa: B023
                    shutdown_trigger=stop.wait,  # noqa: B023
                    task_status=task_status,
                )

        (url,) = await nursery.start(run)
        await first_read(await connect(url))
        if told:
            stop.set()
            expected = ("shutdown", "the server goes down")
        else:
            scope.cancel()
            expected = ("cancelled", "")
        assert await app.ended(aeventually) == expected


@pytest.mark.parametrize("home", HOMES)
async def test_in_each_home(serve, lines, connect, aeventually, home):
    """In each home the connection's reason and cause arrive, whoever else hears of its end."""
    reports = []
    app = HOMES[home](lambda: sse(waits, on_close=reports.append))
    stream = await connect(await serve(app))
    await first_read(stream)
    await one_resets(stream)
    await aeventually(lambda: reports, "the stream is reported")
    detail = "the client reset its connection"
    assert [(one.reason, one.detail) for one in reports] == [("client_disconnected", detail)]
    await aeventually(lambda: lines.texts == [f'200 client_disconnected "{detail}"'], "its line")


@pytest.mark.parametrize("home", HOMES)
async def test_stalled_in_each_home(serve, lines, connect, aeventually, home):
    """A stream that the server's bound has ended is `stalled` in each of them."""
    reports = []
    app = HOMES[home](lambda: raw(floods, on_close=reports.append))
    stream = await connect(await serve(app, write_timeout=0.2), receive_buffer=4096)
    await stream.send_all(GET)
    await aeventually(lambda: reports, "the stream is reported")
    assert [(one.reason, one.detail) for one in reports] == [("stalled", "write_timeout 0.2 s")]
    await aeventually(lambda: lines.texts == ['200 stalled "write_timeout 0.2 s"'], "its line")
