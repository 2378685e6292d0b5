"""What a user types wrongly: each gets, at the call, a sentence that says what to write instead."""

import asyncio
import logging
import threading

import pytest
import trio
from fastapi import FastAPI
from quart import Quart
from quart_trio import QuartTrio

import flowstream
from flowstream import (
    DropOldest,
    Runs,
    SourceError,
    StreamResponse,
    Topic,
    csv,
    ndjson,
    raw,
    sse,
    stream,
)
from flowstream.quart import Flowstream
from flowstream.server._config_file import ConfigFileError, read_config_file
from flowstream.sources import throttle
from flowstream.testing import collect, open_stream


async def numbers():
    yield 1


# -- keywords ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: sse(numbers, polcy=DropOldest()),
            r"^sse\(\) .* 'polcy'\. Did you mean 'policy'\?$",
        ),
        (lambda: ndjson(numbers, hartbeat=1), r"^ndjson\(\) .* Did you mean 'heartbeat'\?$"),
        (lambda: csv([], colums=["a"]), r"^csv\(\) .* Did you mean 'columns'\?$"),
        (lambda: raw([], media_typ="a/b"), r"^raw\(\) .* Did you mean 'media_type'\?$"),
        (
            lambda: stream(numbers, encoder=flowstream.NDJSON(), on_reconect="refuse"),
            r"^stream\(\) .* Did you mean 'on_reconnect'\?$",
        ),
        (lambda: sse(numbers, xyz=1), r"^sse\(\) got an unexpected keyword argument 'xyz'$"),
    ],
)
def test_a_misspelt_keyword(call, message):
    """It is named with the function that was called and the keyword that is most like it."""
    with pytest.raises(TypeError, match=message):
        call()


# -- a subscription as a source ----------------------------------------------------------------


async def test_a_subscription_is_a_source(autojump_clock):
    """``sse(topic.subscribe(...))`` streams the topic on the terms that were given there."""
    topic = Topic("prices")
    ids = [await topic.publish(number) for number in range(4)]
    response = ndjson(topic.subscribe(after=ids[0], where=lambda event: event.data != 2))
    async with open_stream(response) as client:
        assert (await client.next_value())["data"] == 1
        assert (await client.next_value())["data"] == 3
        await topic.publish(4)
        assert (await client.next_value())["data"] == 4
        assert topic.subscribers == 1
    assert topic.subscribers == 0


async def test_what_a_client_saw_last_wins_over_after(autojump_clock):
    """A client that comes back goes on where it was, not where `after` says."""
    topic = Topic("prices")
    ids = [await topic.publish(number) for number in range(4)]
    response = sse(topic.subscribe(after=ids[0]))
    async with open_stream(response, headers={"last-event-id": ids[2]}) as client:
        assert (await client.next_event()).data == "3"


async def test_a_subscription_with_a_policy_and_a_buffer():
    """They are those of the stream, which may say another buffer, but not two policies."""
    topic = Topic("prices")
    given = topic.subscribe(policy=DropOldest(max_age=1), buffer=7)
    assert sse(given).statistics().buffer.max_items == 7
    assert sse(given, buffer=8).statistics().buffer.max_items == 8
    with pytest.raises(TypeError, match="has its policy= and where= already"):
        sse(given, policy=DropOldest())
    with pytest.raises(TypeError, match="has its policy= and where= already"):
        sse(given, where=bool)


async def test_a_subscription_in_a_shape_and_in_a_run(autojump_clock):
    """What takes a source of one client takes a subscription that was not entered."""
    topic = Topic("prices")
    runs = Runs()
    async with Flowstream(), open_stream(ndjson(throttle(topic.subscribe(), per_second=1))) as one:
        run = runs.start("a", topic.subscribe())
        await trio.testing.wait_all_tasks_blocked()
        await topic.publish(1)
        assert (await one.next_value())["data"] == 1
        async with run.subscribe() as events:
            assert (await anext(events)).data == 1
        await runs.stop("a")
    assert topic.subscribers == 0


async def test_a_subscription_is_used_once():
    """Entered a second time, it says to subscribe again."""
    topic = Topic("prices")
    manager = topic.subscribe()
    async with manager:
        assert topic.subscribers == 1
    with pytest.raises(RuntimeError, match=r"call subscribe\(\) again"):
        async with manager:
            pass
    assert topic.subscribers == 0


def test_what_is_wrong_with_a_subscription_is_said_at_the_call():
    """`subscribe` checks its arguments itself, not when it is entered."""
    topic = Topic("prices")
    with pytest.raises(TypeError, match="after must be the id of an event, not a int"):
        topic.subscribe(after=3)
    with pytest.raises(TypeError, match="policy must be a Policy"):
        topic.subscribe(policy="drop")
    with pytest.raises(SourceError, match="only topics in it"):
        sse([topic, topic.subscribe()])


# -- Quart -------------------------------------------------------------------------------------


async def numbers_view():
    return ndjson(numbers)


WITHOUT_FLOWSTREAM = r"make it a QuartTrio, and write `Flowstream\(app\)`"


async def test_a_quart_trio_app_without_flowstream():
    """The error of a view that returns a stream says to write ``Flowstream(app)``."""
    app = QuartTrio("app")
    app.testing = True  # errors come out
    app.add_url_rule("/", view_func=numbers_view)
    with pytest.raises(RuntimeError, match=WITHOUT_FLOWSTREAM):
        await collect(app)


def test_a_quart_app():
    """In an app on asyncio the error of such a view says to make it a QuartTrio, too."""

    async def ask():
        async with Quart("app").test_request_context("/"):
            await numbers_view()

    with pytest.raises(RuntimeError, match=WITHOUT_FLOWSTREAM):
        asyncio.run(ask())


