"""An export that has failed never looks whole on a real socket: its end differs by protocol.

Chunks without a last one, a connection that is closed or reset, an HTTP/2 stream that is reset.
"""

import logging
import zlib

import h11
import pytest
import trio
import trio.testing
from _ending import (
    ENDED,
    WRAPPERS,
    AddsTrailers,
    Ending,
    blobs,
    fails,
    goes_on,
    whole,
)
from _homes import HOMES, bare, fastapi, starlette
from _middleware import EndsEarly, PassesOn, Wrapping
from h2.errors import ErrorCodes
from starlette.background import BackgroundTask
from starlette.middleware import Middleware

import flowstream
from flowstream import Limits, Topic, csv, ndjson, raw, sse
from flowstream.server import streaming_config
from flowstream.sources import Source


@pytest.fixture
def reports():
    """Return the list of reports, for `on_close`."""
    return []


@pytest.fixture
def clean(caplog):
    """Return what is logged, from INFO on."""
    caplog.set_level(logging.INFO)
    return caplog


def dispatching(wrappers, home, make):
    """Return an app that has an app behind each middleware: its number is the path."""
    apps = [wrap(HOMES[home](make)) for wrap in wrappers]

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await apps[int(scope["path"].strip("/"))](scope, receive, send)

    return app


async def fetch(connect, url, path, *headers, version="1.1", method="GET"):
    """Return what comes on a connection of its own, and whether it was reset at the end."""
    stream = await connect(url)
    lines = [f"{method} {path} HTTP/{version}", "Host: localhost", *headers, "", ""]
    await stream.send_all("\r\n".join(lines).encode())
    data = b""
    with trio.fail_after(10):
        try:
            while more := await stream.receive_some():
                data += more
        except trio.BrokenResourceError:
            return data, True
    return data, False


def parsed(data, method="GET"):
    """Return the head and the body of an HTTP/1.1 response, and whether it is whole."""
    parser, head, body = h11.Connection(h11.CLIENT), None, b""
    parser.send(h11.Request(method=method, target="/", headers=[("Host", "localhost")]))
    parser.send(h11.EndOfMessage())
    parser.receive_data(data)
    parser.receive_data(b"")
    try:
        while not isinstance(event := parser.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                head = event
            else:
                body += bytes(event.data)
    except h11.RemoteProtocolError:
        return head, body, False
    return head, body, True


def unpacked(head, body):
    """Return a body as it was before it was compressed, as far as there is one."""
    if (b"content-encoding", b"gzip") in head.headers:
        body = zlib.decompressobj(31).decompress(body)
    return body.upper()


@pytest.mark.parametrize("home", HOMES)
async def test_chunks_without_a_last_one(home, server, connect, aeventually, clean):
    """HTTP/1.1: the rows that came, no final chunk, and the middleware hears nothing of it."""
    url = await server(dispatching(WRAPPERS.values(), home, lambda: csv(fails)))
    served = Ending.served
    for number, name in enumerate(WRAPPERS):
        data, reset = await fetch(connect, url, f"/{number}", "Accept-Encoding: gzip")
        head, body, whole = parsed(data)
        assert (whole, reset) == (False, False), name
        if not name.startswith("gzip"):  # which holds some back
            assert b"49,NAME 49" in unpacked(head, body), name
    await aeventually(lambda: Ending.served - served == ENDED, "all have ended")
    assert "Error in ASGI Framework" not in clean.text


@pytest.mark.parametrize("wrapped", ["nothing", "BaseHTTPMiddleware", "buffers"])
async def test_a_request_that_comes_in_pieces(wrapped, server, connect):
    """The server reads it in another way, and cuts its response in the same way."""
    stream = await connect(await server(WRAPPERS[wrapped](bare(lambda: csv(fails)))))
    for piece in (b"GET / HTTP/1.1\r\nHo", b"st: localhost\r\nContent-Length: 2\r\n\r\n", b"ok"):
        await stream.send_all(piece)
        await trio.testing.wait_all_tasks_blocked()
    data = b""
    with trio.fail_after(10):
        while more := await stream.receive_some():
            data += more
    body, whole = parsed(data)[1:]
    assert body.endswith(b"49,name 49\r\n")
    assert not whole


@pytest.mark.parametrize("home", HOMES)
async def test_a_close_that_would_be_the_end(home, server, connect):
    """HTTP/1.0: the connection is reset, as what says by itself that it ends is not."""
    wrappers = dict.fromkeys(["nothing", "BaseHTTPMiddleware", "gzip", "a task", "buffers"])
    wrappers = [WRAPPERS[name] for name in wrappers]
    url = await server(dispatching(wrappers, home, lambda: csv(fails)))
    for number in range(len(wrappers)):
        data, reset = await fetch(connect, url, f"/{number}", version="1.0")
        assert reset, number  # and may have overtaken what was sent
    url = await server(dispatching(wrappers, home, lambda: csv(whole)))
    for number in range(len(wrappers)):
        data, reset = await fetch(connect, url, f"/{number}", version="1.0")
        assert not reset, number
        assert b"49,name 49" in data, number


async def test_any_app_that_returns_without_an_end(server, connect):
    """Over HTTP/1.0 its connection is reset, too."""

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200})  # headers may be left out
            await send({"type": "http.response.body", "body": b"half", "more_body": True})

    _, reset = await fetch(connect, await server(app), "/", version="1.0")
    assert reset


