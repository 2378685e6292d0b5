"""An export that has failed never looks whole, whatever stands between it and its client.

First in process, where every home, middleware and reason meet; then on real sockets, where the end
of a response is another one in each protocol.
"""

import logging
import zlib

import h11
import pytest
import trio
from _homes import HOMES, bare, starlette
from _middleware import (
    AddsAHeader,
    Copies,
    Counts,
    EndsEarly,
    HoldsTheLastBack,
    PassesOn,
    RewritesAlways,
    Wrapping,
    compresses,
    is_body,
    queues_three_times,
)
from h2.errors import ErrorCodes
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, Response

from flowstream import Disconnect, Limits, csv, ndjson, raw, sse
from flowstream.sources import Source
from flowstream.testing import collect, open_stream

ROWS = [[n, f"name {n}"] for n in range(50)]


# -- what ends a response by itself ------------------------------------------------------------


class Ending(Wrapping):
    """Gives the response an end of its own when the application returns."""

    served = 0  # responses that all of these have ended

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        await self.serve(scope, receive, send)
        Ending.served += 1


class EndsByItself(Ending):
    """Sends on what comes, and knows the end when the application has returned."""

    async def serve(self, scope, receive, send):
        ended = False

        async def pass_on(message):
            nonlocal ended
            ended = is_body(message) and not message.get("more_body")
            await send(message)

        await self.app(scope, receive, pass_on)
        if not ended:
            await send({"type": "http.response.body", "body": b""})


class Joins(Ending):
    """Joins three messages to one, and sends the rest with the end."""

    async def serve(self, scope, receive, send):
        parts = []

        async def collect_some(message):
            if not is_body(message):
                await send(message)
                return
            parts.append(message["body"])
            if len(parts) == 3:
                await send({**message, "body": b"".join(parts), "more_body": True})
                parts.clear()

        await self.app(scope, receive, collect_some)
        await send({"type": "http.response.body", "body": b"".join(parts), "more_body": False})


class Buffers(Ending):
    """Sends all at once when it has all, with its length."""

    async def serve(self, scope, receive, send):
        head, parts = {}, []

        async def keep(message):
            if is_body(message):
                parts.append(message["body"])
            else:
                head.update(message)

        await self.app(scope, receive, keep)
        body = b"".join(parts)
        length = (b"content-length", b"%d" % len(body))
        await send({**head, "headers": [*head["headers"], length]})
        await send({"type": "http.response.body", "body": body})


class SendsAndEndsFromATask(Ending):
    """Has a queue, and a task that sends from it and knows the end when the queue is closed."""

    async def serve(self, scope, receive, send):
        put, get = trio.open_memory_channel(5)

        async def send_on():
            async for message in get:
                await send({**message, "more_body": True} if is_body(message) else message)
            await send({"type": "http.response.body"})

        async with trio.open_nursery() as nursery, put:
            nursery.start_soon(send_on)
            await self.app(scope, receive, put.send)


class AddsTrailers(Ending):
    """Says what the sum was, behind the body."""

    async def serve(self, scope, receive, send):
        async def announce(message):
            if not is_body(message):
                message = {**message, "trailers": True}
            await send(message)

        await self.app(scope, receive, announce)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"1")]})


class BuffersAsStarletteDoes(PassesOn):
    """Reads the body of the response, and makes another response of it."""

    async def dispatch(self, request, call_next):
        answer = await call_next(request)
        body = b"".join([part async for part in answer.body_iterator])
        headers = {key: value for key, value in answer.headers.items() if key != "content-length"}
        return Response(body, answer.status_code, headers)


