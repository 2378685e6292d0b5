"""The server of a log is away: publishers are told in time, clients stay, and the app is ready."""

import httpx2
import pytest
import trio
from quart_trio import QuartTrio

from flowstream import Topic, sse
from flowstream.decoders import SSEDecoder
from flowstream.logs import LogUnavailableError
from flowstream.quart import Flowstream

pytestmark = pytest.mark.chaos


def made(url):
    """Return an app that publishes, and says how a publish has failed."""
    app, news = QuartTrio(__name__), Topic("news")
    Flowstream(app, log=url)

    @app.get("/news")
    async def read():
        return sse(news)

    @app.post("/news/<text>")
    async def write(text):
        try:
            return await news.publish(text)
        except LogUnavailableError as error:
            return {"maybe": error.maybe}, 503

    return app


@pytest.mark.parametrize("kind", ["valkey", "redis"])
@pytest.mark.parametrize("how", ["frozen", "killed"])
async def test_a_broker_that_is_away(kind, how, server, own_server):
    """A publish fails after its patience, `readyz` stays 200, and a client that stayed goes on."""
    broker = own_server(kind, appendonly="yes", appendfsync="always")
    url = await server(made(broker.url), readyz="/readyz")
    got = trio.open_memory_channel(100)

    async def read(client, task_status):
        async with client.stream("GET", f"{url}/news") as answer:
            task_status.started()
            decoder = SSEDecoder()
            async for chunk in answer.aiter_bytes():
                for event in decoder.feed(chunk):
                    await got[0].send(event)

    async def next_message():
        async for event in got[1]:
            if event.type == "message":
                return event.data
        raise AssertionError("the client was cut")

    with trio.fail_after(60):
        async with httpx2.AsyncClient(timeout=40) as client, trio.open_nursery() as nursery:
            await nursery.start(read, client)
            assert (await client.post(f"{url}/news/before")).status_code == 200
            assert await next_message() == "before"
            await trio.to_thread.run_sync(broker.freeze if how == "frozen" else broker.kill)
            assert (await client.post(f"{url}/news/during")).status_code == 503
            ready = await client.get(f"{url}/readyz")
            assert (ready.status_code, ready.text) == (200, "ready\n")
            await trio.to_thread.run_sync(broker.thaw if how == "frozen" else broker.start)
            while (await client.post(f"{url}/news/after")).status_code != 200:  # noqa: ASYNC110
                await trio.sleep(0.1)
            # What failed may have appeared: then it comes first, and once.
            seen = [await next_message()]
            while seen[-1] != "after":
                seen.append(await next_message())
            assert seen.count("during") <= 1
            assert (await client.get(f"{url}/readyz")).status_code == 200
            nursery.cancel_scope.cancel()
