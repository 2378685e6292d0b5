"""FastAPI on Trio: a stream needs one call, and without it there is no silent ``200 {}``."""

import pytest
import trio
from fastapi import BackgroundTasks, FastAPI, HTTPException

from flowstream import StreamResponse, ndjson, sse
from flowstream.starlette import response
from flowstream.testing import collect, open_stream


async def numbers():
    yield 1
    yield 2


async def test_a_wrapped_stream_works(autojump_clock):
    """flowstream.starlette.response(...) streams from a FastAPI view."""
    app = FastAPI()

    @app.get("/{name}")
    async def view(name: str):
        async def producer():
            yield name
            await trio.sleep(5)
            yield "b"

        return response(ndjson(producer, controls=False))

    async with open_stream(app, "/a") as client:
        assert await client.next_value() == "a"
        assert trio.current_time() < 1
        assert await client.next_value() == "b"


@pytest.mark.parametrize("how", ["bare", "in a dict", "in a list"])
async def test_a_stream_without_it_raises(autojump_clock, how):
    """A view that returns the stream itself gets an exception, not a `200 {}`."""
    app = FastAPI()

    @app.get("/")
    async def view():
        made = ndjson(numbers)
        return {"bare": made, "in a dict": {"a": made}, "in a list": [made]}[how]

    async with open_stream(app, raise_app_exceptions=False) as client:
        await client.started()
        await client.wait_finished()
        assert client.status == 500
        assert "flowstream.starlette.response" in str(client.error)


def test_a_stream_as_return_type_raises():
    """Annotating a view with StreamResponse fails where the route is made."""
    app = FastAPI()
    with pytest.raises(Exception, match="StreamResponse"):

        @app.get("/")
        async def view() -> StreamResponse:
            return ndjson(numbers)


async def test_a_primed_http_exception(autojump_clock):
    """A producer that raises FastAPI's HTTPException at once gives its answer."""
    app = FastAPI()

    async def forbidden():
        raise HTTPException(403, "not for you")
        yield

    @app.get("/")
    async def view():
        return response(sse(forbidden, prime=1))

    answer = await collect(app)
    assert (answer.status, answer.body) == (403, b'{"detail":"not for you"}')


async def test_background_tasks_and_dependencies(autojump_clock):
    """FastAPI's BackgroundTasks run after the stream, not never."""
    app, order = FastAPI(), []

    @app.get("/")
    async def view(tasks: BackgroundTasks):
        async def producer():
            yield 1
            order.append("producer")

        async def later():
            order.append("background")

        tasks.add_task(later)
        return response(ndjson(producer))

    await collect(app)
    assert order == ["producer", "background"]