@pytest.mark.parametrize("set_up", [True, False])
async def test_serving_a_quart_app_without_flowstream(caplog, set_up):
    """The server says so when it starts; it says nothing of an app that has one."""
    app = QuartTrio("app")
    if set_up:
        Flowstream(app)
    with caplog.at_level(logging.WARNING, "flowstream.server"), trio.move_on_after(30):
        async with trio.open_nursery() as nursery:
            config = flowstream.server.streaming_config(bind=["127.0.0.1:0"])
            await nursery.start(flowstream.serve, app, config)
            nursery.cancel_scope.cancel()
    warned = [record for record in caplog.records if "has no Flowstream" in record.message]
    assert len(warned) == (0 if set_up else 1)


def test_a_quart_trio_app_under_asyncio():
    """Its startup fails with how to serve it, where Quart-Trio would fail at each request."""
    app = QuartTrio("app")
    Flowstream(app)
    sent = []

    async def receive():
        return {"type": "lifespan.startup"}

    async def send(message):
        sent.append(message)

    asyncio.run(app({"type": "lifespan", "asgi": {}, "state": {}}, receive, send))
    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]
    assert "`hypercorn --worker-class trio module:app`" in sent[0]["message"]


# -- publishing in the wrong place -------------------------------------------------------------


def test_publishing_at_import_time():
    """Without any event loop it says when to publish."""
    with pytest.raises(RuntimeError, match="the topic 'a' was published to before Trio runs"):
        Topic("a").publish_nowait(1)


async def test_publishing_in_a_thread():
    """In a thread it names the method for threads, whether the topic was used before or not."""
    new, used = Topic("a"), Topic("a")
    await used.publish(0)
    for topic in (new, used):
        with pytest.raises(RuntimeError, match=r"in a thread: write topic\.publish_from_thread"):
            await trio.to_thread.run_sync(topic.publish_nowait, 1)
        assert topic.statistics().published == (topic is used)


@pytest.mark.parametrize("used", [True, False])
def test_publishing_under_asyncio(used):
    """Under another event loop it says that flowstream runs on Trio, and how to serve."""
    topic = Topic("a")
    if used:
        trio.run(topic.publish, 0)

    async def publish():
        await topic.publish(1)

    with pytest.raises(RuntimeError, match="flowstream runs on Trio, and here runs another"):
        asyncio.run(publish())


async def test_publishing_from_a_thread_in_the_event_loop():
    """It would block the loop, and says to await `publish`."""
    with pytest.raises(RuntimeError, match=r"write `await topic\.publish\(\.\.\.\)`"):
        Topic("a").publish_from_thread(1)


def test_publishing_from_a_thread_of_nobodys():
    """In a thread of Python's, a topic that no event loop has used says how to start one."""
    raised = []

    def publish():
        with pytest.raises(RuntimeError, match=r"start the thread with trio\.to_thread") as caught:
            Topic("a").publish_from_thread(1)
        raised.append(caught)

    thread = threading.Thread(target=publish)
    thread.start()
    thread.join()
    assert raised


async def test_an_error_of_publish_comes_once_from_a_thread():
    """What `publish` itself raises in the event loop is not taken for a missing loop."""
    topic = Topic("a")
    await topic.publish(0)
    await topic.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await trio.to_thread.run_sync(topic.publish_from_thread, 1)


# -- FastAPI -----------------------------------------------------------------------------------


def test_a_stream_as_fastapis_return_type():
    """The route is refused where it is made, with the annotation and the call to write."""
    app = FastAPI()
    with pytest.raises(TypeError, match=r"`-> Response` .* flowstream\.starlette\.response"):

        @app.get("/")
        async def view() -> StreamResponse:
            return ndjson(numbers)


# -- libraries for asyncio ---------------------------------------------------------------------


async def test_an_asyncio_library_in_a_producer(autojump_clock, caplog):
    """The log says that the library needs asyncio, and what to use; the client is told nothing."""

    async def producer():
        yield 1
        asyncio.get_running_loop()

    answer = await collect(ndjson(producer))
    assert b'"code":"internal"' in answer.body
    assert b"asyncio" not in answer.body
    [record] = [record for record in caplog.records if record.exc_info]
    assert "This library needs asyncio" in logging.Formatter().format(record)


# -- the configuration file --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('verify_mode = "CERT_REQUIRED"', {"verify_mode": 2}),
        ("verify_mode = 2", {"verify_mode": 2}),
        ('verify_flags = "VERIFY_X509_STRICT"', {"verify_flags": 0x20}),
        (
            'verify_flags = ["VERIFY_X509_STRICT", "VERIFY_CRL_CHECK_LEAF"]',
            {"verify_flags": 0x24},
        ),
    ],
)
def test_an_enum_by_its_name(tmp_path, text, expected):
    """A setting of Python's ssl module is written by its name there, or by its number."""
    file = tmp_path / "c.toml"
    file.write_text(text)
    assert read_config_file(file) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('verify_mode = "REQUIRED"', "expected one of 'CERT_NONE', 'CERT_OPTIONAL'"),
        ('verify_mode = ["CERT_NONE"]', "expected one of 'CERT_NONE', 'CERT_OPTIONAL'"),
        ("verify_flags = []", "cannot be []: expected one of"),
        ('bnid = "x"', "no server setting 'bnid': did you mean 'bind'?"),
        ("port = 80", "no server setting 'port': write bind, such as '127.0.0.1:8000'"),
    ],
)
def test_what_the_file_does_not_have(tmp_path, text, message):
    """The message lists the names there are, or the setting that was meant."""
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(ConfigFileError) as caught:
        read_config_file(file)
    assert message in str(caught.value)
