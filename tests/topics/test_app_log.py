"""How a topic finds the log of its app: before it is open, while it is, and after."""

import gc

import pytest
import trio
import trio.testing

from flowstream import LatestByKey, Replay, Runs, Topic, Topics, sse
from flowstream._errors import LogUnavailableError
from flowstream.logs import MemoryLog, SQLiteLog
from flowstream.quart import Flowstream
from flowstream.testing import open_stream
from flowstream.topics import _app_log
from flowstream.topics._app_log import AppLog
from flowstream.topics._publisher import Publisher


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No app of another test wants a log, nor does the environment."""
    gc.collect()
    monkeypatch.delenv("FLOWSTREAM_LOG_URL", raising=False)
    monkeypatch.delenv("FLOWSTREAM_LOG_NAMESPACE", raising=False)


class RecordingPublisher(Publisher):
    """A publisher that notes what it was asked, and does it in memory."""

    def __init__(self, engine, *arguments):
        super().__init__(*arguments)
        self.engine = engine

    async def publish(self, event, *key):
        self.engine.calls.append((self._key, event.data))
        return await super().publish(event, *key)

    def publish_soon(self, event, on_lost=None):
        self.engine.calls.append((self._key, event.data))
        super().publish_soon(event, on_lost)

    def publish_nowait(self, event):
        raise RuntimeError("write publish_soon")


class RecordingEngine:
    """An engine whose publishers are in memory, and note what they are asked."""

    def __init__(self, log):
        self.log = log
        self.calls = []
        self.state = "made"
        engines.append(self)

    async def run(self, *, task_status=trio.TASK_STATUS_IGNORED):
        if self.log.broken:
            raise LogUnavailableError("the disk is full")
        self.state = "open"
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            self.state = "closed"

    def publisher(self, kind, key, replay, changed):
        assert self.state == "open"
        return RecordingPublisher(self, kind, key, replay, changed)


engines = []


class SomeLog(MemoryLog):
    """A log that is not taken for one in memory."""

    broken = False


@pytest.fixture
def engine_of(monkeypatch):
    """Have logs get a stand-in for an engine; return the function that finds that of a log."""
    engines.clear()
    monkeypatch.setattr(_app_log, "make_engine", RecordingEngine)
    monkeypatch.setattr(_app_log, "is_memory", lambda log: type(log) is MemoryLog)
    return lambda log: next(engine for engine in engines if engine.log is log)


# -- which log -----------------------------------------------------------------------------


async def test_without_any_log_a_topic_is_in_memory():
    """There need be no app, and an app without a log changes nothing."""
    topic = Topic("a")
    await topic.publish(1)
    assert type(topic._publisher) is Publisher
    async with Flowstream():
        other = Topic("b")
        await other.publish(1)
        assert type(other._publisher) is Publisher
        assert other.publish_nowait(2) == f"{other.epoch}.a2"
    await other.publish(3)
    assert other.statistics().published == 3


@pytest.mark.parametrize("made", ["before", "between", "inside"])
async def test_a_topic_may_be_made_at_any_time(engine_of, made):
    """Before the app, before its log is open, and after."""
    log = SomeLog()
    topic = Topic("a") if made == "before" else None
    flowstream = Flowstream(log=log)
    topic = topic or (Topic("a") if made == "between" else None)
    async with flowstream:
        topic = topic or Topic("a")
        await topic.publish(1)
    assert engine_of(log).calls == [("a", 1)]


async def test_what_uses_a_topic_first_binds_it(engine_of):
    """Each way to publish, to subscribe, to stream, to feed and to ask; and nothing else."""

    async def items():
        yield 1

    async def use(topic, how):
        if how == "many":
            await topic.publish_many([1])
        elif how == "soon":
            topic.publish_soon(1)
        elif how == "thread":
            await trio.to_thread.run_sync(topic.publish_from_thread, 1)
        elif how == "position":
            await topic.position()
        elif how == "subscribe":
            async with topic.subscribe():
                pass
        elif how == "sse":
            sse(topic)
        elif how == "two":
            async with open_stream(sse([Topic("other"), topic])):
                await trio.testing.wait_all_tasks_blocked()
        elif how == "feed":
            topic.publish_from(items, retry=None)
        elif how == "nowait":
            with pytest.raises(RuntimeError, match="publish_soon"):
                topic.publish_nowait(1)
        elif how == "presence":
            async with Topic("other", presence=topic).subscribe():
                pass
        else:
            await topic.publish(1)

    async with Flowstream(log=SomeLog()):
        for how in (
            "publish many soon thread position subscribe sse two feed nowait presence".split()  # noqa: SIM905
        ):
            topic = Topic("a")
            topic.statistics()
            assert (topic.subscribers, topic.closed, len(topic.epoch)) == (0, False, 11)
            assert type(topic._publisher) is Publisher
            await use(topic, how)
            assert type(topic._publisher) is RecordingPublisher, how


async def test_a_topic_keeps_what_it_was_made_with(engine_of):
    """Replay, snapshots, presence and the filter of a subscription go with it into the log."""
    log, who = SomeLog(), Topic("who")
    kept = Topic("kept", snapshot=LatestByKey(), presence=who, replay=Replay(items=2))

    async def state():
        return "state"

    asked = Topic("asked", snapshot=state)
    filtered = Topic("filtered")
    early = await trio.to_thread.run_sync(
        lambda: filtered.subscribe(where=lambda event: event.data > 1)
    )
    async with Flowstream(log=log):
        async with early as events:
            for n in range(3):
                await kept.publish(n, key="k")
                await filtered.publish(n)
            assert (await anext(events)).data == 2
        async with kept.subscribe() as events:
            assert (await anext(events)).data == [{"key": "k", "data": 2}]
        async with asked.subscribe() as events:
            assert (await anext(events)).data == "state"
        assert kept.statistics().replay_items == 2
    told = [data["subscribers"] for name, data in engine_of(log).calls if name == "who"]
    assert told == [1, 0]


async def test_a_stream_that_was_made_before_the_log_was_open(engine_of):
    """It is given what is in the log, alone or with others on one connection."""
    log = SomeLog()
    topic, other = Topic("a"), Topic("b")
    made = await trio.to_thread.run_sync(
        lambda: (sse(topic), sse([topic, other]), topic.subscribe())
    )
    async with Flowstream(log=log):
        one, two, subscription = made
        async with open_stream(one) as first, open_stream(two) as second, subscription as events:
            await trio.testing.wait_all_tasks_blocked()
            await topic.publish("hello")
            await other.publish("there")
            assert (await first.next_event()).data == "hello"
            assert [(await second.next_event()).data for _ in "ab"] == ["hello", "there"]
            assert (await anext(events)).data == "hello"
    assert engine_of(log).calls == [("a", "hello"), ("b", "there")]


async def test_two_apps_have_a_log_each(engine_of):
    """A topic is in the log of the app in which it is used first, also with two in one run."""
    logs = {"x": SomeLog(), "y": SomeLog()}
    opened, over = trio.Event(), trio.Event()

    async def outer():
        async with Flowstream(log=logs["y"]):
            opened.set()
            await Topic("y").publish(1)
            await over.wait()

    async with trio.open_nursery() as nursery, Flowstream(log=logs["x"]):
        nursery.start_soon(outer)
        await opened.wait()
        await Topic("x").publish(1)
        given = Topic("given", log=logs["y"])
        await given.publish(1)
        over.set()
    assert engine_of(logs["x"]).calls == [("x", 1)]
    assert engine_of(logs["y"]).calls == [("y", 1), ("given", 1)]


async def test_a_topic_of_its_own_log(engine_of):
    """`Topic(log=MemoryLog())` is in memory; so are all of `Topics(log=MemoryLog())`."""
    log = SomeLog()
    async with Flowstream(log=log):
        await Topic("a", log=MemoryLog()).publish(1)
        memory = Topics(log=MemoryLog())
        await memory.publish("b", 1)
        mixed = Topics(lambda name: Topic(name, log=log if name == "c" else None), log=MemoryLog())
        await mixed.publish("c", 1)
        await mixed.publish("d", 1)
        await Topics(log=log).publish("e", 1)
        await memory.aclose()
        await mixed.aclose()
    assert engine_of(log).calls == [("c", 1), ("e", 1)]


async def test_an_app_with_a_log_in_memory(engine_of):
    """`log=MemoryLog()` and ``memory:`` are as an app without a log."""
    for log in (MemoryLog(), "memory:"):
        async with Flowstream(log=log):
            topic = Topic("a")
            assert topic.publish_nowait(1) == f"{topic.epoch}.a1"
    assert engines == []


# -- not open ------------------------------------------------------------------------------


async def test_a_topic_is_not_used_before_its_log_is_open(engine_of):
    """Nothing falls into memory: each use says what to do, and the topic is then bound."""
    log = SomeLog()
    flowstream, topic = Flowstream(log=log), Topic("a")
    for use in (
        lambda: topic.publish_nowait(1),
        lambda: topic.publish_soon(1),
        topic.subscribe,
        lambda: sse(topic),
    ):
        with pytest.raises(RuntimeError, match=r"the topic 'a' can't be used.*before_serving"):
            use()
    for wait in (topic.position, lambda: topic.publish(1), lambda: topic.publish_many([1])):
        with pytest.raises(RuntimeError, match="the log of its app is not open"):
            await wait()
    assert topic.statistics().published == 0
    async with flowstream:
        await topic.publish(2)
    assert engine_of(log).calls == [("a", 2)]


async def test_a_topic_is_not_used_after_its_log_was_closed(engine_of):
    """What was in the log does not go on in memory, also under an app without one."""
    log, topic = SomeLog(), Topic("a")
    async with Flowstream(log=log):
        await topic.publish(1)
    with pytest.raises(RuntimeError, match="the log that it was used with is closed"):
        await topic.publish(2)
    async with Flowstream():
        with pytest.raises(RuntimeError, match="the log that it was used with is closed"):
            await topic.publish(2)
    await Topic("b").publish(1)  # no app wants a log any more


async def test_an_app_may_be_served_again(engine_of):
    """Topics of the module are bound anew each time; one that was closed stays closed."""
    topic, closed = Topic("a"), Topic("b")
    async with Flowstream(log=SomeLog()):
        await topic.publish(1)
        await closed.publish(1)
        await closed.aclose()
    log = SomeLog()
    async with Flowstream(log=log):
        assert topic.statistics().published == 0
        await topic.publish(2)
        with pytest.raises(trio.ClosedResourceError):
            await closed.publish(2)
    assert engine_of(log).calls == [("a", 2)]


async def test_who_still_reads_when_the_log_is_closed_hears_of_it(engine_of):
    """A subscription ends, and does not wait for ever for a log that is gone."""
    topic = Topic("a")
    async with Flowstream(log=SomeLog()):
        subscription = topic.subscribe()
        events = await subscription.__aenter__()
    with pytest.raises(StopAsyncIteration):
        await anext(events)
    await subscription.__aexit__()


async def test_a_log_that_is_given_but_not_open(engine_of):
    """A topic's own log must be one that an app has open."""
    topic = Topic("a", log=SomeLog())
    with pytest.raises(RuntimeError, match="its log is not open"):
        await topic.publish(1)