class Fewer(Source):
    """Promises ten bytes and makes five."""

    length = 10

    async def run(self, out):
        await out.send(b"12345")


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("home", HOMES)
async def test_fewer_bytes_than_the_length(home, version, server, connect, caplog):
    """The connection is closed before they are complete; nobody is told of an app's mistake."""
    names = ("nothing", "BaseHTTPMiddleware", "ends by itself", "a task")
    wrappers = [WRAPPERS[name] for name in names]
    url = await server(dispatching(wrappers, home, lambda: raw(Fewer())))
    for number in range(len(wrappers)):
        data, reset = await fetch(connect, url, f"/{number}", version=version)
        assert not reset
        head, body, whole = parsed(data)
        assert (body, whole) == (b"12345", False), number
        assert (b"content-length", b"10") in head.headers
    assert "Error in ASGI Framework" not in caplog.text


@pytest.mark.parametrize("home", HOMES)
async def test_one_http2_stream_is_reset(home, server, http2, clean):
    """Each cut resets its own stream; the others of the connection go on."""
    going_on_since, going_on_until = trio.Event(), trio.Event()

    async def going_on():
        going_on_since.set()
        yield "first"
        await going_on_until.wait()
        yield "last"

    def make():
        return csv(fails) if going_on_since.is_set() else ndjson(going_on)

    wrappers = {**WRAPPERS, "trailers": AddsTrailers}
    url = await server(dispatching(wrappers.values(), home, make))
    peer = await http2(url)
    neighbour = await peer.get("/0")
    await peer.until(lambda: b"first" in peer.bodies[neighbour])
    for number, name in enumerate(wrappers):
        stream = await peer.get(f"/{number}", ("te", "trailers"))
        body = await peer.finished(stream)
        assert stream not in peer.ended, name
        assert peer.resets[stream] is ErrorCodes.INTERNAL_ERROR, name
        assert name.startswith("gzip") or b"49,NAME 49" in body.upper(), name
    assert set(peer.resets) == set(peer.bodies) - {neighbour}
    going_on_until.set()
    await peer.finished(neighbour)
    assert neighbour in peer.ended
    assert "Error in ASGI Framework" not in clean.text


