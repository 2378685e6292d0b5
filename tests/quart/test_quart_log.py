"""A Quart app's log: when it is open, and what an app hears if it can't be opened."""

import pytest
import trio
import trio.testing
from quart_trio import QuartTrio

from flowstream import Topic, Topics, sse
from flowstream.logs import LogUnavailableError
from flowstream.quart import Flowstream
from flowstream.testing import collect, open_lifespan, open_stream


@pytest.fixture
def url(tmp_path):
    """The URL of a log that does not exist yet."""
    return f"sqlite:///{tmp_path}/events.db"


def made(topic, **options):
    """Return an app with one topic, and its Flowstream."""
    app = QuartTrio(__name__)

    @app.get("/events")
    async def events():
        return sse(topic)

    @app.post("/publish")
    async def publish():
        return await topic.publish("hello")

    return app, Flowstream(app, **options)


async def test_a_client_gets_what_it_missed_after_a_restart(url):
    """Two lives of an app, and of its topic: the id of the first is known in the second."""
    first = made(Topic("a"), log=url)[0]
    async with open_lifespan(first):
        id = (await collect(first, "/publish", method="POST")).body.decode()
        await collect(first, "/publish", method="POST")
    second = made(Topic("a"), log=url)[0]
    async with open_lifespan(second):
        headers = {"Last-Event-ID": id}
        async with open_stream(second, "/events", headers=headers) as client:
            event = await client.next_event()
    assert event.data == "hello"
    assert event.id > id


async def test_the_log_is_open_before_the_apps_first_function_and_until_its_last(url):
    """Functions that were registered before and after the extension can publish, and generators."""
    topic, app = Topic("a"), QuartTrio(__name__)

    async def publish():
        await topic.publish("x")

    app.before_serving(publish)
    app.after_serving(publish)
    Flowstream(app, log=url)

    @app.while_serving
    async def around():
        await topic.publish("start")
        yield
        await topic.publish("end")

    app.before_serving(publish)
    app.after_serving(publish)
    async with open_lifespan(app):
        pass
    async with Flowstream(log=url):
        position = await topic.position()
    assert position.endswith(".a6")


async def test_a_background_task_publishes_in_the_log_of_its_app(url, tmp_path):
    """Of two apps that start and stop in turn each has its own, in tasks without a request, too."""
    topics = {name: Topic(name) for name in "xy"}
    apps = {}
    for name, topic in topics.items():
        apps[name] = QuartTrio(name)
        Flowstream(apps[name], log=f"sqlite:///{tmp_path}/{name}.db")

        @apps[name].before_serving
        async def start(app=apps[name], topic=topic):
            app.add_background_task(topic.publish, 1)

    async with open_lifespan(apps["x"]), open_lifespan(apps["y"]):
        await trio.testing.wait_all_tasks_blocked(0.01)
    for name in "xy":
        async with Flowstream(log=f"sqlite:///{tmp_path}/{name}.db"):
            for other in "xy":
                assert (await Topic(other).position()).endswith(".a1" if other == name else ".a0")


async def test_topics_by_name_are_in_the_log(url):
    """A topic that somebody opens is found under its name in the next life."""
    async with Flowstream(log=url):
        topics = Topics()
        await topics.publish("lobby", 1)
        await topics.aclose()
    app = QuartTrio(__name__)
    Flowstream(app, log=url)
    rooms = Topics()

    @app.get("/rooms/<name>")
    async def room(name):
        return sse(await rooms.open(name))

    async with open_lifespan(app), open_stream(app, "/rooms/lobby") as client:
        await trio.testing.wait_all_tasks_blocked()
        await rooms.publish("lobby", 2)
        event = await client.next_event()
        assert (event.data, event.id[-3:]) == ("2", ".a2")
        await rooms.aclose()


async def test_a_log_that_cannot_be_opened_is_one_sentence(tmp_path, caplog):
    """The app does not start, its functions are not run, and there is no traceback."""
    started = []
    app = made(Topic("a"), log=f"sqlite:///{tmp_path}/missing/events.db")[0]

    @app.before_serving
    async def start():
        started.append(True)

    with pytest.raises(RuntimeError) as caught:
        async with open_lifespan(app):
            pass
    assert "missing" in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert caplog.records == []
    assert started == []
    with pytest.raises(LogUnavailableError):
        async with made(Topic("a"), log=f"sqlite:///{tmp_path}/missing/events.db")[1]:
            pass


async def test_a_startup_that_fails_later_closes_the_log(url):
    """The app's own error comes out, and the file can be opened again."""
    app = made(Topic("a"), log=url)[0]

    @app.before_serving
    async def start():
        raise KeyError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        async with open_lifespan(app):
            pass
    async with Flowstream(log=url):
        await Topic("b").publish(1)


async def test_a_publish_before_the_app_starts_is_refused(url):
    """In the same program, before its lifespan has begun."""
    topic = Topic("a")
    app = made(topic, log=url)[0]
    with pytest.raises(RuntimeError, match="the log of its app is not open"):
        await topic.publish(1)
    async with open_lifespan(app):
        await topic.publish(1)