async def test_jobs_and_feeders_end_before_the_log_is_closed(engine_of):
    """What a run publishes in its cleanup is in the log."""
    log, topic, runs = SomeLog(), Topic("a"), Runs(grace=None, log=MemoryLog())

    async def goodbye():
        try:
            yield "x"
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await topic.publish("goodbye")

    async with Flowstream(log=log):
        runs.start("r", goodbye)
        await trio.testing.wait_all_tasks_blocked()
    assert engine_of(log).calls == [("a", "goodbye")]


async def test_a_feeder_feeds_the_log(engine_of):
    """With `send` and with `send_nowait`, which takes the way that a log has."""
    log, topic = SomeLog(), Topic("a")

    async def produce(out):
        await out.send("x")
        out.send_nowait("y")

    async with Flowstream(log=log):
        feeder = topic.publish_from(produce, retry=None)
        await trio.testing.wait_all_tasks_blocked()
        assert feeder.statistics().published == 2
    assert engine_of(log).calls == [("a", "x"), ("a", "y")]


# -- opening -------------------------------------------------------------------------------


async def test_a_log_that_cannot_be_opened(engine_of):
    """The error comes out alone, nothing is open, and it can be tried again."""
    log = SomeLog()
    log.broken = True
    flowstream = Flowstream(log=log)
    with pytest.raises(LogUnavailableError, match="the disk is full"):
        await flowstream.__aenter__()
    log.broken = False
    async with flowstream:
        await Topic("a").publish(1)