@pytest.mark.parametrize(
    ("home", "wrapped"),
    [*((home, "BaseHTTPMiddleware") for home in HOMES), ("bare", "nothing"), ("bare", "buffers")],
)
async def test_curl_says_that_it_failed(home, wrapped, server, program):
    """By its exit status: 18, 92 and 56; a whole table is 0."""
    url = await server(dispatching([WRAPPERS[wrapped]], home, lambda: csv(fails)))
    curl = program("curl")
    for option, status in {
        "--http1.1": 18,
        "--http2-prior-knowledge": 92,
        "--http1.0": 56,
    }.items():
        with trio.fail_after(20):
            done = await trio.run_process(
                [curl, "-sS", option, f"{url}/0"],
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
        assert done.returncode == status, (option, done.stderr)
        # What is reset is forgotten, by curl or on the way there.
        assert status != 18 or b"49,name 49" in done.stdout


@pytest.mark.parametrize("version", ["1.0", "1.1", "2"])
async def test_the_documented_middleware_of_fastapi(version, server, connect, http2):
    """`@app.middleware("http")`, as FastAPI's own pages show it."""
    app = fastapi(lambda: csv(fails))

    @app.middleware("http")
    async def add_process_time_header(request, call_next):
        answer = await call_next(request)
        answer.headers["X-Process-Time"] = "0"
        return answer

    url = await server(app)
    if version == "2":
        peer = await http2(url)
        await peer.finished(number := await peer.get())
        assert peer.resets == {number: ErrorCodes.INTERNAL_ERROR}
        assert peer.headers[number]["x-process-time"] == "0"
    else:
        data, reset = await fetch(connect, url, "/", version=version)
        assert reset == (version == "1.0")
        assert reset or not parsed(data)[2]


@pytest.mark.parametrize("wrapped", ["nothing", "BaseHTTPMiddleware"])
@pytest.mark.parametrize("home", HOMES)
async def test_a_topic_whose_time_is_over(home, wrapped, server, connect, http2, reports):
    """A stream that needs no task of its own is cut as well."""
    topic = Topic("t")

    def make():
        limits = Limits(max_duration=0.05)
        return ndjson(topic, controls=False, limits=limits, on_close=reports.append)

    url = await server(dispatching([WRAPPERS[wrapped]], home, make))
    data, _ = await fetch(connect, url, "/0")
    assert not parsed(data)[2]
    _, reset = await fetch(connect, url, "/0", version="1.0")
    assert reset
    peer = await http2(url)
    await peer.finished(number := await peer.get("/0"))
    assert number in peer.resets
    assert [report.reason for report in reports] == ["max_duration"] * 3


@pytest.mark.parametrize("home", HOMES)
async def test_a_server_that_shuts_down(home, client, reports):
    """It cuts what is under way, and what has an event for it has its end."""
    stop, streams = trio.Event(), []

    def make():
        streams.append(None)
        if len(streams) == 1:
            return csv(goes_on, on_close=reports.append)
        return ndjson(goes_on, on_close=reports.append)

    config = streaming_config(bind=["127.0.0.1:0"], errorlog=None)
    app = PassesOn(HOMES[home](make))

    async def serving(task_status):
        await flowstream.serve(app, config, shutdown_trigger=stop.wait, task_status=task_status)

    with trio.fail_after(15):
        async with trio.open_nursery() as nursery:
            (url,) = await nursery.start(serving)
            peers, begun = [client(url), client(url)], []
            for peer in peers:
                peer.get("/")
                begun.append(await trio.to_thread.run_sync(peer.read_until, b"name 49"))
            stop.set()
            rest = [await trio.to_thread.run_sync(peer.read_all) for peer in peers]
    assert [parsed(a + b)[2] for a, b in zip(begun, rest, strict=True)] == [False, True]
    assert {report.reason for report in reports} == {"shutdown"}


async def test_a_cut_under_tls(server, connect, certificate):
    """Where the end of the connection is said by TLS itself, it is not said over HTTP/1.0."""
    url = await server(PassesOn(bare(lambda: csv(fails))), **certificate)
    data, reset = await fetch(connect, url, "/")
    assert not reset
    assert not parsed(data)[2]
    _, reset = await fetch(connect, url, "/", version="1.0")
    assert reset


async def test_a_request_behind_a_cut_response_is_not_answered(server, connect, clean):
    """Its connection has no place for an answer."""
    asked = []

    def make():
        asked.append(None)
        return csv(fails)

    stream = await connect(await server(PassesOn(bare(make))))
    await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)
    data = b""
    with trio.fail_after(10):
        try:
            while more := await stream.receive_some():
                data += more
        except trio.BrokenResourceError:  # there were requests that nobody has read
            pass
    assert data.count(b"HTTP/1.1 200") == len(asked) == 1
    assert b"\r\n0\r\n" not in data
    assert "Error in ASGI Framework" not in clean.text


# -- what stays as it was ----------------------------------------------------------------------


class WorksOn(PassesOn):
    """Has work to do behind each response."""

    async def dispatch(self, request, call_next):
        answer = await call_next(request)
        answer.background = BackgroundTask(request.app.state.go_on.wait)
        return answer


@pytest.mark.parametrize("version", ["1.0", "1.1", "2"])
async def test_the_cut_does_not_wait_for_work_behind_it(version, server, connect, http2):
    """It comes when the end would have come, while the application goes on."""
    app = starlette(lambda: csv(fails), [Middleware(WorksOn)])
    app.state.go_on = trio.Event()
    url = await server(app)
    if version == "2":
        peer = await http2(url)
        await peer.finished(stream := await peer.get())
        assert stream in peer.resets
    else:
        data, reset = await fetch(connect, url, "/", version=version)
        assert reset == (version == "1.0")
        assert reset or not parsed(data)[2]
    app.state.go_on.set()


