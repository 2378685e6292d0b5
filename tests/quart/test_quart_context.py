"""What a producer finds around it in Quart, and what comes after it."""

import contextvars

import pytest
import trio
from quart import g, request, session

from flowstream import ndjson, raw, sse
from flowstream.testing import collect, open_stream

tenant = contextvars.ContextVar("tenant")


async def test_the_request_context_lasts_to_the_last_byte(app, autojump_clock):
    """request, session and g work in a producer throughout, and teardown comes after it."""
    order = []

    @app.before_request
    async def before():
        g.user = "ann"
        session["cart"] = 3
        order.append("before")

    @app.after_request
    async def after(response):
        order.append("after")
        return response

    @app.teardown_request
    async def teardown(error):
        order.append(f"teardown {g.user} {error}")

    @app.teardown_appcontext
    async def teardown_app(error):
        order.append("teardown app")

    @app.get("/<name>")
    async def view(name):
        async def producer():
            try:
                for _ in range(3):
                    await trio.sleep(10)
                    yield [request.view_args["name"], g.user, session["cart"], request.args["q"]]
            finally:
                await trio.sleep(1)
                order.append(f"producer {g.user} {request.path}")

        return ndjson(producer, controls=False)

    response = await collect(app, "/x?q=1")
    assert response.body == b'["x","ann",3,"1"]\n' * 3
    assert order == ["before", "after", "producer ann /x", "teardown ann None", "teardown app"]


async def test_contextvars_reach_the_producer(app, autojump_clock):
    """A context variable that the view has set has its value in every kind of producer."""

    @app.get("/<kind>")
    async def view(kind):
        tenant.set(kind)

        async def generator():
            yield tenant.get()

        async def function(out):
            await out.send(tenant.get())

        return ndjson({"generator": generator, "function": function}[kind], controls=False)

    for kind in ("generator", "function"):
        assert (await collect(app, f"/{kind}")).body == f'"{kind}"\n'.encode()


async def test_context_reaches_a_producer_in_a_thread(app):
    """A sync generator, which runs in worker threads, sees the request and context variables."""

    @app.get("/")
    async def view():
        tenant.set("acme")

        def rows():
            yield [tenant.get(), request.path]

        return ndjson(rows, controls=False)

    assert (await collect(app)).body == b'["acme","/"]\n'


async def test_quarts_response_timeout_does_not_cut_a_stream(app, autojump_clock):
    """RESPONSE_TIMEOUT ends Quart's own responses; a stream goes on for an hour."""
    app.config["RESPONSE_TIMEOUT"] = 0.1

    @app.get("/")
    async def view():
        async def producer():
            for n in range(3):
                await trio.sleep(1200)
                yield n

        return ndjson(producer, controls=False, heartbeat=None)

    @app.get("/quart")
    async def own():
        async def slow():
            yield "a"
            await trio.sleep(10)
            yield "b"

        return slow()

    async with open_stream(app) as client:
        assert await client.read_all() == b"0\n1\n2\n"
        assert client.complete
    assert trio.current_time() >= 3600
    assert (await collect(app, "/quart", timeout=20)).body == b"a"


async def test_a_teardown_that_raises_comes_after_a_whole_stream(app, autojump_clock):
    """The body is complete and reported before a broken teardown function fails the request."""
    reports = []

    @app.get("/")
    async def view():
        return ndjson([1], controls=False, on_close=reports.append)

    @app.teardown_request
    async def teardown(error):
        raise ValueError("teardown is broken")

    async with open_stream(app, raise_app_exceptions=False) as client:
        assert await client.read_all() == b"1\n"
        await client.wait_finished()
        assert client.complete
        assert isinstance(client.error, ExceptionGroup)  # as for any other view
    assert [report.reason.value for report in reports] == ["completed"]
    assert app.extensions["flowstream"].statistics().open == 0


async def test_the_producer_reads_the_body_while_it_streams(app, autojump_clock):
    """An upload is answered piece by piece: what the producer makes of one piece is out
    before the next comes in.
    """
    more = trio.Event()

    async def upload():
        yield b"one"
        await more.wait()
        yield b"two"

    @app.post("/")
    async def view():
        async def upper():
            async for data in request.body:
                if data:
                    yield data.upper()

        return raw(upper())

    async with open_stream(app, method="POST", body=upload()) as client:
        assert await client.read(3) == b"ONE"
        more.set()
        assert await client.read_all() == b"TWO"
        assert client.complete


async def test_a_large_body_that_nobody_reads(app, autojump_clock):
    """A stream does not hang on an upload it ignores, and still sees the client leave."""
    reports, sent = [], []

    async def upload():
        for n in range(1000):
            yield bytes(1000)
            sent.append(n)

    @app.post("/")
    async def view():
        async def producer():
            yield "a"
            await trio.sleep_forever()

        return sse(producer, on_close=reports.append)

    async with open_stream(app, method="POST", body=upload()) as client:
        assert (await client.next_event()).data == "a"
        await trio.testing.wait_all_tasks_blocked()
        assert len(sent) == 1000
        client.abort()
    assert [report.reason.value for report in reports] == ["client_disconnected"]


async def test_a_form_is_read_before_the_stream(app, autojump_clock):
    """A view that awaits the request's form first, as most do, streams what it found."""

    @app.post("/")
    async def view():
        form = await request.form

        async def producer():
            yield dict(form)

        return ndjson(producer, controls=False)

    response = await collect(
        app,
        method="POST",
        headers={"Content-Type": "application/x-www-form-urlencoded", "Content-Length": "7"},
        body=b"a=1&b=2",
    )
    assert response.body == b'{"a":"1","b":"2"}\n'


async def test_outside_a_connection_it_says_so(app):
    """Dispatching a stream in a test_request_context raises, and says what to do instead."""

    @app.get("/")
    async def view():
        return sse(["a"])

    async with app.test_request_context("/") as context:
        with pytest.raises(RuntimeError, match="test client"):
            await app.full_dispatch_request(context)
