"""A shutdown in stages: what streams, other requests and the app's lifespan see of it."""

import json
import re
import socket
import ssl
from urllib.parse import urlsplit

import httpx2
import hypercorn.trio
import pytest
import trio
from hypercorn.config import Config
from hypercorn.utils import LifespanFailureError, LifespanTimeoutError
from quart_trio import QuartTrio
from starlette.applications import Starlette
from starlette.routing import Route
from trio.testing import wait_all_tasks_blocked

import flowstream
from flowstream import ndjson, sse
from flowstream.quart import Flowstream
from flowstream.server import ServerConfig

FORMATS = {"/sse": sse, "/ndjson": ndjson}
in_thread = trio.to_thread.run_sync
PLAIN = {"serve": hypercorn.trio.serve, "make": Config}
LATE = 60  # seconds that no test is willing to wait


class Serving:
    """A server that can be told to stop.

    Attributes:
        url: where it listens.
        ended: set when its `serve()` has returned or raised.
        error: what it raised.
    """

    def __init__(self):
        self._stop = trio.Event()
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self.error = None

    async def run(self, serve, app, config, *, task_status):
        try:
            with self.scope:
                await serve(app, config, shutdown_trigger=self._stop.wait, task_status=task_status)
        except Exception as error:  # noqa: BLE001  # for the test to look at
            self.error = error
        finally:
            self.ended.set()

    def stop(self):
        self._stop.set()

    async def end(self, seconds=10):
        """Tell it to stop and return how long it took."""
        self.stop()
        start = trio.current_time()
        with trio.fail_after(seconds):
            await self.ended.wait()
        return trio.current_time() - start


@pytest.fixture
async def start(caplog):
    """Serve an app: ``await start(app, **settings)`` is a `Serving`."""
    async with trio.open_nursery() as nursery:

        async def start_one(app, *, serve=flowstream.serve, make=ServerConfig, **settings):
            serving = Serving()
            config = make()
            common = {"bind": ["127.0.0.1:0"], "errorlog": None, "graceful_timeout": LATE}
            for name, value in {**common, **settings}.items():
                setattr(config, name, value)

            async def run(task_status):
                await serving.run(serve, app, config, task_status=task_status)

            (serving.url,) = await nursery.start(run)
            return serving

        yield start_one
        nursery.cancel_scope.cancel()


async def waits(out):
    await out.send("first")
    await trio.sleep_forever()


async def floods(out):
    while True:
        await out.send("x" * 16_000)


def plain(make):
    async def app(scope, receive, send):
        assert scope["type"] == "http"  # to return would crash Hypercorn
        await make(scope["path"])(scope, receive, send)

    return app


def starlette(make):
    async def view(request):
        return make(request.url.path)

    return Starlette(routes=[Route(path, view) for path in FORMATS])


def quart(make):
    app = QuartTrio("shutdown")
    Flowstream(app)

    @app.get("/<path:path>")
    async def view(path):
        return make(f"/{path}")

    return app


@pytest.mark.parametrize("transport", ["http1", "tls", "http2"])
@pytest.mark.parametrize("framework", [plain, starlette, quart])
async def test_every_stream_gets_its_farewell(start, certificate, authority, framework, transport):
    """SSE and NDJSON streams end with `reconnect`, reason `shutdown`, whatever carries them."""
    reports = []

    def make(path):
        return FORMATS[path](waits, on_close=reports.append)

    tls = certificate if transport != "http1" else {}
    serving = await start(framework(make), **tls)
    bodies = {}
    context = httpx2.create_ssl_context()
    authority.configure_trust(context)
    async with (
        httpx2.AsyncClient(verify=context, http2=transport == "http2") as client,
        trio.open_nursery() as nursery,
    ):

        async def read(path, task_status):
            async with client.stream("GET", f"{serving.url}{path}") as response:
                version = "HTTP/2" if transport == "http2" else "HTTP/1.1"
                assert response.http_version == version
                bodies[path] = ""
                async for text in response.aiter_text():
                    bodies[path] += text
                    if "first" in text:
                        task_status.started()

        for path in FORMATS:
            await nursery.start(read, path)
        assert await serving.end() < LATE / 10
    *_, last = bodies["/sse"].strip().split("\n\n")
    fields = dict(line.split(": ", 1) for line in last.splitlines())
    assert 1000 <= int(fields.pop("retry")) <= 3000
    assert fields == {"event": "reconnect", "data": '{"reason":"shutdown"}'}
    *_, last = bodies["/ndjson"].splitlines()
    farewell = json.loads(last)
    assert (farewell["type"], farewell["data"]) == ("reconnect", {"reason": "shutdown"})
    assert [str(report.reason) for report in reports] == ["shutdown", "shutdown"]


