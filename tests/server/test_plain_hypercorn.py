"""Streams under Hypercorn itself: they work, and one warning says what is lost."""

import functools
import os
import subprocess
import sys
import textwrap

import httpx2
import pytest

from flowstream import sse
from flowstream.asgi._plain_hypercorn import _warn, warn_on_plain_hypercorn
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
    for lost in ("stalled client's socket", "HTTP/2", "farewell"):
        assert lost in warning
    assert "`flowstream serve module:app`" in warning
    others = [one for one in log.read_text().splitlines() if one != warning]
    assert all("[INFO]" in one or "without Lifespan support" in one for one in others), others


@pytest.fixture
def warnings(caplog):
    """Return the warnings so far, of a process that has given none yet."""
    _warn.cache_clear()
    yield lambda: [one for one in caplog.messages if one.startswith(WARNING)]
    _warn.cache_clear()


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
    """A test that calls the app in process gets no warning."""
    async with open_stream(sse(two)) as client:
        first, *_ = [event.data async for event in client]
        assert first == "a"
    assert not warnings()


class Stream:
    __module__ = "hypercorn.protocol.http_stream"

    async def app_send(self, message):
        raise AssertionError("this is only looked at")


def wrapped(send):
    async def wrapper(message):
        await send(message)
        never()

    if send is None:
        never = print  # a cell of the closure that is never filled
    return wrapper


@pytest.mark.parametrize(
    "wrap", [lambda send: send, wrapped, functools.partial, lambda send: wrapped(wrapped(send))]
)
def test_it_is_known_behind_middleware(warnings, wrap):
    """Hypercorn's `send` is found in closures and partials, and spoken of once."""
    for _ in range(2):
        warn_on_plain_hypercorn(wrap(Stream().app_send))
    assert len(warnings()) == 1


def test_a_function_that_knows_itself_is_looked_at_once(warnings):
    """Closures that refer to themselves and to each other do not keep us busy."""

    async def one(message):
        await another(message)
        await one(message)

    async def another(message):
        await one(message)

    warn_on_plain_hypercorn(one)
    assert not warnings()