async def test_a_block_that_fails_fails_as_it_would_alone(engine_of):
    """No group is around its error."""
    with pytest.raises(KeyError):
        async with Flowstream(log=SomeLog()):
            raise KeyError
    assert engines[-1].state == "closed"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"log": 5}, r"log must be a log such as SQLiteLog\('events.db'\), or a URL"),
        ({"log": "events.db"}, "write sqlite:///events.db"),
        ({"log": "mysql://x"}, "there is no log 'mysql'"),
        ({"log": "sqlite://events.db"}, "three slashes"),
        ({"namespace": "a/b"}, "such as 'staging', not 'a/b'"),
        ({"namespace": ""}, "such as 'staging'"),
        ({"namespace": 5}, "namespace must be a str"),
    ],
)
def test_a_wrong_argument_is_told_where_it_was_written(wrong, said):
    """It raises when the app is made, with a sentence that says what to write."""
    with pytest.raises((TypeError, ValueError), match=said):
        Flowstream(**wrong)


async def test_a_wrong_log_of_a_topic():
    """A URL is not a log that is open."""
    with pytest.raises(TypeError, match="that the app has open"):
        Topic("a", log="sqlite:///events.db")
    with pytest.raises(TypeError, match="log must be a log"):
        Topics(log="memory:")