async def test_clients_do_not_come_back_at_once(start, client):
    """Of twenty streams hardly two are told to wait for the same time."""
    serving = await start(plain(lambda _: sse(waits)))
    clients = [client(serving.url) for _ in range(20)]
    for one in clients:
        one.get("/sse")
    for one in clients:
        await in_thread(one.read_until, b"first")
    await serving.end()
    bodies = [await in_thread(one.read_all) for one in clients]
    assert (
        len({re.search(rb"event: reconnect(.|\n)*retry: (\d+)", body)[2] for body in bodies}) > 10
    )


async def test_a_producer_that_has_ended_is_complete(start, client, aeventually):
    """What is left to write of a stream is written, and it ends with `completed`."""
    reports, made = [], []

    async def all_at_once(out):
        for _ in range(40):
            await out.send("x" * 16_000)
        made.append(True)

    def response(path):
        return sse(all_at_once, on_close=reports.append)

    serving = await start(plain(response))
    slow = client(serving.url, receive_buffer=4096)
    slow.get("/sse")
    await aeventually(lambda: made, "the producer has ended")
    serving.stop()
    await aeventually(lambda: refused(serving.url), "nothing more is accepted")
    assert not serving.ended.is_set()
    body = await in_thread(slow.read_all)
    await serving.end()
    assert body.count(b"x" * 16_000) == 40
    assert b'data: {"reason":"completed"}' in body
    assert body.endswith(b"0\r\n\r\n")
    assert [str(report.reason) for report in reports] == ["completed"]


async def test_an_idle_connection_is_closed_at_once(start, client):
    """A connection that waits for another request does not hold up the shutdown."""
    serving = await start(plain(lambda _: sse(["a"])), keep_alive_timeout=LATE)
    idle = client(serving.url)
    idle.get("/sse")
    await in_thread(idle.read_until, b"0\r\n\r\n")
    assert await serving.end() < LATE / 10
    assert await in_thread(idle.read_all) == b""


async def test_an_idle_connection_of_a_quart_app(start, client):
    """It is closed at once, too, though Quart cancels a request while its response ends."""
    serving = await start(greeting(), keep_alive_timeout=LATE)
    idle = client(serving.url)
    idle.get()
    await in_thread(idle.read_until, b"hello")
    await wait_all_tasks_blocked()
    assert await serving.end() < LATE / 10


async def test_a_first_request_on_its_way_is_answered(start, client, aeventually):
    """A request that arrives after the shutdown began is answered, with `Connection: close`."""
    serving = await start(plain(lambda _: sse(["a"])))
    early = client(serving.url)
    early.send(b"GET /sse HTTP/1.1\r\nHo")
    served = client(serving.url)  # accepted after `early`
    served.get("/sse")
    await in_thread(served.read_until, b"0\r\n\r\n")
    serving.stop()
    await aeventually(lambda: refused(serving.url), "nothing more is accepted")
    assert not serving.ended.is_set()
    early.send(b"st: localhost\r\n\r\n")
    answer = (await in_thread(early.read_all)).lower()
    assert answer.startswith(b"http/1.1 200")
    assert b"\r\nconnection: close\r\n" in answer
    assert await serving.end() < LATE / 10


