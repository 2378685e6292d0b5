"""Streams under Hypercorn itself: they work, and one warning says what is lost."""

import os
import subprocess
import sys
import textwrap
from typing import ClassVar

import httpx2
import pytest
import trio
from quart_trio import QuartTrio
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Route

from flowstream import live_streams, sse, streams_statistics
from flowstream.asgi._advice import _plain_hypercorn
from flowstream.quart import Flowstream
from flowstream.testing import open_stream

WARNING = "served by Hypercorn itself: "

APPS = {
    "plain": """
        from flowstream import sse

        async def app(scope, receive, send):
            assert scope["type"] == "http"
            await sse(["a", "b"])(scope, receive, send)
    """,
    "quart": """
        from quart_trio import QuartTrio
        from flowstream import sse
        from flowstream.quart import Flowstream

        app = QuartTrio("app")
        Flowstream(app)

        @app.get("/")
        async def view():
            return sse(["a", "b"])
    """,
    "starlette": """
        from starlette.applications import Starlette
        from starlette.routing import Route
        from flowstream import sse

        async def view(request):
            return sse(["a", "b"])

        app = Starlette(routes=[Route("/", view)])
    """,
}


@pytest.mark.parametrize("framework", APPS)
def test_one_warning(tmp_path, eventually, framework):
    """Two streams from ``hypercorn -k trio`` are whole, and the log has one warning of ours that
    names what is lost and what to use, and no word of flowstream's besides.
    """
    (tmp_path / "served_app.py").write_text(textwrap.dedent(APPS[framework]))
    log = tmp_path / "log"
    run = "from hypercorn.__main__ import main; main()"
    options = ["-k", "trio", "-b", "127.0.0.1:0", "-w", "0", "served_app:app"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", run, *options],
            cwd=tmp_path,
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        )
    try:
        mark = "Running on http://"
        line = eventually(
            lambda: next((one for one in log.read_text().splitlines() if mark in one), None),
            "it listens",
            timeout=20,
        )
        url = f"http://{line.partition(mark)[2].split()[0]}"
        for _ in range(2):
            assert "data: b\n" in httpx2.get(url).text
    finally:
        process.terminate()
        process.wait(10)
    (warning,) = [one for one in log.read_text().splitlines() if "ypercorn itself" in one]
    for lost in ("stalled client's socket", "HTTP/2", "without a last event"):
        assert lost in warning
    assert "`flowstream serve module:app`" in warning
    others = [one for one in log.read_text().splitlines() if one != warning]
    assert all("[INFO]" in one or "without Lifespan support" in one for one in others), others


@pytest.fixture
def warnings(caplog):
    """Return the warnings so far, of a process that has given none yet."""
    _plain_hypercorn.cache_clear()
    yield lambda: [one for one in caplog.messages if one.startswith(WARNING)]
    _plain_hypercorn.cache_clear()


async def two(out):
    await out.send("a")


async def test_no_warning_under_our_server(server, warnings):
    """Under flowstream's server nothing is lost, so nothing is said, middleware or not."""

    async def app(scope, receive, send):
        async def send_on(message):
            await send(message)

        assert scope["type"] == "http"
        forgetful = {name: value for name, value in scope.items() if name != "state"}
        await sse(two)(scope if scope["path"] == "/" else forgetful, receive, send_on)

    url = await server(app)
    async with httpx2.AsyncClient() as client:
        for path in ("/", "/forgetful"):
            assert "data: a\n" in (await client.get(f"{url}{path}")).text
    assert not warnings()


async def test_no_warning_in_a_test_client(warnings):
    """A test that calls the app in process gets no warning: with our kit, Quart's client, or
    httpx2 over Starlette.
    """
    async with open_stream(sse(two)) as client:
        first, *_ = [event.data async for event in client]
        assert first == "a"
    quart = QuartTrio("app")
    Flowstream(quart)
    quart.add_url_rule("/", "view", lambda: sse(two))
    assert b"data: a\n" in await (await quart.test_client().get("/")).get_data()
    starlette = Starlette(routes=[Route("/", lambda request: sse(two))])
    transport = httpx2.ASGITransport(app=starlette)
    async with httpx2.AsyncClient(transport=transport, base_url="http://app") as client:
        assert "data: a\n" in (await client.get("/")).text
    assert not warnings()