async def test_the_environment_is_read_when_the_app_starts(monkeypatch, tmp_path):
    """A URL and a namespace that are set later are those that count; a wrong one names itself."""
    flowstream = Flowstream()
    path = tmp_path / "events.db"
    monkeypatch.setenv("FLOWSTREAM_LOG_URL", "nothing")
    with pytest.raises(LogUnavailableError, match="FLOWSTREAM_LOG_URL: there is no log"):
        await flowstream.__aenter__()
    monkeypatch.setenv("FLOWSTREAM_LOG_URL", f"sqlite:///{path}")
    monkeypatch.setenv("FLOWSTREAM_LOG_NAMESPACE", "a b")
    with pytest.raises(LogUnavailableError, match="FLOWSTREAM_LOG_NAMESPACE: namespace must have"):
        await flowstream.__aenter__()
    topic = Topic("a")
    with pytest.raises(RuntimeError, match="the log of its app is not open"):
        await topic.publish(1)
    monkeypatch.setenv("FLOWSTREAM_LOG_NAMESPACE", "staging")
    async with flowstream:
        await topic.publish(1)
    log = SQLiteLog(path)
    async with AppLog(log, None).open():
        assert (await log.topics()) == (["staging/topic:a"], None)
    monkeypatch.setenv("FLOWSTREAM_LOG_URL", "")
    async with Flowstream():
        assert isinstance(Topic("a").publish_nowait(1), str)


# -- the real one --------------------------------------------------------------------------


async def test_events_outlive_the_app(tmp_path):
    """A client that comes back to the next life of the app gets what it missed."""
    url = f"sqlite:///{tmp_path}/events.db"
    topic = Topic("a")
    async with Flowstream(log=url, namespace="one"):
        ids = [await topic.publish(n) for n in range(3)]
        with pytest.raises(RuntimeError, match="publish_soon"):
            topic.publish_nowait(3)
        with pytest.raises(ValueError, match="idempotency_key"):
            await topic.publish(3, id="mine")
    async with Flowstream(log=url, namespace="one"):
        async with topic.subscribe(after=ids[0]) as events:
            assert [(await anext(events)).id for _ in range(2)] == ids[1:]
        assert await topic.position() == ids[-1]
        assert await topic.publish(3) > ids[-1]
    async with Flowstream(log=url, namespace="two"):
        assert await topic.position() != ids[-1]