async def test_a_stream_that_begins_during_it(start, client, aeventually):
    """A stream that is asked for after the shutdown began has its farewell and no producer."""
    ran, reports = [], []

    async def produce(out):
        await trio.lowlevel.checkpoint()
        ran.append(True)

    serving = await start(plain(lambda _: sse(produce, on_close=reports.append)))
    early = client(serving.url)
    early.send(b"GET /sse HTTP/1.1\r\nHo")
    served = client(serving.url)
    served.get("/none", method="HEAD")
    await in_thread(served.read_until, b"\r\n\r\n")
    reports.clear()
    serving.stop()
    await aeventually(lambda: refused(serving.url), "nothing more is accepted")
    early.send(b"st: localhost\r\n\r\n")
    answer = await in_thread(early.read_all)
    assert b"HTTP/1.1 200" in answer
    assert b"event: reconnect" in answer
    await serving.end()
    assert [str(report.reason) for report in reports] == ["shutdown"]
    assert not ran


async def test_what_is_late_is_reset(start, client, caplog):
    """After graceful_timeout, and not before, what still runs is cancelled and reset."""
    cancelled = []

    async def app(scope, receive, send):
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(True)

    serving = await start(app, graceful_timeout=0.3)
    late = client(serving.url)
    late.get()
    await in_thread(late.read_until, b"begun")
    assert 0.3 <= await serving.end() < 3
    assert cancelled
    with pytest.raises(ConnectionResetError):
        await in_thread(late.socket.recv, 1)
    assert "shutdown: 1 connections are reset" in caplog.text


async def test_the_lifespan_ends_last(start, client):
    """The app's own shutdown begins when the last stream has its report."""
    order = []

    async def produce(out):
        try:
            await out.send("first")
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.05)
            order.append("producer")

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            for phase in ("startup", "shutdown"):
                assert (await receive())["type"] == f"lifespan.{phase}"
                order.append(phase)
                await send({"type": f"lifespan.{phase}.complete"})
            return
        await sse(produce, on_close=lambda _: order.append("report"))(scope, receive, send)

    serving = await start(app)
    reader = client(serving.url)
    reader.get()
    await in_thread(reader.read_until, b"first")
    await serving.end()
    assert order == ["startup", "producer", "report", "shutdown"]


async def test_max_requests_is_a_shutdown_in_stages(start, client):
    """Where somebody sets max_requests, the streams that are open get their farewell."""
    serving = await start(plain(lambda _: sse(waits)), max_requests=1)
    first, second = client(serving.url), client(serving.url)
    for one in (first, second):
        one.get("/sse")
    for one in (first, second):
        assert b"event: reconnect" in await in_thread(one.read_all)
    with trio.fail_after(10):
        await serving.ended.wait()
    assert serving.error is None


@pytest.mark.parametrize("transport", ["http1", "tls"])
async def test_a_stalled_client_does_not_hold_it_up(
    start, client, aeventually, certificate, authority, transport
):
    """It is reset when graceful_timeout is over, whatever was on its way to it."""
    reports = []
    tls = certificate if transport == "tls" else {}
    serving = await start(
        plain(lambda _: sse(floods, on_close=reports.append)), graceful_timeout=0.3, **tls
    )
    await stall(client, serving.url, authority)
    await wait_all_tasks_blocked(0.05)
    assert 0.3 <= await serving.end() < 3
    assert serving.error is None
    assert [str(report.reason) for report in reports] == ["shutdown"]


@pytest.mark.parametrize("transport", ["http1", "tls"])
@pytest.mark.parametrize("stage", ["serving", "shutting down"])
async def test_cancelling_it_ends_it_at_once(
    start, client, aeventually, certificate, authority, transport, stage
):
    """serve() that is cancelled from outside waits for no write, shielded as they are."""
    reports = []
    tls = certificate if transport == "tls" else {}
    serving = await start(plain(lambda _: sse(floods, on_close=reports.append)), **tls)
    await stall(client, serving.url, authority)
    await wait_all_tasks_blocked(0.05)
    if stage == "shutting down":
        serving.stop()
        await aeventually(lambda: refused(serving.url), "nothing more is accepted")
    serving.scope.cancel()
    with trio.fail_after(3):
        await serving.ended.wait()
    expected = "cancelled" if stage == "serving" else "shutdown"
    assert [str(report.reason) for report in reports] == [expected]