WRAPPERS = {
    "nothing": lambda app: app,
    "BaseHTTPMiddleware": PassesOn,
    "three queues": queues_three_times,
    "gzip": compresses,
    "gzip outside": lambda app: compresses(PassesOn(app)),
    "gzip inside": lambda app: PassesOn(compresses(app)),
    "adds a header": lambda app: AddsAHeader(PassesOn(app)),
    "rewrites": lambda app: RewritesAlways(PassesOn(app)),
    "copies": lambda app: Copies(EndsByItself(app)),
    "counts": lambda app: Counts(PassesOn(app)),
    "holds the last back": lambda app: HoldsTheLastBack(PassesOn(app)),
    "ends by itself": EndsByItself,
    "joins": Joins,
    "buffers": Buffers,
    "buffers as Starlette does": BuffersAsStarletteDoes,
    "a task": SendsAndEndsFromATask,
}
ENDING = ("copies", "ends by itself", "joins", "buffers", "a task")


# -- how a stream ends -------------------------------------------------------------------------


async def whole():
    for row in ROWS:
        yield row


async def fails():
    for row in ROWS:
        yield row
    raise OSError("the database has gone")


async def is_unwritable():
    for row in ROWS:
        yield row
    yield object


async def goes_on():
    for row in ROWS:
        yield row
    await trio.sleep_forever()


async def blobs():
    yield b"half"
    raise OSError("the disk has gone")


async def floods():
    while True:
        yield ["x" * 1000]


def stops(**options):
    async def rows():
        for row in ROWS:
            yield row
        stream.stop()
        await trio.sleep_forever()

    stream = csv(rows, **options)
    return stream


MADE = {
    "error": lambda **options: csv(fails, **options),
    "error: an item": lambda **options: csv(is_unwritable, **options),
    "error: raw": lambda **options: raw(blobs, **options),
    "error: no controls": lambda **options: ndjson(fails, controls=False, **options),
    "error: SSE without controls": lambda **options: sse(fails, controls=False, **options),
    "max_duration": lambda **options: csv(goes_on, limits=Limits(max_duration=0.02), **options),
    "max_bytes": lambda **options: csv(whole, limits=Limits(max_bytes=300), **options),
    "stopped": stops,
}


@pytest.fixture
def clean(caplog):
    """Return what is logged, from INFO on."""
    caplog.set_level(logging.INFO)
    return caplog


@pytest.fixture
def reports():
    """Return the list of reports, for `on_close`."""
    return []


def reason_of(name):
    return name.partition(":")[0]


