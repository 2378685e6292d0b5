"""Direct writes at home: where they are on by themselves, where not, and who says why."""

import functools
import logging

import pytest
import trio
from _homes import HOMES, bare, fastapi, quart, starlette
from fastapi import APIRouter, FastAPI
from quart_trio import QuartTrio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import Response
from starlette.routing import Mount, Route, Router

from flowstream import Limits, Runs, Topic, csv, ndjson, sse
from flowstream.asgi import _between
from flowstream.asgi._direct_write import NotDirect
from flowstream.quart import Flowstream
from flowstream.starlette import response

EVENTS = 10


@pytest.fixture(autouse=True)
def nothing_was_told():
    """What stands between is named once in a process: here, once in a test."""
    _between.tell.cache_clear()


class Trial:
    """Streams of one topic to one client each, one request at a time.

    Attributes:
        stream: the last one.
        topic: what it streams.
    """

    def __init__(self, server, client, aeventually):
        self._server, self._client, self._eventually = server, client, aeventually
        self.topic = Topic("trial")
        self.stream = None

    def make(self, kind=sse, **options):
        self.stream = kind(self.topic, **options)
        return self.stream

    async def run(self, app, *headers, path="/", version="1.1", event="<{}>".format, **settings):
        """Publish `EVENTS` to a client that keeps up; return what it got."""
        peer = self._client(await self._server(app, **settings))
        await trio.to_thread.run_sync(lambda: peer.get(path, *headers, version=version))
        await self._eventually(lambda: self.topic.subscribers, "the client has subscribed")
        await trio.testing.wait_all_tasks_blocked(0.02)
        for number in range(EVENTS):
            await self.topic.publish(event(number))
            await trio.testing.wait_all_tasks_blocked(0.002)
        self.moment = self.stream.statistics()
        await self.topic.aclose()
        end = b"0\r\n\r\n" if version == "1.1" else b"completed"
        return await trio.to_thread.run_sync(peer.read_until, end)

    @property
    def direct(self):
        """How many of the events were written directly, by both accounts."""
        topic = self.topic.statistics()
        assert topic.deliveries == self.moment.items == EVENTS
        assert topic.direct_deliveries == self.moment.direct_items
        return self.moment.direct_items

    @property
    def why_not(self):
        return self.moment.why_not_direct


@pytest.fixture
def trial(server, client, aeventually):
    return Trial(server, client, aeventually)


@pytest.mark.parametrize("home", HOMES)
async def test_every_delivery_is_a_direct_write(home, trial, caplog):
    """In each home, with nothing to set: the log says so at DEBUG, and nothing at INFO."""
    caplog.set_level(logging.DEBUG, "flowstream")
    await trial.run(HOMES[home](trial.make))
    assert trial.direct == EVENTS
    assert trial.why_not is None
    (said,) = said_of_direct_writes(caplog)
    assert (said.levelno, said.getMessage()) == (
        logging.DEBUG,
        "stream /: publishers write to its connection directly",
    )


def said_of_direct_writes(caplog):
    return [record for record in caplog.records if "publishers" in record.getMessage()]


def with_mounts(make):
    """Return an app in an app in an app."""
    inner = starlette(make)
    outer = FastAPI()
    outer.mount("/inner", Starlette(routes=[Mount("/deep", app=inner)]))
    return outer


def with_routers(make):
    router = APIRouter()

    @router.get("/events")
    async def view() -> Response:
        return response(make())

    app = FastAPI()
    app.include_router(router, prefix="/api")
    return app


KNOWN = {
    "cors": [Middleware(CORSMiddleware, allow_origins=["*"])],
    "sessions": [Middleware(SessionMiddleware, secret_key="x")],
    "trusted hosts": [Middleware(TrustedHostMiddleware, allowed_hosts=["localhost"])],
    "gzip": [Middleware(GZipMiddleware, minimum_size=1)],
    "all": [
        Middleware(CORSMiddleware, allow_origins=["*"], expose_headers=["x"]),
        Middleware(GZipMiddleware),
        Middleware(TrustedHostMiddleware, allowed_hosts=["*"]),
        Middleware(SessionMiddleware, secret_key="x"),
    ],
}
ORIGIN = "Origin: http://elsewhere"


