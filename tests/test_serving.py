"""`flowstream.serve`: Hypercorn's Trio worker inside a Trio program, set up for streams."""

import errno
import gc
import socket
import warnings

import httpx2
import pytest
import trio
from hypercorn.config import Config

import flowstream
from flowstream import sse
from flowstream.server import streaming_config


async def letters():
    yield "a"
    yield "b"


async def only_http(scope, receive, send):
    """An app as many are written: it returns from everything that is not HTTP."""
    if scope["type"] == "http":
        await sse(letters())(scope, receive, send)


def test_the_configuration_suits_streams():
    """The backlog is deep, nothing cuts a long stream, and settings are Hypercorn's."""
    config = streaming_config(bind=["127.0.0.1:1"], graceful_timeout=7)
    assert isinstance(config, Config)
    assert (config.bind, config.graceful_timeout) == (["127.0.0.1:1"], 7)
    assert config.backlog >= 1024
    assert config.read_timeout is None
    assert config.max_requests is None


def test_an_unknown_setting():
    """A misspelt setting is a TypeError, not silence."""
    with pytest.raises(TypeError, match="no server setting 'grateful_timeout'"):
        streaming_config(grateful_timeout=3)


async def test_by_default_it_listens_on_port_8000():
    """Without a configuration it is ServerConfig's, on 127.0.0.1:8000."""
    in_use = pytest.RaisesExc(OSError, check=lambda error: error.errno == errno.EADDRINUSE)
    with socket.create_server(("127.0.0.1", 8000)), warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Hypercorn's unbound socket
        with pytest.RaisesGroup(in_use, flatten_subgroups=True):
            await flowstream.serve(only_http)
        gc.collect()


async def test_it_serves_until_it_is_told_to_stop():
    """nursery.start() gives the addresses; the trigger's return ends serve() in order."""
    stop, addresses = trio.Event(), []
    async with trio.open_nursery() as nursery:

        async def serving(task_status):
            config = streaming_config(bind=["127.0.0.1:0"], errorlog=None)
            await flowstream.serve(
                only_http, config, shutdown_trigger=stop.wait, task_status=task_status
            )

        addresses += await nursery.start(serving)
        async with httpx2.AsyncClient() as client:
            assert "data: b\n" in (await client.get(addresses[0])).text
        stop.set()
    assert addresses[0].startswith("http://127.0.0.1:")


async def test_cancelling_it_ends_it():
    """A cancelled serve() lets go of its port and of the streams that run."""
    reports = []

    async def waits(out):
        await out.send("a")
        await trio.sleep_forever()

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await sse(waits, on_close=reports.append)(scope, receive, send)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            config = streaming_config(bind=["127.0.0.1:0"], errorlog=None)

            async def serving(task_status):
                await flowstream.serve(app, config, task_status=task_status)

            (url,) = await nursery.start(serving)
            port = int(url.rpartition(":")[2])
            async with await trio.open_tcp_stream("127.0.0.1", port) as client:
                await client.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                async for data in client:
                    if b"data: a" in data:
                        break
                nursery.cancel_scope.cancel()
    assert [report.reason.value for report in reports] == ["cancelled"]


async def test_an_address_in_use():
    """An address that cannot be listened on is an OSError, in the group of Trio's nurseries."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = streaming_config(bind=[f"127.0.0.1:{taken.getsockname()[1]}"], errorlog=None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # Hypercorn's unbound socket
            with pytest.RaisesGroup(OSError, flatten_subgroups=True):
                await flowstream.serve(only_http, config)
            gc.collect()


class Lifespan:
    """An app that does so much of the lifespan protocol, and then returns."""

    def __init__(self, *steps):
        self.steps = steps
        self.seen = []

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            for step in self.steps:
                if step == "receive":
                    self.seen.append((await receive())["type"])
                else:
                    await send({"type": step})
            return
        await sse(letters())(scope, receive, send)


@pytest.mark.parametrize(
    "steps",
    [
        (),
        ("receive",),
        ("receive", "lifespan.startup.complete"),
        ("receive", "lifespan.startup.complete", "receive"),
        ("receive", "lifespan.startup.complete", "receive", "lifespan.shutdown.complete"),
    ],
)
async def test_an_app_may_leave_the_lifespan_early(server, steps):
    """Wherever an app returns from the lifespan, it is served, and shuts down, in order."""
    app = Lifespan(*steps)
    url = await server(app)
    async with httpx2.AsyncClient() as client:
        assert "data: b\n" in (await client.get(url)).text
    assert app.seen == ["lifespan.startup"] * ("receive" in steps)


async def test_an_app_that_raises_in_the_lifespan_is_served(server):
    """An app that knows of HTTP only, and says so by an exception, is served all the same."""

    async def app(scope, receive, send):
        await sse(letters())(scope, receive, send)

    url = await server(app)
    async with httpx2.AsyncClient() as client:
        assert "data: b\n" in (await client.get(url)).text


@pytest.mark.parametrize("options", [[], ["--workers", "2"]])
def test_what_an_app_has_loaded_is_no_garbage_to_be_looked_for(served, client, options):
    """The garbage collector of a serving process has nothing to do with what was loaded."""
    process = served(
        """
        import gc

        kept = [[] for _ in range(50_000)]

        async def app(scope, receive, send):
            if scope["type"] == "http":
                body = f"{len(gc.get_objects())} {gc.get_freeze_count()}".encode()
                headers = [(b"content-length", b"%d" % len(body))]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": body})
        """,
        *options,
    )
    with client(process.url) as peer:
        peer.get("/", "Connection: close")
        watched, frozen = map(int, peer.read_all().split()[-2:])
    assert frozen > 50_000
    assert watched < 50_000