class SendsForEver(PassesOn):
    """Goes on behind the end, as one does that has lost count."""

    async def __call__(self, scope, receive, send):
        await super().__call__(scope, receive, send)
        while scope["type"] == "http":
            await send({"type": "http.response.body", "body": b"more", "more_body": True})


@pytest.mark.parametrize("version", ["1.0", "1.1", "2"])
async def test_what_goes_on_behind_the_end(version, server, connect, http2, clean, aeventually):
    """It hears that nobody is there any more, as after a disconnect, and others go on."""
    ended = []

    async def app(scope, receive, send):
        try:
            await wrapped(scope, receive, send)
        except OSError as error:
            ended.append(type(error).__name__)
            raise

    wrapped = SendsForEver(bare(lambda: csv(fails)))
    url = await server(app)
    if version == "2":
        peer = await http2(url)
        body = await peer.finished(await peer.get())
    else:
        data, _ = await fetch(connect, url, "/", version=version)
        body = parsed(data)[1] if version == "1.1" else data
    assert b"more" not in body
    await aeventually(lambda: ended == ["ClientGoneError"], "it has heard of it")
    assert "Error in ASGI Framework" not in clean.text


@pytest.mark.parametrize("home", HOMES)
async def test_the_access_log_has_one_line_of_it(home, server, connect, aeventually):
    """With the status that was sent, the bytes that came, and why the stream ended."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    log = logging.Logger("tests.access", logging.INFO)
    log.addHandler(handler)
    names = ["nothing", "BaseHTTPMiddleware", "ends by itself", "buffers", "a task"]
    app = dispatching([WRAPPERS[name] for name in names], home, lambda: raw(blobs))
    url = await server(app, accesslog=log, access_log_format="%(s)s %(b)s %(reason)s")
    for version in ("1.1", "1.0"):
        for number, name in enumerate(names):
            await fetch(connect, url, f"/{number}", version=version)
            await aeventually(lambda: lines, "a line is written")
            assert lines == ["200 4 error"], (name, version)
            lines.clear()


async def test_a_client_that_closes_its_half_on_a_socket(server, connect, aeventually, reports):
    """Nothing that looks like an end comes, with HTTP/1.0 neither."""
    url = await server(PassesOn(bare(lambda: csv(goes_on, on_close=reports.append))))
    for version in ("1.0", "1.1"):
        stream = await connect(url)
        await stream.send_all(f"GET / HTTP/{version}\r\nHost: localhost\r\n\r\n".encode())
        data = await stream.receive_some()
        await stream.send_eof()
        with trio.fail_after(10):
            try:
                while more := await stream.receive_some():
                    data += more
            except trio.BrokenResourceError:
                assert version == "1.0"
            else:
                assert version == "1.1"
                assert not parsed(data)[2]
    assert [report.reason for report in reports] == ["client_disconnected"] * 2


@pytest.mark.parametrize("home", HOMES)
async def test_head_and_an_empty_answer(home, server, connect):
    """What has no body is as it was: a HEAD, also as middleware turns it into a GET, and a 204."""

    class HeadIsGet(Wrapping):
        async def __call__(self, scope, receive, send):
            if scope["type"] == "http":
                scope = {**scope, "method": "GET"}
            await self.app(scope, receive, send)

    made = [lambda: csv(fails), lambda: sse(fails, controls=False)]
    apps = [HOMES[home](make) for make in made]

    async def app(scope, receive, send):
        if scope["type"] == "http":
            wrap = HeadIsGet if scope["path"] == "/get" else PassesOn
            await wrap(apps[scope["path"] == "/204"])(scope, receive, send)

    url = await server(app)
    for path in ("/", "/get"):
        data, reset = await fetch(connect, url, path, "Connection: close", method="HEAD")
        assert not reset
        assert parsed(data, "HEAD")[1:] == (b"", True)
    data, reset = await fetch(connect, url, "/204", "Last-Event-ID: 1", "Connection: close")
    head, body, whole = parsed(data)
    assert (head.status_code, body, whole, reset) == (204, b"", True, False)


async def test_a_connection_goes_on_after_an_end_that_came_before(server, connect):
    """Middleware has ended the body before the stream was given up: that end counts."""

    async def endless():
        while True:
            yield b"x" * 1000

    app = EndsEarly(bare(lambda: raw(endless)))
    stream = await connect(await server(app))
    get = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with trio.fail_after(10):
        for _ in range(2):
            await stream.send_all(get)
            data = b""
            while not data.endswith(b"0\r\n\r\n"):
                data += await stream.receive_some()
            assert parsed(data)[1:] == (b"x" * 3000, True)