class GivesUp(Ending):
    """Has no patience for more than three seconds, and ends what it has sent by then."""

    async def serve(self, scope, receive, send):
        with trio.move_on_after(3):
            await self.app(scope, receive, send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def check_cut(wrapped, home, made, reports):
    app = WRAPPERS[wrapped](HOMES[home](lambda: MADE[made](on_close=reports.append)))
    answer = await collect(app, headers={"accept-encoding": "gzip"}, timeout=10)
    assert not answer.complete
    assert answer.status == 200
    assert [report.reason for report in reports] == [reason_of(made)]


@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize("wrapped", WRAPPERS)
async def test_a_failed_export_is_cut(wrapped, home, autojump_clock, reports):
    """In each home, behind each middleware: the final chunk never comes."""
    await check_cut(wrapped, home, "error", reports)


@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize("made", MADE)
async def test_every_reason_but_completed_is_a_cut(made, home, autojump_clock, reports):
    """Also where middleware has sent nothing before the stream ended."""
    await check_cut("BaseHTTPMiddleware", home, made, reports)
    reports.clear()
    await check_cut("buffers", home, made, reports)


@pytest.mark.parametrize("home", HOMES)
async def test_a_client_that_has_only_closed_its_half(home, autojump_clock, reports):
    """It still reads, and is not told that half is all."""
    app = PassesOn(HOMES[home](lambda: csv(goes_on, on_close=reports.append)))
    async with open_stream(app) as client:
        await client.read(100)
        client.half_close()
        await client.read_all()
        assert not client.complete
    assert [report.reason for report in reports] == ["client_disconnected"]


@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize("wrapped", ["BaseHTTPMiddleware", "three queues", "ends by itself"])
async def test_a_client_that_is_too_slow(wrapped, home, autojump_clock, reports):
    """It is given up, and what it still reads has no end."""
    ended = trio.Event()

    def end(report):
        reports.append(report)
        ended.set()

    def make():
        return csv(floods, policy=Disconnect(), buffer=3, on_close=end)

    async with open_stream(WRAPPERS[wrapped](HOMES[home](make)), window=4000) as client:
        with trio.fail_after(5):
            await ended.wait()
        client.resume()
        await client.read_all()
        assert not client.complete
    assert [report.reason for report in reports] == ["slow_consumer"]


@pytest.mark.parametrize("make", [csv, ndjson, sse], ids=["csv", "ndjson", "sse"])
@pytest.mark.parametrize("home", HOMES)
async def test_what_gives_up_does_not_make_it_whole(home, make, autojump_clock, reports):
    """A stream that is cancelled from outside is cut, in formats with events of ours, too."""
    app = GivesUp(HOMES[home](lambda: make(goes_on, on_close=reports.append)))
    answer = await collect(app)
    assert not answer.complete
    assert answer.body
    assert [report.reason for report in reports] == ["cancelled"]


@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize("wrapped", WRAPPERS)
async def test_a_whole_export_is_whole(wrapped, home, autojump_clock):
    """What has completed has its end, and its length where middleware gives one."""
    answer = await collect(WRAPPERS[wrapped](HOMES[home](lambda: csv(whole))))
    assert answer.complete
    assert answer.body.count(b"\r\n") == len(ROWS)
    assert ("content-length" in answer.headers) == ("buffers" in wrapped)


@pytest.mark.parametrize("wrapped", WRAPPERS)
async def test_a_failure_that_is_told_in_the_body_has_its_end(wrapped, autojump_clock):
    """The format has an event for it: the response is whole."""
    answer = await collect(WRAPPERS[wrapped](bare(lambda: ndjson(fails))))
    assert answer.complete
    assert b"failed" in answer.body.lower()


# -- an answer in its place --------------------------------------------------------------------


class Answers(Buffers):
    """Gives up after three seconds, and answers something of its own."""

    answer = JSONResponse({"error": "too late"}, 504)

    async def serve(self, scope, receive, send):
        with trio.move_on_after(3) as patience:
            await super().serve(scope, receive, send)
        if patience.cancelled_caught:
            await self.answer(scope, receive, send)


class AnswersWithNothing(Answers):
    answer = Response(status_code=204)


class AnswersFromACache(Answers):
    answer = Response("an older one")


@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize("answers", [Answers, AnswersWithNothing])
async def test_an_answer_in_place_of_it_is_whole(answers, home, autojump_clock, reports):
    """Its status says that it is no part of the stream, which had begun and was given up."""
    answer = await collect(answers(HOMES[home](lambda: csv(goes_on, on_close=reports.append))))
    assert [report.reason for report in reports] == ["cancelled"]
    assert answer.status == answers.answer.status_code
    assert answer.body == answers.answer.body
    assert answer.complete


@pytest.mark.parametrize("home", HOMES)
async def test_a_success_in_place_of_it_is_taken_for_the_stream(home, autojump_clock):
    """It can't be told from half an export, and is cut."""
    answer = await collect(AnswersFromACache(HOMES[home](lambda: csv(goes_on))))
    assert not answer.complete
    assert "content-length" not in answer.headers


@pytest.mark.parametrize("home", ["starlette", "fastapi"])
async def test_a_stream_that_fails_before_its_head(home, autojump_clock):
    """The framework's own answer is whole."""

    async def at_once():
        raise OSError("there is no database")
        yield

    app = PassesOn(HOMES[home](lambda: csv(at_once, prime=5)))
    answer = await collect(app, raise_app_exceptions=False)
    assert (answer.status, answer.complete) == (500, True)


# -- on real sockets ---------------------------------------------------------------------------


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
    await aeventually(lambda: Ending.served - served == len(ENDING), "all have ended")
    assert "Error in ASGI Framework" not in clean.text


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


@pytest.mark.parametrize("wrapped", ["nothing", "BaseHTTPMiddleware", "buffers", "a task"])
@pytest.mark.parametrize("home", HOMES)
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
