"""What is raised in an app and is no Exception ends one request, and not the server."""

import asyncio

import pytest
import trio
import trio.testing
from _reading import read_to_end
from quart_trio import QuartTrio
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.routing import Route

from flowstream import ndjson
from flowstream.quart import Flowstream
from flowstream.starlette import response

GET = b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class PanicException(BaseException):
    """What a panic in an extension written in Rust is."""


@pytest.fixture(params=[asyncio.CancelledError, GeneratorExit, PanicException])
def stray(request):
    """A kind of exception that is no Exception."""
    return request.param


async def ask(connect, url, path):
    stream = await connect(url)
    await stream.send_all(GET % path.encode())
    return await read_to_end(stream)


def quart_app(stray):
    app = QuartTrio("app")
    Flowstream(app)

    @app.get("/view")
    async def view():
        raise stray("odd")

    @app.get("/sync-view")
    def sync_view():
        raise stray("odd")

    @app.get("/group")
    async def group():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise stray("odd")

    @app.get("/primed")
    async def primed():
        async def source():
            raise stray("odd")
            yield

        return ndjson(source, prime=1)

    @app.get("/later")
    async def later():
        async def fails():
            raise stray("odd")

        app.add_background_task(fails)
        return "said"

    @app.get("/stream")
    async def stream():
        async def source():
            yield 1
            raise stray("odd")

        return ndjson(source)

    return app


def starlette_app(stray):
    async def fails(*_):
        raise stray("odd")

    async def later(request):
        answer = response(ndjson([1]))
        answer.background = BackgroundTask(fails)
        return answer

    async def group(request):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails)
            await trio.sleep_forever()

    def sync_view(request):
        raise stray("odd")

    async def stream(request):
        async def source():
            yield 1
            raise stray("odd")

        return ndjson(source)

    return Starlette(
        routes=[
            Route("/view", fails),
            Route("/sync-view", sync_view),
            Route("/group", group),
            Route("/later", later),
            Route("/stream", stream),
        ]
    )


def bare_app(stray):
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            raise NotImplementedError
        if scope["path"] == "/stream":

            async def source():
                yield 1
                raise stray("odd")

            await ndjson(source)(scope, receive, send)
        elif scope["path"] == "/late":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            raise stray("odd")
        else:
            raise stray("odd")

    return app


@pytest.mark.parametrize("make", [bare_app, quart_app, starlette_app])
async def test_of_a_view(make, stray, server, connect):
    """A view's is a 500, a stream's is told in band, a background task's is its own; all go on."""
    url = await server(make(stray))
    for path in ("/view", "/sync-view", "/group", "/primed", "/late"):
        answer = await ask(connect, url, path)
        assert answer.startswith((b"HTTP/1.1 500", b"HTTP/1.1 404", b"HTTP/1.1 200")), path
        if path == "/view":
            assert answer.startswith(b"HTTP/1.1 500")
    if make is not bare_app:
        await ask(connect, url, "/later")
    answer = await ask(connect, url, "/stream")
    assert b'{"type":"failed"' in answer


async def test_of_a_websocket_view(stray, server, connect):
    """A WebSocket view's ends that WebSocket."""
    app = QuartTrio("app")
    Flowstream(app)

    @app.websocket("/ws")
    async def ws():
        raise stray("odd")

    @app.get("/")
    async def view():
        return "here"

    url = await server(app)
    stream = await connect(url)
    await stream.send_all(
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with trio.fail_after(10):
        assert b" 500 " in await stream.receive_some()
    assert b"here" in await ask(connect, url, "/")


async def test_with_a_cancellation(stray, server, connect):
    """Beside a Cancelled, in one group, it is no more than alone."""

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            raise NotImplementedError
        if scope["path"] == "/":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"hello"})
            return

        async def fails():
            try:
                await trio.sleep_forever()
            finally:
                raise stray("odd")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails)
            nursery.start_soon(trio.sleep_forever)
            await receive()
            await receive()
            raise stray("gone")

    url = await server(app)
    stream = await connect(url)
    await stream.send_all(GET % b"/wait")
    await trio.testing.wait_all_tasks_blocked(0.01)
    await stream.aclose()
    assert b"hello" in await ask(connect, url, "/")


@pytest.mark.parametrize("wraps", [False, True])
async def test_of_a_lifespan(stray, wraps, server):
    """A lifespan that raises one at startup is a failed startup: nothing is served without it."""

    async def bare(scope, receive, send):
        if wraps:
            async with trio.open_nursery():
                raise stray("odd")
        raise stray("odd")

    app = QuartTrio("app")

    @app.before_serving
    async def fails():
        await bare({}, None, None)

    for one in (bare, app):
        with pytest.raises(ExceptionGroup) as raised:
            await server(one)
        (failure,) = raised.value.exceptions
        while isinstance(failure, ExceptionGroup):
            (failure,) = failure.exceptions
        assert type(failure).__name__ == "LifespanFailureError"
        assert one is app or "odd" in str(failure)
