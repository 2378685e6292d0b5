"""The log of a Starlette or FastAPI app, which its lifespan opens."""

from contextlib import asynccontextmanager

import pytest
import trio.testing
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Route

from flowstream import Runs, Topic, sse
from flowstream.logs import LogUnavailableError, MemoryLog, SQLiteLog
from flowstream.starlette import lifespan
from flowstream.testing import open_lifespan, open_stream


@asynccontextmanager
async def own(app):
    """A lifespan of the app's own."""
    async with lifespan(app, log=app.state.log):
        await app.state.topic.publish("own")
        yield


@pytest.mark.parametrize("form", ["given", "own", "environment", "object", "bare"])
async def test_each_way_to_give_a_lifespan(form, tmp_path, monkeypatch):
    """As it is, with a log, and inside one's own; on Starlette and on FastAPI."""
    url = f"sqlite:///{tmp_path}/events.db"
    monkeypatch.delenv("FLOWSTREAM_LOG_URL", raising=False)
    given = {
        "given": lambda: lifespan(log=url),
        "own": lambda: own,
        "environment": lambda: lifespan,
        "object": lambda: lifespan(log=SQLiteLog(tmp_path / "events.db"), namespace="n"),
        "bare": lifespan,
    }[form]()
    if form == "environment":
        monkeypatch.setenv("FLOWSTREAM_LOG_URL", url)
    topic, runs = Topic("a"), Runs(grace=None, log=MemoryLog())

    async def view(request):
        return sse(topic)

    for app in (Starlette(routes=[Route("/", view)], lifespan=given), FastAPI(lifespan=given)):
        app.state.log, app.state.topic = url, topic
        async with open_lifespan(app) as state:
            if not isinstance(app, FastAPI):
                async with open_stream(app, state=state) as client:
                    await trio.testing.wait_all_tasks_blocked()
                    await topic.publish("hello")
                    assert (await client.next_event()).data == "hello"
            runs.start(type(app).__name__, [1])
            await topic.publish("x")
            assert topic._publisher.is_shared is (form != "bare")


async def test_a_log_that_cannot_be_opened(tmp_path):
    """The error is flowstream's own, alone, with a sentence that says what to do."""
    opening = lifespan(log=f"sqlite:///{tmp_path}/missing/events.db")
    with pytest.raises(LogUnavailableError, match=r"there is no folder .*missing"):
        async with opening(Starlette()):
            pass


def test_a_wrong_url_is_told_where_it_was_written():
    """When the app is made, and not when it starts."""
    with pytest.raises(ValueError, match=r"write sqlite:///events\.db"):
        lifespan(log="events.db")
    with pytest.raises(ValueError, match="such as 'staging'"):
        lifespan(namespace="")
