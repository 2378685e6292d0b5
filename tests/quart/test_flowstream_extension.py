"""The extension itself: setting up, counting, and apps that have classes of their own."""

import pytest
import quart
import trio
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection

from flowstream import PublicError, ndjson, sse
from flowstream.quart import Flowstream
from flowstream.testing import collect, open_lifespan, open_stream


async def test_init_app(autojump_clock):
    """An app factory may set the app up later, and one Flowstream may serve several apps."""
    flow = Flowstream()
    apps = QuartTrio("one"), QuartTrio("two")
    for app in apps:
        app.add_url_rule("/", "view", one)
        flow.init_app(app)
        assert app.extensions["flowstream"] is flow
        assert (await collect(app)).body == b"1\n"
    assert flow.statistics().closed == {"completed": 2}


async def one():
    return ndjson([1], controls=False)


def test_two_flowstreams_on_one_app():
    """An app that is set up already is refused, and stays as it was."""
    app = QuartTrio("app")
    first = Flowstream(app)
    with pytest.raises(RuntimeError, match="has a Flowstream already"):
        Flowstream(app)
    assert app.extensions["flowstream"] is first


@pytest.mark.parametrize("app", [quart.Quart("app"), "app", object()])
def test_an_app_that_does_not_run_on_trio(app):
    """A Quart app on asyncio, or no app at all, is a TypeError that names what it was."""
    with pytest.raises(TypeError, match=f"not a {type(app).__name__}"):
        Flowstream(app)


async def test_statistics(autojump_clock):
    """Streams are counted while they run, and by close reason afterwards."""
    app = QuartTrio("app")
    flow = Flowstream(app)

    @app.get("/<how>")
    async def view(how):
        async def producer():
            yield 1
            await trio.sleep(10)
            if how == "fails":
                raise PublicError("a", "b")
            if how == "waits":
                await trio.sleep_forever()

        return ndjson(producer)

    assert (flow.statistics().open, flow.statistics().closed) == (0, {})
    async with (
        open_stream(app, "/ends") as ends,
        open_stream(app, "/fails") as fails,
        open_stream(app, "/waits"),
    ):
        await trio.sleep(1)
        assert (flow.statistics().open, flow.statistics().closed) == (3, {})
        await ends.read_all()
        await fails.read_all()
        await trio.sleep(1)
        assert (flow.statistics().open, flow.statistics().closed) == (
            1,
            {"completed": 1, "error": 1},
        )
    assert flow.statistics().open == 0
    assert flow.statistics().closed == {"completed": 1, "error": 1, "client_disconnected": 1}


async def test_an_app_class_of_ones_own(autojump_clock):
    """What a subclass of QuartTrio does in the functions in the way of a request is kept."""
    seen = []

    class App(QuartTrio):
        async def dispatch_request(self, *args, **kwargs):
            seen.append("dispatch")
            return await super().dispatch_request(*args, **kwargs)

        async def full_dispatch_request(self, *args, **kwargs):
            seen.append("full dispatch")
            return await super().full_dispatch_request(*args, **kwargs)

        async def finalize_request(self, *args, **kwargs):
            seen.append("finalize")
            return await super().finalize_request(*args, **kwargs)

        async def make_response(self, result):
            seen.append("make")
            return await super().make_response(result)

    app = App("app")
    Flowstream(app)
    app.add_url_rule("/", "view", one)
    assert (await collect(app)).body == b"1\n"
    assert seen == ["full dispatch", "dispatch", "finalize", "make"]


async def test_a_connection_class_of_ones_own(autojump_clock):
    """An app's own asgi_http_class still handles its connections, streams included."""
    seen = []

    class Connection(TrioASGIHTTPConnection):
        async def handle_request(self, nursery, request, send):
            seen.append(request.path)

            async def stamped(message):
                if message["type"] == "http.response.start":
                    message["headers"].append((b"x-own", b"1"))
                await send(message)

            await super().handle_request(nursery, request, stamped)

    app = QuartTrio("app")
    app.asgi_http_class = Connection
    Flowstream(app)
    app.add_url_rule("/", "view", one)
    response = await collect(app)
    assert response.body == b"1\n"
    assert seen == ["/"]


async def test_two_apps_with_the_lifespan(autojump_clock):
    """A stream runs in an app that was started, next to its background tasks."""
    app = QuartTrio("app")
    Flowstream(app)
    done = []

    @app.get("/")
    async def view():
        app.add_background_task(later)
        return sse(["a"])

    async def later():
        done.append(True)

    async with open_lifespan(app) as state:
        assert b"data: a\n" in (await collect(app, state=state)).body
        await trio.sleep(1)
    assert done == [True]