# -- middleware --------------------------------------------------------------------------------


def closure(app):
    """Put a function around ``send``."""

    async def middleware(scope, receive, send):
        async def send_on(message):
            await send(message)

        await app(scope, receive, send_on)

    return middleware


def forgetful(app):
    """Leave the state out of the scope."""

    async def middleware(scope, receive, send):
        await app({name: one for name, one in scope.items() if name != "state"}, receive, send)

    return middleware


class Hidden:
    """A ``send`` that has no closure to be looked into."""

    __slots__ = ("__weakref__", "_number")

    sends: ClassVar = {}

    def __init__(self, send):
        self._number = id(self)
        self.sends[self._number] = send

    async def __call__(self, message):
        await self.sends[self._number](message)


def hidden(app):
    async def middleware(scope, receive, send):
        await app(scope, receive, Hidden(send))

    return middleware


def in_a_task(app):
    """Run the app in a task, and pass on what it sends through a channel."""

    async def middleware(scope, receive, send):
        put, take = trio.open_memory_channel(0)

        async def run():
            async with put:
                await app(scope, receive, put.send)

        async with trio.open_nursery() as nursery, take:
            nursery.start_soon(run)
            async for message in take:
                await send(message)

    return middleware


def quart_app(wrap):
    app = QuartTrio("app")
    Flowstream(app)
    app.add_url_rule("/", "view", lambda: sse(two))
    app.asgi_app = wrap(app.asgi_app)
    return app


def starlette_app(wrap):
    async def dispatch(request, call_next):
        return await call_next(request)

    async def view(request):
        return sse(two)

    app = Starlette(routes=[Route("/", view)])
    app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    return wrap(app)


def bare_app(wrap):
    async def app(scope, receive, send):
        assert scope["type"] == "http"
        await sse(two)(scope, receive, send)

    return wrap(app)


WRAPS = [lambda app: app, closure, forgetful, hidden, in_a_task, lambda app: hidden(forgetful(app))]


@pytest.mark.parametrize("make", [bare_app, quart_app, starlette_app])
@pytest.mark.parametrize("wrap", WRAPS)
async def test_hypercorn_is_known_behind_middleware(plain_hypercorn, warnings, make, wrap):
    """Whatever middleware does to a scope and to ``send``: under Hypercorn the log says so once."""
    url = await plain_hypercorn(make(wrap))
    async with httpx2.AsyncClient() as client:
        for _ in range(2):
            assert "data: a\n" in (await client.get(url)).text
    assert len(warnings()) == 1


@pytest.mark.parametrize("make", [bare_app, quart_app, starlette_app])
@pytest.mark.parametrize("wrap", WRAPS)
async def test_our_server_is_known_behind_middleware(server, warnings, make, wrap):
    """Under flowstream's server the same apps are served without that warning."""
    async with httpx2.AsyncClient() as client:
        assert "data: a\n" in (await client.get(await server(make(wrap)))).text
    assert not warnings()


async def test_its_streams_are_listed(plain_hypercorn, connect, aeventually):
    """Under Hypercorn itself a stream is in the list of live streams until its client has left."""

    async def ticks():
        while True:
            yield 1
            await trio.sleep(0.05)

    async def app(scope, receive, send):
        assert scope["type"] == "http"
        await sse(ticks)(scope, receive, send)

    peer = await connect(await plain_hypercorn(app))
    await peer.send_all(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await aeventually(live_streams, "the stream is listed")
    assert [stream.path for stream in live_streams()] == ["/live"]
    await peer.aclose()
    await aeventually(lambda: not live_streams(), "it has left")
    assert streams_statistics().closed == {"client_disconnected": 1}