@pytest.mark.parametrize("home", [starlette, fastapi])
@pytest.mark.parametrize("middleware", KNOWN)
async def test_known_middleware(home, middleware, trial, caplog):
    """Starlette's own, which pass the body of an SSE stream on: direct, and nothing to judge."""
    caplog.set_level(logging.INFO, "flowstream")
    app = home(trial.make, middleware=KNOWN[middleware])
    head = await trial.run(app, ORIGIN, "Accept-Encoding: gzip")
    compressed = b"content-encoding: gzip" in head.lower()  # as older Starlettes do with SSE
    assert trial.direct == (0 if compressed else EVENTS)
    assert not said_of_direct_writes(caplog)
    if middleware in ("cors", "all"):
        assert b"access-control-allow-origin" in head.lower()


async def test_known_middleware_that_changes_all(trial):
    """Gzip compresses NDJSON: the connection sees it, and so there is none."""
    app = starlette(lambda: trial.make(ndjson), middleware=KNOWN["gzip"])
    await trial.run(app, "Accept-Encoding: gzip")
    assert trial.direct == 0
    assert trial.why_not == NotDirect.OTHER_BODY


@pytest.mark.parametrize(
    ("app", "path"), [(with_mounts, "/inner/deep/x"), (with_routers, "/api/events")]
)
async def test_apps_in_apps(app, path, trial):
    """Mounts, sub-apps and routers put nothing unknown in between."""
    await trial.run(app(trial.make), path=path)
    assert trial.direct == EVENTS


# -- what is not known -------------------------------------------------------------------------


async def passes_on(request, call_next):
    return await call_next(request)


