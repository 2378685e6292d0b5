"""The access log: one line a request, with what was sent, which no client can forge."""

import logging

import pytest
import trio
import trio.testing
import wsproto
from hypercorn.logging import Logger
from wsproto.events import AcceptConnection, CloseConnection, Request

from flowstream import Topic, raw, sse
from flowstream.server.log._access_log import FORMAT, escaped

SHORT = "%(m)s %(Uq)s %(s)s %(b)s %(reason)s"


class Lines(logging.Handler):
    """Keeps what an access log was given.

    Attributes:
        texts: the lines.
        logger: a logger that writes them.
    """

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
    """Return the handler of an access log."""
    return Lines()


@pytest.fixture
def logged(server, lines):
    """Serve an app whose access log goes to `lines`: ``url = await logged(app)``."""

    async def start(app, **settings):
        settings = {"access_log_format": SHORT, **settings}
        return await server(app, accesslog=lines.logger, **settings)

    return start


async def ask(stream, text, until=b""):
    """Send a request; return what comes until `until` is in it, or to the end."""
    if text:
        await stream.send_all(text.encode("latin-1"))
    got = b""
    with trio.fail_after(5):
        while not (until and until in got):
            some = await stream.receive_some()
            if not some:
                break
            got += some
    return got


def request(target="/", method="GET", *headers):
    return "\r\n".join([f"{method} {target} HTTP/1.1", "host: x", *headers, "", ""])


async def endless():
    yield "a"
    await trio.sleep_forever()


async def app(scope, receive, send):
    """Answer what the path says."""
    if scope["type"] != "http":
        raise NotImplementedError
    if scope["path"] == "/endless":
        await sse(endless)(scope, receive, send)
    elif scope["path"] == "/short":
        await raw([b"abc", b"de"])(scope, receive, send)
    elif scope["path"] == "/silent":
        while (await receive())["type"] != "http.disconnect":
            pass
    elif scope["path"] == "/fails":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"abc", "more_body": True})
    else:
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})


async def test_streams_http1(logged, lines, connect, aeventually):
    """A stream that ends, and one that its client leaves, are a line each with 200 and why."""
    url = await logged(app)
    assert b"abc" in await ask(await connect(url), request("/short"), b"\r\n0\r\n")
    await aeventually(lambda: lines.texts == ["GET /short 200 5 completed"], "it is logged")
    stream = await connect(url)
    await ask(stream, request("/endless"), b"data: a")
    await trio.testing.wait_all_tasks_blocked()  # the item is counted
    assert len(lines.texts) == 1
    await stream.aclose()
    await aeventually(lambda: len(lines.texts) == 2, "it is logged")
    method, path, status, size, reason = lines.texts[1].split()
    assert (method, path, status, reason) == ("GET", "/endless", "200", "client_disconnected")
    assert int(size) > 0
    record = lines.records[1]
    assert (record.status, record.reason, record.items) == (200, "client_disconnected", 1)
    assert record.bytes == int(size)


async def test_streams_http2(logged, lines, http2, aeventually):
    """The same with HTTP/2."""
    url = await logged(app)
    peer = await http2(url)
    first = peer.open("/short")
    await peer.flush()
    await peer.finished(first)
    await aeventually(lambda: lines.texts == ["GET /short 200 5 completed"], "it is logged")
    second = peer.open("/endless")
    await peer.flush()
    await peer.until(lambda: peer.bodies.get(second))
    peer.h2.reset_stream(second)
    await peer.flush()
    await aeventually(lambda: len(lines.texts) == 2, "it is logged")
    assert lines.texts[1].startswith("GET /endless 200 ")
    assert lines.texts[1].endswith(" client_disconnected")