async def test_a_lifespan_that_dies_ends_the_server(start, client):
    """A task in Quart's app.nursery that fails takes the lifespan along, and the server, in
    stages: a supervisor starts it anew.
    """
    serving = await start(dying())
    reader = client(serving.url)
    reader.get("/stream")
    await in_thread(reader.read_until, b"first")
    client(serving.url).get("/die")
    assert b"event: reconnect" in await in_thread(reader.read_all)
    with trio.fail_after(10):
        await serving.ended.wait()
    assert find(serving.error, LifespanFailureError)


async def test_a_lifespan_that_does_not_end(start):
    """An app that hangs in its shutdown is given up, and the error says that it was this."""

    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await trio.sleep_forever()

    serving = await start(app, shutdown_timeout=0.1)
    await serving.end()
    assert "awaiting shutdown" in str(find(serving.error, LifespanTimeoutError))


class TestPlainHypercorn:
    """The faults, as Hypercorn has them: if one of these fails, a release has mended it."""

    async def test_a_stalled_client_holds_up_the_shutdown(self, start, client):
        """graceful_timeout is long over, and the server still waits for the client."""
        serving = await start(plain(lambda _: sse(floods)), **PLAIN, graceful_timeout=0.1)
        stalled = client(serving.url, receive_buffer=4096)
        stalled.get()
        await in_thread(stalled.socket.recv, 1000)
        await wait_all_tasks_blocked(0.05)
        with pytest.raises(trio.TooSlowError):
            await serving.end(1)
        stalled.socket.close()
        await serving.end()

    async def test_a_stream_gets_no_farewell(self, start, client):
        """A stream is cut when graceful_timeout is over."""
        serving = await start(plain(lambda _: sse(waits)), **PLAIN, graceful_timeout=0.1)
        reader = client(serving.url)
        reader.get()
        await in_thread(reader.read_until, b"first")
        await serving.end()
        assert b"reconnect" not in await in_thread(reader.read_all)

    async def test_an_idle_connection_of_a_quart_app_stays(self, start, client):
        """Neither keep_alive_timeout nor a shutdown ends it: only graceful_timeout does."""
        serving = await start(greeting(), **PLAIN, keep_alive_timeout=0.1, graceful_timeout=0.7)
        idle = client(serving.url)
        idle.get()
        await in_thread(idle.read_until, b"hello")
        await trio.sleep(0.3)  # well beyond keep_alive_timeout
        assert await serving.end() >= 0.7

    async def test_it_goes_on_without_a_lifespan(self, start, client):
        """An app whose lifespan has died is served on, and every task of it fails."""
        serving = await start(dying(), **PLAIN, graceful_timeout=0.1)
        for _ in range(2):
            one = client(serving.url)
            one.get("/die")
            status = (await in_thread(one.read_until, b"\r\n"))[:12]
        assert status == b"HTTP/1.1 500"
        await serving.end()


def greeting():
    app = QuartTrio("greeting")

    @app.get("/")
    async def greet():
        return "hello"

    return app


def dying():
    app = QuartTrio("dying")
    Flowstream(app)

    @app.get("/stream")
    async def stream():
        return sse(waits)

    @app.get("/die")
    async def die():
        async def fail():
            raise RuntimeError("a background task of this test")

        app.nursery.start_soon(fail)
        return ""

    return app


async def stall(client, url, authority):
    """Ask for a stream and read nothing of it."""
    stalled = client(url, receive_buffer=4096)
    if url.startswith("https"):
        context = ssl.create_default_context()
        authority.configure_trust(context)
        context.set_alpn_protocols(["http/1.1"])

        def shake_hands():
            stalled.socket = context.wrap_socket(stalled.socket, server_hostname="127.0.0.1")

        await in_thread(shake_hands)
    await in_thread(stalled.get)


def refused(url):
    address = urlsplit(url)
    try:
        socket.create_connection((address.hostname, address.port), 5).close()
    except ConnectionRefusedError:
        return True
    return False


def find(error, kind):
    """Return the first exception of that kind in a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, kind)
    return error
