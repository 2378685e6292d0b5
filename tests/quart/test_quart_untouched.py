"""What the extension must leave as it was: everything that is no stream."""

import pytest
import trio
from quart import Response, websocket
from quart.testing import WebsocketResponseError
from quart_trio import QuartTrio

from flowstream import sse
from flowstream.testing import collect, open_stream


@pytest.fixture(params=["with", "without"])
def either(request, app):
    """The same app with the extension and without: a test that passes for both."""
    return app if request.param == "with" else QuartTrio("app")


async def test_ordinary_answers(either, autojump_clock):
    """Text, JSON, statuses, unknown paths and wrong methods are answered as ever."""

    @either.get("/text")
    async def text():
        return "text", 201, {"X-One": "1"}

    @either.get("/json")
    async def json():
        return {"a": 1}

    response = await collect(either, "/text")
    assert (response.status, response.body, response.headers["x-one"]) == (201, b"text", "1")
    assert (await collect(either, "/json")).body.strip() == b'{"a":1}'
    assert (await collect(either, "/none")).status == 404
    assert (await collect(either, "/text", method="POST")).status == 405


async def test_an_ordinary_exception(either, autojump_clock, caplog):
    """A view that raises is a 500, with the traceback in the log once, after its teardown."""
    torn_down = []

    @either.get("/")
    async def view():
        raise ValueError("a bug")

    @either.teardown_request
    async def teardown(error):
        torn_down.append(error)

    response = await collect(either)
    assert response.status == 500
    assert caplog.text.count("ValueError: a bug") == 1
    assert len(torn_down) == 1


async def test_an_exception_is_propagated_to_tests(either, autojump_clock):
    """With TESTING an app's exception comes out of the test client."""
    either.testing = True

    @either.get("/")
    async def view():
        raise ValueError("a bug")

    with pytest.RaisesGroup(ValueError, flatten_subgroups=True):
        await either.test_client().get("/")


async def test_quarts_own_streams(either, autojump_clock):
    """Quart's own generators stream after the request's teardown, and end with the client."""
    ticks = []

    @either.get("/")
    async def view():
        async def endless():
            while True:
                ticks.append("tick")
                yield b"tick"
                await trio.sleep(1)

        return Response(endless())

    @either.teardown_request
    async def teardown(error):
        ticks.append("teardown")

    async with open_stream(either, exit_timeout=1) as client:
        assert await client.read(8) == b"ticktick"
        client.abort()
    assert ticks == ["teardown", "tick", "tick"]


async def test_an_ordinary_view_is_cancelled_by_a_disconnect(either, autojump_clock):
    """A client that leaves ends an ordinary view where it waits."""
    order = []

    @either.get("/")
    async def view():
        try:
            await trio.sleep_forever()
        finally:
            order.append("cancelled")

    async with open_stream(either, exit_timeout=1) as client:
        await trio.sleep(5)
        client.abort()
    assert order == ["cancelled"]


async def test_websockets(either):
    """A WebSocket view talks as before."""

    @either.websocket("/ws")
    async def view():
        while True:
            await websocket.send((await websocket.receive()).upper())

    async with either.test_client().websocket("/ws") as client:
        await client.send("abc")
        assert await client.receive() == "ABC"
        await client.send(b"xyz")
        assert await client.receive() == b"XYZ"


async def test_a_websocket_view_that_returns_a_stream(app, caplog):
    """A stream from a WebSocket view is an error that says why, not an empty answer."""

    @app.websocket("/ws")
    async def view():
        return sse(["a"])

    with pytest.RaisesGroup(WebsocketResponseError) as caught:
        async with app.test_client().websocket("/ws") as client:
            await client.receive()
    assert caught.value.exceptions[0].response.status_code == 500
    assert "TypeError: a WebSocket view cannot return a stream" in caplog.text


async def test_the_lifespan(either, autojump_clock):
    """Startup and shutdown functions run, and background tasks are ended."""
    order = []

    @either.before_serving
    async def start():
        order.append("start")

    @either.after_serving
    async def stop():
        order.append("stop")

    async with either.test_app():
        order.append("serving")
    assert order == ["start", "serving", "stop"]