@pytest.mark.parametrize("leaves", [False, True])
async def test_head(logged, lines, connect, aeventually, leaves):
    """A HEAD is one line with its status, also if the client closes at the moment it has that."""
    url = await logged(app)
    for _ in range(10):
        stream = await connect(url)
        await ask(stream, request("/endless", "HEAD"), b"\r\n\r\n")
        if leaves:
            await stream.aclose()
    await aeventually(lambda: len(lines.texts) >= 10, "they are logged")
    assert lines.texts == ["HEAD /endless 200 - refused"] * 10


async def test_what_is_not_a_stream(logged, lines, connect, aeventually):
    """A whole response has no reason; one that its app breaks off has ``error``."""
    url = await logged(app)
    stream = await connect(url)
    await ask(stream, request("/x?y=1"), b"\r\n0\r\n")
    await ask(stream, request("/fails"))
    await aeventually(lambda: len(lines.texts) == 2, "they are logged")
    assert lines.texts == ["GET /x?y=1 201 5 -", "GET /fails 200 3 error"]


async def test_aborted_before_the_head(logged, lines, connect, aeventually):
    """A request that got no head has no status."""
    stream = await connect(await logged(app))
    await stream.send_all(request("/silent").encode())
    await stream.aclose()
    await aeventually(lambda: lines.texts, "it is logged")
    assert lines.texts == ["GET /silent - - -"]


async def test_half_closed(logged, lines, connect, aeventually):
    """A client that has closed its half only is answered, and that is what the line says."""
    proceed = trio.Event()

    async def slow(scope, receive, send):
        if scope["type"] == "http":
            await proceed.wait()
        await app(scope, receive, send)

    stream = await connect(await logged(slow))
    await stream.send_all(request("/").encode())
    await stream.send_eof()
    await trio.testing.wait_all_tasks_blocked()
    proceed.set()
    assert b"201" in await ask(stream, "")
    await aeventually(lambda: lines.texts, "it is logged")
    assert lines.texts == ["GET / 201 5 -"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("nonsense\r\n\r\n", "- - 400 - -"),
        ("GET / HTTP/1.1\r\n\r\n", "- - 400 - -"),
        (request("x:1", "CONNECT"), "CONNECT x:1 501 - -"),
        (request("/s", "POST", "transfer-encoding: chunked") + "zz\r\n", "POST /s 400 - -"),
    ],
)
async def test_what_the_server_answers_itself(logged, lines, connect, aeventually, text, line):
    """A request that no app is asked for, or whose body is broken, is a line, too."""

    async def waits(scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        while (await receive())["type"] != "http.disconnect":
            pass

    await ask(await connect(await logged(waits)), text)
    await aeventually(lambda: lines.texts, "it is logged")
    assert lines.texts == [line]


async def test_wrong_host(logged, lines, connect, http2, aeventually):
    """A 404 for the host's name is one line with either protocol."""
    url = await logged(app, server_names=["elsewhere"])
    await ask(await connect(url), request("/a"), b"\r\n\r\n")
    peer = await http2(url)
    number = peer.open("/b")
    await peer.flush()
    await peer.finished(number)
    await aeventually(lambda: len(lines.texts) == 2, "they are logged")
    assert lines.texts == ["GET /a 404 - -", "GET /b 404 - -"]


async def test_websockets(logged, lines, connect, aeventually):
    """A WebSocket is one line, at its end; a refused one has the status of the refusal."""

    async def sockets(scope, receive, send):
        if scope["type"] != "websocket":
            raise NotImplementedError
        await receive()
        if scope["path"] == "/no":
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    url = await logged(sockets)
    for path in ("/no", "/yes"):
        stream, protocol = await connect(url), wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        await stream.send_all(protocol.send(Request(host="x", target=path)))
        events = []
        with trio.fail_after(5):
            while not events:
                protocol.receive_data(await stream.receive_some())
                events = list(protocol.events())
        if path == "/yes":
            assert isinstance(events[0], AcceptConnection)
            assert len(lines.texts) == 1
            await stream.send_all(protocol.send(CloseConnection(code=1000)))
        await aeventually(lambda: lines.texts, "it is logged")
        await stream.aclose()
    await aeventually(lambda: len(lines.texts) == 2, "it is logged")
    assert lines.texts[0] == "GET /no 403 - -"
    assert lines.texts[1].startswith("GET /yes 101 ")


async def test_direct_writes_are_counted(logged, lines, connect, aeventually):
    """What a publisher writes to the socket itself is in the bytes."""
    topic = Topic("t")

    async def listen(scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        await sse(topic, direct=True)(scope, receive, send)

    stream = await connect(await logged(listen))
    await ask(stream, request("/t"), b"\r\n\r\n")
    await trio.testing.wait_all_tasks_blocked()
    for number in range(50):
        await topic.publish("x" * 1000 + f"<{number}>")
        await ask(stream, "", f"<{number}>".encode())
    assert topic.statistics().direct_deliveries > 0
    await stream.aclose()
    await aeventually(lambda: lines.texts, "it is logged")
    assert int(lines.texts[0].split()[3]) > 50_000


async def test_no_client_forges_a_line(logged, lines, connect, aeventually):
    """Line ends, escapes, quotes and backslashes of path, query and headers are escaped."""
    url = await logged(app, access_log_format=FORMAT)
    target = '/a%0Ab%0d%1b[31m%22%5c%C2%85%E2%80%A8%E2%80%AE?q="\\'
    headers = ('user-agent: "\\\x7f', 'referer: x" 200 \x85')
    await ask(await connect(url), request(target, "GET", *headers), b"\r\n0\r\n")
    await aeventually(lambda: lines.texts, "it is logged")
    (line,) = lines.texts
    assert line.isprintable()
    assert line.count('"') == 8
    assert "\\x0ab\\x0d\\x1b[31m\\x22\\x5c\\x85\\u2028\\u202e" in line


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("/plain", "/plain"),
        ("/文件 é", "/文件 é"),
        ('"\\', "\\x22\\x5c"),
        ("\ud800\U000e0001", "\\ud800\\U000e0001"),
    ],
)
def test_escaped(text, safe):
    """What prints stays, but quotes and backslashes; all else is its number."""
    assert escaped(text) == safe


