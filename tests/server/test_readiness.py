"""The readiness path, before and during a shutdown."""

import httpx2
import trio
import trio.testing

import flowstream
from flowstream import raw
from flowstream.server import ServerConfig


async def app(scope, receive, send):
    assert scope["type"] == "http"
    await raw([b"the app's own"])(scope, receive, send)


async def test_it_is_not_ready_from_the_first_moment_of_a_shutdown(aeventually):
    """The path answers 200, and 503 for as long as the lame duck still serves everything."""
    stop, ended = trio.Event(), trio.Event()
    config = ServerConfig.from_mapping(
        bind=["127.0.0.1:0"], errorlog=None, readyz="/readyz", lame_duck=60
    )
    async with trio.open_nursery() as nursery, httpx2.AsyncClient() as client:

        async def serving(task_status):
            await flowstream.serve(app, config, shutdown_trigger=stop.wait, task_status=task_status)
            ended.set()

        (url,) = await nursery.start(serving)
        ready = await client.get(f"{url}/readyz")
        assert (ready.status_code, ready.text) == (200, "ready\n")
        assert (await client.get(f"{url}/readyz/")).text == "the app's own"
        stop.set()
        await trio.testing.wait_all_tasks_blocked()
        async with httpx2.AsyncClient() as newcomer:
            answer = await newcomer.get(f"{url}/readyz")
            assert (answer.status_code, answer.text) == (503, "shutting down\n")
            assert answer.headers["cache-control"] == "no-store"
            assert (await newcomer.get(url)).text == "the app's own"
        assert not ended.is_set()
        nursery.cancel_scope.cancel()


async def test_by_default_there_is_no_such_path(server):
    """Without `readyz` every path is the app's."""
    url = await server(app)
    async with httpx2.AsyncClient() as client:
        assert (await client.get(f"{url}/readyz")).text == "the app's own"