class Timing(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        return await call_next(request)


class Redactor:
    """Replaces a word where it stands; else the message is passed on as it is."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def redact(message):
            if b"<7>" in message.get("body", b""):
                message = {**message, "body": message["body"].replace(b"<7>", b"<*>")}
            await send(message)

        await self.app(scope, receive, redact)


class WrappedRedactor(Redactor):
    """Has the names of what it is put around."""

    async def __call__(self, scope, receive, send):
        @functools.wraps(send)
        async def redact(message):
            if b"<7>" in message.get("body", b""):
                message = {**message, "body": message["body"].replace(b"<7>", b"<*>")}
            await send(message)

        await self.app(scope, receive, redact)


class Proxy(Redactor):
    """Puts an object around `send` that has all of its attributes."""

    def __init__(self, app, send=None):
        self.app, self.send = app, send

    async def __call__(self, scope, receive=None, send=None):
        if receive is not None:
            await self.app(scope, receive, Proxy(self.app, send))
        else:
            message = scope
            if b"<7>" in message.get("body", b""):
                message = {**message, "body": message["body"].replace(b"<7>", b"<*>")}
            await self.send(message)

    def __getattr__(self, name):
        return getattr(self.send, name)


class OwnCORS(CORSMiddleware):
    """A known one's subclass, which may do anything."""

    async def send(self, message, send, request_headers):
        if b"<7>" in message.get("body", b""):
            message = {**message, "body": message["body"].replace(b"<7>", b"<*>")}
        await super().send(message, send, request_headers)


def quart_behind(middleware):
    def app(make):
        app = quart(make)
        app.asgi_app = middleware(app.asgi_app)
        return app

    return app


def behind(middleware):
    return lambda make: middleware(bare(make))


def on_a_route(make):
    route = Route("/", lambda request: make(), middleware=[Middleware(Redactor)])
    return Starlette(routes=[route])


def on_a_router(make):
    routes = [Route("/", lambda request: make())]
    router = Router(routes=routes, middleware=[Middleware(Redactor)])
    return Starlette(routes=[Mount("/", app=router)])


def between_apps(make):
    return Starlette(routes=[Mount("/", app=Redactor(starlette(make)))])


REDACTING = {
    "around a bare app": behind(Redactor),
    "wrapping names": behind(WrappedRedactor),
    "wrapping names in Starlette": lambda make: starlette(make, [Middleware(WrappedRedactor)]),
    "passing attributes on": behind(Proxy),
    "around Quart": quart_behind(Redactor),
    "around Quart, passing attributes on": quart_behind(Proxy),
    "around Starlette": lambda make: Redactor(starlette(make)),
    "in Starlette": lambda make: starlette(make, [Middleware(Redactor)]),
    "in FastAPI": lambda make: fastapi(make, [Middleware(Redactor)]),
    "behind known ones": lambda make: fastapi(make, [*KNOWN["all"], Middleware(Redactor)]),
    "before known ones": lambda make: fastapi(make, [Middleware(Redactor), *KNOWN["all"]]),
    "a known one's subclass": lambda make: starlette(make, [Middleware(OwnCORS)]),
    "on a route": on_a_route,
    "on a router": on_a_router,
    "between two apps": between_apps,
}


@pytest.mark.parametrize("where", REDACTING)
async def test_a_redactor_is_not_passed_by(where, trial, caplog):
    """It returns the same object when it finds nothing, and still sees everything; it is named,
    with what its author can do.
    """
    caplog.set_level(logging.INFO, "flowstream")
    data = await trial.run(REDACTING[where](trial.make), ORIGIN)
    assert b"<*>" in data
    assert b"<7>" not in data
    assert trial.direct == 0
    assert trial.why_not == NotDirect.BETWEEN
    (said,) = said_of_direct_writes(caplog)
    assert said.levelno == logging.INFO
    name = {"a known one's subclass": "OwnCORS", "wrapping names": "WrappedRedactor"}
    assert name.get(where.removesuffix(" in Starlette"), "") in said.getMessage()
    assert "test_direct_writes." in said.getMessage()
    assert "direct=True" in said.getMessage()


async def test_each_is_named_once(trial, caplog):
    """However many streams there are: one line, which names all that is not known."""
    caplog.set_level(logging.INFO, "flowstream")
    middleware = [
        Middleware(Redactor),
        Middleware(CORSMiddleware, allow_origins=["*"]),
        Middleware(WrappedRedactor),
    ]
    app = starlette(trial.make, middleware)
    for _ in range(3):
        await trial.run(app)
        trial.topic = Topic("another")
    (said,) = said_of_direct_writes(caplog)
    assert "test_direct_writes.WrappedRedactor, test_direct_writes.Redactor" in said.getMessage()


def with_decorator(make):
    app = fastapi(make)
    app.middleware("http")(passes_on)
    return app


@pytest.mark.parametrize(
    ("app", "name"),
    [
        (lambda make: starlette(make, [Middleware(Timing)]), "test_direct_writes.Timing"),
        (with_decorator, "test_direct_writes.passes_on"),
    ],
)
async def test_middleware_with_a_queue_is_named_too(app, name, trial, caplog):
    """`BaseHTTPMiddleware` hides its name from `send`; the app's own list has it."""
    caplog.set_level(logging.DEBUG, "flowstream")
    await trial.run(app(trial.make))
    assert trial.direct == 0
    info, debug = said_of_direct_writes(caplog)
    assert name in info.getMessage()
    assert debug.getMessage().endswith(f"not write to its connection directly: {trial.why_not}")


async def test_direct_true_is_the_authors_word(trial, caplog):
    """Unknown middleware that passes all on is passed by, and the log has nothing to say."""
    caplog.set_level(logging.INFO, "flowstream")
    app = starlette(lambda: trial.make(direct=True), [Middleware(Timing), Middleware(Timing)])
    await trial.run(app)
    assert trial.direct >= EVENTS - 1
    assert not said_of_direct_writes(caplog)


@pytest.mark.parametrize(
    ("of_app", "of_stream", "is_direct"),
    [(True, None, True), (True, False, False), (False, None, False), (False, True, True)],
)
async def test_an_apps_word_and_a_streams(of_app, of_stream, is_direct, trial):
    """`Flowstream(app, direct=...)` speaks for all streams that do not speak for themselves."""
    app = quart(lambda: trial.make(direct=of_stream), direct=of_app)
    app.asgi_app = Redactor(app.asgi_app)
    await trial.run(app)
    assert (trial.direct == EVENTS) is is_direct
    if not is_direct:
        assert trial.why_not == NotDirect.SWITCHED_OFF


@pytest.mark.parametrize("given", [1, "yes"])
def test_a_word_that_is_none(given):
    """It is True, False or None, and True is for what has a publisher."""
    with pytest.raises(TypeError, match="direct must be True, False or None"):
        sse(Topic("t"), direct=given)
    with pytest.raises(TypeError, match="direct must be True, False or None"):
        Flowstream(QuartTrio("app"), direct=given)
    with pytest.raises(TypeError, match="topics and runs"):
        sse([1], direct=True)


# -- why not, for each reason ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "why_not"),
    [
        ({"where": lambda event: True}, NotDirect.FILTER),
        ({"limits": Limits(max_bytes=1 << 20)}, NotDirect.MAX_BYTES),
        ({"direct": False}, NotDirect.SWITCHED_OFF),
        ({"kind": csv, "columns": ["a"]}, NotDirect.FORMAT),
        ({"kind": ndjson, "where": lambda event: True}, NotDirect.FILTER),
    ],
)
@pytest.mark.parametrize("home", ["bare", "quart"])
async def test_a_stream_that_can_not_be_written_directly(home, options, why_not, trial, caplog):
    """Its statistics say why not, and so does the log, at DEBUG alone."""
    caplog.set_level(logging.DEBUG, "flowstream")
    app = HOMES[home](lambda: trial.make(**options))
    await trial.run(app, event=lambda number: [number])
    assert (trial.moment.direct_items, trial.why_not) == (0, why_not)
    (said,) = said_of_direct_writes(caplog)
    assert said.levelno == logging.DEBUG
    assert said.getMessage().endswith(f": {why_not.value}")


