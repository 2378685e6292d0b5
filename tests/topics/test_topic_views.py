"""Topics in views: Quart, Starlette, FastAPI; what their responses refuse; several workers."""

import json

import pytest
import trio
from fastapi import FastAPI
from quart import abort, request
from quart_trio import QuartTrio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route
from trio.testing import wait_all_tasks_blocked

from flowstream import (
    Block,
    Buffer,
    Disconnect,
    NotAuthorizedError,
    TooManyTopicsError,
    Topic,
    Topics,
    sse,
)
from flowstream.asgi import _advice
from flowstream.asgi._carrier import WORKERS_KEY
from flowstream.quart import Flowstream
from flowstream.starlette import response
from flowstream.testing import collect, open_stream


def quart_app(topics):
    app = QuartTrio("app")
    app.flow = Flowstream(app)

    @app.get("/<name>")
    async def view(name):
        return sse(await topics.open(name, request))

    return app


# -- Quart -------------------------------------------------------------------------------------


async def test_a_quart_view():
    """A view returns a topic; a client resumes; streams are counted; a disconnect is seen."""
    topics = Topics()
    app = quart_app(topics)
    async with open_stream(app, "/a") as client:
        await wait_all_tasks_blocked()
        first, _ = await topics.publish("a", 1), await topics.publish("a", 2)
        assert [(await client.next_event()).data for _ in range(2)] == ["1", "2"]
        assert app.flow.statistics().open == 1
    assert topics["a"].subscribers == 0
    async with open_stream(app, "/a", headers={"last-event-id": first}) as client:
        assert (await client.next_event()).data == "2"
    assert app.flow.statistics().closed == {"client_disconnected": 2}


async def test_a_head_in_quart():
    """It has the headers and subscribes nobody."""
    topics = Topics()
    answer = await collect(quart_app(topics), "/a", method="HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert topics["a"].subscribers == 0


async def test_quarts_request_is_the_request():
    """`authorize` and `revoke` get the request of the stream, not that of whoever asks."""
    topics = Topics(authorize=lambda name, request: request.args.get("who") == "me")
    app = quart_app(topics)

    @app.post("/revoke")
    async def revoke():
        return str(topics.revoke(lambda name, request: request.args.get("who") == "me"))

    assert (await collect(app, "/a?who=you")).status == 403
    async with open_stream(app, "/a?who=me") as client:
        await wait_all_tasks_blocked()
        assert (await collect(app, "/revoke", method="POST")).body == b"1"
        assert json.loads((await client.next_event()).data) == {"reason": "stopped"}
        await client.wait_finished()
        assert client.complete
    assert app.flow.statistics().closed == {"stopped": 1}


async def test_refusals_in_quart(caplog):
    """They are a 403 and a 503, without a word in the log."""
    topics = Topics(limit=1, authorize=lambda name, request: name != "secret")
    app = quart_app(topics)
    answer = await collect(app, "/secret")
    assert (answer.status, b"secret" in answer.body) == (403, False)
    async with open_stream(app, "/a"):
        await wait_all_tasks_blocked()
        assert (await collect(app, "/b")).status == 503
    assert [one for one in caplog.records if one.levelname == "ERROR"] == []


@pytest.mark.on_each_log
async def test_the_apps_own_error_pages():
    """Its page for a 403 is used; so is its handler of the exception, made before or later."""
    topics = Topics(authorize=lambda name, request: False)
    app = quart_app(topics)

    @app.errorhandler(403)
    async def forbidden(error):
        return "keep out", 403

    assert (await collect(app, "/a")).body == b"keep out"

    @app.errorhandler(NotAuthorizedError)
    async def later(error):
        return f"not {error.name}", 404

    answer = await collect(app, "/a")
    assert (answer.status, answer.body) == (404, b"not a")

    early = QuartTrio("early")

    @early.errorhandler(NotAuthorizedError)
    async def before(error):
        return "before", 401

    Flowstream(early)

    @early.get("/")
    async def view():
        raise NotAuthorizedError("x")

    assert (await collect(early)).status == 401


async def test_authorize_that_aborts_in_quart():
    """An HTTP error of the app's, raised in `authorize`, is the answer."""
    app = quart_app(Topics(authorize=lambda name, request: abort(401)))
    assert (await collect(app, "/a")).status == 401


# -- Starlette and FastAPI ---------------------------------------------------------------------


async def test_starlette_and_fastapi():
    """A route returns a topic; an exception handler of the app's makes a refusal a 403."""
    topics = Topics(authorize=lambda name, request: request.headers.get("who") == "me")

    async def forbidden(request, error):
        raise HTTPException(403)

    async def view(request):
        try:
            return sse(await topics.open("a", request))
        except NotAuthorizedError:
            raise HTTPException(403) from None

    fast = FastAPI()

    @fast.get("/")
    async def fast_view():
        return response(sse(topics["a"]))

    starlette = Starlette(routes=[Route("/", view)])
    assert (await collect(starlette)).status == 403
    for app in (starlette, fast):
        async with open_stream(app, headers={"who": "me"}) as client:
            await wait_all_tasks_blocked()
            await topics.publish("a", "hello")
            assert (await client.next_event()).data == "hello"
        assert topics["a"].subscribers == 0


# -- arguments ---------------------------------------------------------------------------------


async def numbers():
    yield 1


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        (Topic("a"), {"prime": 1}, TypeError, "cannot be primed"),
        (Topic("a"), {"policy": Block()}, ValueError, "Block\\(timeout=seconds\\)"),
        (Topic("a"), {"where": 1}, TypeError, "where must be a function"),
        ([Topic("a"), Topic("b")], {"prime": 1}, TypeError, "cannot be primed"),
        (numbers, {"where": bool}, TypeError, "where= is for topics"),
        ([1], {"where": bool}, TypeError, "where= is for topics"),
    ],
)
def test_what_makes_no_sense_for_a_topic(source, options, error, message):
    """It is refused at the call, with a word on what to do."""
    with pytest.raises(error, match=message):
        sse(source, **options)