async def test_atoms_of_hypercorn(logged, lines, connect, aeventually):
    """All of Hypercorn's atoms, with headers and environment, work as they did."""
    form = "%(l)s|%(R)s|%(st)s|%(S)s|%(H)s|%(B)s|%(T)s|"
    form += "%({user-agent}i)s|%({X-A}o)s|%({PATH}e)s|%({no}i)s"

    async def answers(scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"b")]})
        await send({"type": "http.response.body", "body": b"hello"})

    url = await logged(answers, access_log_format=form)
    await ask(await connect(url), request("/p?q", "GET", "User-Agent: me"), b"\r\n0\r\n")
    await aeventually(lambda: lines.texts, "it is logged")
    *found, path, none = lines.texts[0].split("|")
    assert found == ["-", "GET /p?q 1.1", "OK", "http", "1.1", "5", "0", "me", "b"]
    assert path
    assert none == "-"


async def test_a_logger_of_the_apps_own(server, connect, aeventually):
    """A `logger_class` is called once a request, as Hypercorn calls it."""
    calls = []

    class Own(Logger):
        async def access(self, request, response, request_time):
            calls.append((request["path"], response["status"], request_time >= 0))

    url = await server(app, logger_class=Own)
    await ask(await connect(url), request("/own"), b"\r\n0\r\n")
    await aeventually(lambda: calls, "it is called")
    assert calls == [("/own", 201, True)]


async def test_a_logger_that_fails(server, connect, caplog):
    """A line that cannot be written does the request no harm, and the log says so."""

    class Broken(Logger):
        async def access(self, request, response, request_time):
            raise ValueError("broken")

    stream = await connect(await server(app, logger_class=Broken))
    await ask(stream, request("/1"), b"\r\n0\r\n")
    await ask(stream, request("/2"), b"\r\n0\r\n")
    assert "a line of the access log could not be written" in caplog.text