async def test_a_stream_with_a_producer_of_its_own(server, client):
    """It has no publisher, and before it begins there is nothing to say of it."""
    streams = []

    def make():
        streams.append(sse(["one"]))
        return streams[-1]

    assert make().statistics().why_not_direct == NotDirect.NOT_BEGUN
    peer = client(await server(bare(make)))
    await trio.to_thread.run_sync(lambda: peer.get("/"))
    await trio.to_thread.run_sync(peer.read_until, b"0\r\n\r\n")
    statistics = streams[-1].statistics()
    assert (statistics.direct_items, statistics.why_not_direct) == (0, NotDirect.NO_PUBLISHER)


async def test_http_1_0_and_tls(trial, server, connect, certificate):
    """Without chunks, and behind the server's encryption, each stream says that."""
    await trial.run(bare(trial.make), version="1.0")
    assert (trial.direct, trial.why_not) == (0, NotDirect.HTTP_VERSION)
    trial.topic = Topic("encrypted")
    stream = await connect(await server(bare(trial.make), **certificate))
    await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await stream.receive_some()
    await trial.topic.publish("one")
    assert trial.stream.statistics().why_not_direct == NotDirect.ENCRYPTED
    assert trial.topic.statistics().direct_deliveries == 0


async def test_under_another_server(plain_hypercorn, client, aeventually):
    """Plain Hypercorn gives no way to its connections."""
    topic, streams = Topic("t"), []

    def make():
        streams.append(sse(topic))
        return streams[-1]

    async def app(scope, receive, send):
        if scope["type"] != "http":
            raise RuntimeError("HTTP only")
        await make()(scope, receive, send)

    peer = client(await plain_hypercorn(app))
    await trio.to_thread.run_sync(lambda: peer.get("/"))
    await aeventually(lambda: topic.subscribers, "the client has subscribed")
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert streams[0].statistics().why_not_direct == NotDirect.OTHER_SERVER
    await trio.to_thread.run_sync(peer.socket.close)


@pytest.mark.parametrize("home", HOMES)
async def test_runs_are_written_directly(home, server, client, aeventually):
    """What attaches to a run is like what subscribes to a topic."""
    runs, more, streams = Runs(), trio.Event(), []

    async def produce(out):
        await more.wait()
        for number in range(EVENTS):
            await out.send(f"<{number}>")
            await trio.sleep(0.002)

    def make():
        streams.append(sse(run))
        return streams[-1]

    async with Flowstream():
        run = runs.start("key", produce)
        peer = client(await server(HOMES[home](make)))
        await trio.to_thread.run_sync(lambda: peer.get("/"))
        await aeventually(lambda: run.statistics().attached, "the client has attached")
        await trio.testing.wait_all_tasks_blocked(0.02)
        more.set()
        data = await trio.to_thread.run_sync(peer.read_until, b"0\r\n\r\n")
    assert data.count(b"<") == EVENTS
    assert streams[0].statistics().direct_items >= EVENTS // 2
    assert streams[0].statistics().why_not_direct is None