@pytest.mark.on_each_log
async def test_a_subscription_is_a_source():
    """It is streamed like a topic's events, ids included, by whoever subscribed for a client."""
    topic = Topic("a")
    first = await topic.publish(1)
    await topic.publish(2)
    async with topic.subscribe(after=first) as events:
        with pytest.raises(TypeError, match="a subscription has its policy already"):
            sse(events, policy=Block())
        headers = {"last-event-id": first}
        async with open_stream(sse(events), headers=headers) as client:
            event = await client.next_event()
            assert event.data == "2"
            assert event.id == f"{topic.epoch}.a2"


async def test_a_subscription_that_is_too_slow(autojump_clock):
    """What its own policy gives up ends with `slow_consumer`, as a topic's stream does."""
    topic, reports = Topic("a"), []
    async with topic.subscribe(policy=Disconnect(), buffer=1) as events:
        app = sse(events, buffer=1, on_close=reports.append)
        async with open_stream(app, window=0) as client:
            await client.wait_blocked()
            for _ in range(10):
                await topic.publish(1)
                await trio.sleep(1)
            client.resume()
            await client.wait_finished()
    assert [report.reason for report in reports] == ["slow_consumer"]


@pytest.mark.on_each_log
async def test_where_makes_no_gaps():
    """What is filtered out is no gap, live and in replay."""
    topic = Topic("a")
    app = lambda: sse(topic, where=lambda event: event.data % 2)  # noqa: E731
    async with open_stream(app()) as client:
        await wait_all_tasks_blocked()
        for number in range(6):
            await topic.publish(number)
        got = [await client.next_event() for _ in range(3)]
    assert [event.data for event in got] == ["1", "3", "5"]
    async with open_stream(app(), headers={"last-event-id": got[0].id}) as client:
        assert [(await client.next_event()).data for _ in range(2)] == ["3", "5"]


@pytest.mark.on_each_log
async def test_an_early_warning():
    """A buffer that gets fuller than its mark says so, in band, once."""
    topic = Topic("a")
    app = sse(topic, buffer=Buffer(items=8, warn_at=0.75))
    async with open_stream(app, window=0) as client:
        await client.wait_blocked()
        for number in range(8):
            await topic.publish(number)
        client.resume()
        got = [await client.next_event() for _ in range(9)]
    assert [event.type for event in got] == ["warning"] + ["message"] * 8
    assert json.loads(got[0].data) == {"buffered": 8, "limit": 8}


# -- several workers ---------------------------------------------------------------------------


async def test_several_workers_are_warned_of(caplog):
    """The first stream of a topic says that events reach one worker's clients, once."""
    _advice._several_workers.cache_clear()
    topic = Topic("a")
    try:
        for source, count in (([1], 4), (topic, 1), (topic, 4), ([topic, Topic("b")], 4)):
            async with open_stream(sse(source), state={WORKERS_KEY: count}):
                await wait_all_tasks_blocked()
        assert [one.getMessage() for one in caplog.records if "workers" in one.getMessage()] == [
            "a topic or run is streamed by one of 4 workers: what is published in one of them "
            "reaches only the clients of that one. Give the app a log, Flowstream(app, log=...), "
            "which topics share; serve runs with --workers 1"
        ]
    finally:
        _advice._several_workers.cache_clear()


@pytest.mark.chaos
def test_several_workers_that_are_real(served, client, eventually):
    """Under ``--workers 2`` the log of the server has that warning, and the stream runs."""
    server = served(
        """
        from flowstream import Topic, sse

        topic = Topic("a")

        async def app(scope, receive, send):
            if scope["type"] == "http":
                await sse(topic)(scope, receive, send)
            else:
                raise RuntimeError
        """,
        "--workers",
        "2",
    )
    for _ in range(2):
        connection = client(server.url)
        connection.get()
        assert b": connected" in connection.read_until(b": connected")
    eventually(
        lambda: "a topic or run is streamed by one of 2 workers" in server.log, "the warning"
    )


@pytest.mark.on_each_log
async def test_too_many_topics_is_an_error_of_ours():
    """An app that answers by itself catches it."""
    topics = Topics(limit=1)
    async with topics["a"].subscribe():
        with pytest.raises(TooManyTopicsError):
            await topics.open("b")
