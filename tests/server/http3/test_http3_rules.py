"""What clients may do over HTTP/3: the rules and bounds of HTTP/2, where they hold."""

import logging
import re

import pytest
import trio
from _http3_client import Client
from _request_probes import HTTP2
from aioquic.h3.connection import ErrorCode, Setting

from flowstream import CloseReason, csv, sse
from flowstream.server.http2 import _reset_limit
from flowstream.server.http3 import _http3


class App:
    """Does what the path says.

    Attributes:
        asked: the scopes.
        log: what has happened, in order.
        running, most: applications at work, now and at most.
    """

    def __init__(self):
        self.asked, self.log, self.reports, self.running, self.most = [], [], [], 0, 0

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            raise NotImplementedError
        self.asked.append(scope)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            name = scope["path"].strip("/")
            await getattr(self, name if hasattr(self, name) else "hello")(scope, receive, send)
        finally:
            self.running -= 1

    async def hello(self, scope, receive, send):
        size = 0
        while (message := await receive()).get("more_body"):
            size += len(message["body"])
        self.log.append((message["type"], size))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    async def hasty(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    async def waits(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await trio.sleep_forever()

    async def listens(self, scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass
        self.log.append("http.disconnect")

    async def ticks(self, scope, receive, send):
        await sse(self.endless, on_close=self.reports.append)(scope, receive, send)

    async def half(self, scope, receive, send):
        await csv(self.rows)(scope, receive, send)

    async def endless(self):
        while True:
            yield "tick"
            await trio.sleep(0.02)

    async def rows(self):
        yield [1, 2]
        raise ValueError("gone")


@pytest.fixture
def app():
    return App()


@pytest.fixture
async def http3(serve_http3, authority):
    """Serve an app and connect: ``client = await http3(app)``; again for another client."""
    opened, ports = [], {}

    async def connect(app, **settings):
        if app not in ports:
            ports[app] = await serve_http3(app, **settings)
        opened.append(Client(ports[app], authority))
        return opened[-1]

    yield connect
    for client in opened:
        await client.close()


async def is_alive(client):
    """Check that a connection serves requests."""
    assert await client.get() == b"hello"


async def test_the_verdicts(http3, app, clean_log):
    """Requests have the verdicts that they have over HTTP/2, or aioquic's own: a reset."""
    client, found = await http3(app), {}
    for probe in HTTP2:
        app.asked.clear()
        fields, ended = probe.request
        if client.closed:
            client = await http3(app)
        number = await client.send_fields(fields, ended=ended)
        if not ended:
            client.http.send_data(number, b"hello", True)
        await client.finished(number)
        found[probe.name] = status = client.statuses.get(number, 0)
        assert len(app.asked) == (status == 200), probe.name
        if 200 not in (status, probe.ours) and 0 in (status, probe.ours):
            found[probe.name] = probe.ours  # the library refuses some at once
    expected = {probe.name: probe.ours for probe in HTTP2}
    assert found == {**expected, "a host alone": 0}  # aioquic wants :authority


async def test_trailers_are_no_request(http3, app, clean_log):
    """They end the body, also behind a response that is over."""
    client = await http3(app)
    number = await client.ask(method=b"POST", ended=False)
    client.http.send_data(number, b"12345", False)
    client.http.send_headers(number, [(b"x", b"y")], True)
    assert await client.finished(number) == b"hello"
    assert app.log == [("http.request", 5)]
    late = await client.ask(method=b"POST", path=b"/hasty", ended=False)
    client.http.send_data(late, b"x", False)
    client.http.send_headers(late, [(b"x", b"y")], True)
    assert await client.finished(late) == b"hello"
    await is_alive(client)
    assert len(app.asked) == 3


async def test_an_upload_that_nobody_reads(http3, app, clean_log, monkeypatch):
    """It holds up nobody, and is stopped when more of it waits than is allowed."""
    assert _http3.WAITING == 1 << 20
    monkeypatch.setattr(_http3, "WAITING", 100_000)
    client, other = await http3(app), await http3(app)
    upload = await client.ask(method=b"POST", path=b"/waits", ended=False)
    await client.until(lambda: client.bodies[upload])
    for _ in range(4):
        client.http.send_data(upload, bytes(20_000), False)
        await client.fence()
    assert upload not in client.stopped
    await is_alive(other)
    await is_alive(client)
    for _ in range(6):
        if upload not in client.stopped:
            client.http.send_data(upload, bytes(20_000), False)
            await client.fence()
    await client.until(lambda: upload in client.resets)
    assert upload in client.stopped
    assert client.resets == {upload: ErrorCode.H3_EXCESSIVE_LOAD}
    await is_alive(client)


async def test_a_header_block_is_bounded(http3, app, clean_log):
    """One of more than 16 KiB ends its connection, before it is whole."""
    client, other = await http3(app), await http3(app)
    await client.ask((b"x", b"\xff" * 12_000))
    await is_alive(client)
    await client.ask((b"x", b"\xff" * 30_000))
    await client.until(lambda: client.closed)
    assert client.closed.error_code == ErrorCode.H3_EXCESSIVE_LOAD
    await is_alive(other)
    assert len(app.asked) == 3


async def test_no_table_is_kept_of_a_client(http3, app):
    """A client is told so, and its blocks don't refer to one."""
    client = await http3(app)
    await is_alive(client)
    told = client.http.received_settings
    assert told[Setting.QPACK_MAX_TABLE_CAPACITY] == told[Setting.QPACK_BLOCKED_STREAMS] == 0


async def test_what_comes_out_of_order_is_bounded(http3, app, clean_log):
    """A client that leaves gaps has no room made for them without end."""
    client, other = await http3(app), await http3(app)
    upload = await client.ask(method=b"POST", path=b"/waits", ended=False)
    await client.until(lambda: client.bodies[upload])
    sender = client.quic._streams[upload].sender
    size = 0
    while not client.closed and size < 10_000_000:
        start = sender._buffer_stop
        sender.write(bytes(400_000))
        sender._pending.subtract(start, sender._buffer_stop - 100)
        size += 400_000
        await client.fence()
    assert client.closed
    assert client.closed.error_code == ErrorCode.H3_EXCESSIVE_LOAD
    assert size <= 3_200_000
    await is_alive(other)


async def test_a_large_upload_arrives(http3, app, clean_log, monkeypatch):
    """One that its application reads may be of any size."""
    monkeypatch.setattr(_http3, "WAITING", 100_000)
    client = await http3(app)
    number = await client.ask(method=b"POST", ended=False)
    for _ in range(10):
        client.http.send_data(number, bytes(30_000), False)
        await client.fence()
    client.http.send_data(number, b"", True)
    assert await client.finished(number) == b"hello"
    assert app.log == [("http.request", 300_000)]


@pytest.mark.parametrize("how", ["reset", "stop", "close"])
async def test_an_application_hears_that_its_client_left(http3, app, aeventually, clean_log, how):
    """By a reset of either half, or the end of the connection; a stream ends, too."""
    client = await http3(app)
    ticking, waiting = (
        await client.ask(path=b"/ticks"),
        await client.ask(path=b"/listens", method=b"POST", ended=False),
    )
    await client.until(lambda: client.bodies[ticking])
    await client.fence()
    if how == "reset":
        for number in (ticking, waiting):
            client.quic.stop_stream(number, ErrorCode.H3_REQUEST_CANCELLED)
        client.quic.reset_stream(waiting, ErrorCode.H3_REQUEST_CANCELLED)
    elif how == "stop":
        for number in (ticking, waiting):
            client.quic.stop_stream(number, ErrorCode.H3_REQUEST_CANCELLED)
    else:
        client.quic.close()
    await client.flush()
    await aeventually(lambda: app.log and app.reports, "both have heard of it")
    assert app.log == ["http.disconnect"]
    assert [report.reason for report in app.reports] == [CloseReason.CLIENT_DISCONNECTED]
    if how != "close":
        await is_alive(client)


async def test_a_cut_response_is_reset(http3, app):
    """A response without its end is no whole one."""
    client = await http3(app)
    number = await client.ask(path=b"/half")
    assert await client.finished(number) == b"1,2\r\n"
    assert number not in client.ended
    assert client.resets == {number: ErrorCode.H3_INTERNAL_ERROR}
    await is_alive(client)


async def test_what_the_server_answers_itself(http3, app, caplog):
    """It is no malformed response: 404 for a host that is not served, 500 for an application that
    fails, and what an application says of its connection is left out.
    """

    async def fails(scope, receive, send):
        if scope["path"] == "/connection":
            fields = [(b"connection", b"keep-alive"), (b"te", b"x"), (b"x", b"y")]
            await send({"type": "http.response.start", "status": 200, "headers": fields})
            await send({"type": "http.response.body", "body": b"hello"})
        raise ValueError("a bug")

    client = await http3(fails, server_names=["127.0.0.1"])
    wrong, failed = await client.ask(authority=b"other"), await client.ask()
    good = await client.ask(path=b"/connection")
    for number in (wrong, failed, good):
        await client.finished(number)
    assert client.statuses == {wrong: 404, failed: 500, good: 200}


async def test_a_body_that_does_not_come(http3, app, clean_log):
    """It is answered with 408 after `body_timeout`."""
    client = await http3(app, body_timeout=0.1)
    number = await client.ask(method=b"POST", ended=False)
    await client.finished(number)
    assert client.statuses == {number: 408}
    await is_alive(client)


async def test_rapid_reset(http3, app, clean_log, monkeypatch):
    """Requests that are reset at once reach a limit, and then the connection ends."""
    monkeypatch.setattr(_reset_limit, "_BURST", 100)
    client, other = await http3(app), await http3(app)
    await is_alive(client)
    while not client.closed:
        for _ in range(30):
            number = await client.ask(path=b"/listens")
            client.quic.stop_stream(number, ErrorCode.H3_REQUEST_CANCELLED)
        await client.fence()
    assert client.closed.error_code == ErrorCode.H3_EXCESSIVE_LOAD
    assert app.most <= 30
    await is_alive(other)


async def test_the_access_log(http3, app, caplog):
    """Each request has one line, of those that are refused as well, and none can forge one."""
    logger = logging.getLogger("tests.access")
    caplog.set_level(logging.INFO)
    client = await http3(app, accesslog=logger)
    await client.get("/a%0Ab?q=1")
    await client.get("/", method=b"G\x1bT")
    ticking = await client.ask(path=b"/ticks")
    await client.until(lambda: client.bodies[ticking])
    client.quic.stop_stream(ticking, ErrorCode.H3_REQUEST_CANCELLED)
    await client.fence()
    await client.until(lambda: len(lines(caplog)) == 3)
    text = "\n".join(lines(caplog))
    assert text.count("\n") == 2
    assert '"GET /a\\x0ab?q=1 3" 200 5 ' in text or '"GET /a\\x0ab 3" 200 5 ' in text
    assert '"G\\x1bT / 3" 400 ' in text
    assert re.search('"GET /ticks 3" 200 .* client_disconnected ', text)


def lines(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "tests.access"]
