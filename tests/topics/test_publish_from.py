"""`Topic.publish_from`: a task that feeds a topic lives through what its source does."""

import asyncio
import json
import logging
from itertools import pairwise

import pytest
import trio
from quart_trio import QuartTrio
from trio.testing import wait_all_tasks_blocked

from flowstream import Event, Retry, SourceError, Topic, Topics, sse
from flowstream._clock import chance
from flowstream.quart import Flowstream
from flowstream.sources import batched, throttle, with_timeout
from flowstream.starlette import lifespan
from flowstream.testing import open_lifespan, open_stream


@pytest.fixture
async def flow():
    """What feeders run in, outside an app."""
    async with Flowstream() as flow:
        yield flow


@pytest.fixture(autouse=True)
def whole_waits(monkeypatch):
    """Have each wait be as long as it may be."""
    monkeypatch.setattr(chance, "uniform", lambda low, high: high)


class Flaky:
    """A source that notes when it is begun, and fails after each item for so long a time."""

    def __init__(self, *lasting, error=OSError):
        self.lasting, self.error = list(lasting), error
        self.began = []
        self.cleaned_up = 0

    async def __call__(self, out):
        self.began.append(trio.current_time())
        try:
            await out.send(len(self.began))
            await trio.sleep(self.lasting.pop(0) if self.lasting else 0)
            raise self.error(f"failure {len(self.began)}")
        finally:
            await trio.sleep(1)
            self.cleaned_up += 1


def data(topic):
    """Return the data of what is kept."""
    history = topic._publisher.history
    return [published.event.data for published in history.after(0, 100)]


async def test_a_failure_begins_anew_after_a_wait_that_doubles(flow, autojump_clock):
    """Each wait is at most twice the one before it, and at most `longest`."""
    topic, source = Topic("jobs"), Flaky()
    start = trio.current_time()
    topic.publish_from(source, retry=Retry(first=1, longest=5))
    await trio.sleep(25)
    waits = [later - earlier - 1 for earlier, later in pairwise(source.began)]
    assert source.began[0] == start
    assert waits == pytest.approx([1, 2, 4, 5, 5])
    assert topic.statistics().feed_failures == 6
    assert topic.statistics().published == 6


async def test_waits_are_a_random_part(flow, autojump_clock, monkeypatch):
    """Servers that lost the same database don't come back at the same moment."""
    parts = iter([0.5, 0.25, 0.0, 1.0])
    monkeypatch.setattr(chance, "uniform", lambda low, high: low + next(parts) * (high - low))
    source = Flaky()
    Topic("jobs").publish_from(source, retry=Retry(first=8, longest=64))
    await trio.sleep(20)
    waits = [later - earlier - 1 for earlier, later in pairwise(source.began)]
    assert waits == pytest.approx([4, 4, 0])


async def test_a_source_that_has_worked_for_a_while_begins_with_short_waits(flow, autojump_clock):
    """After `longest` seconds without a failure the next one counts as the first."""
    source = Flaky(0, 0, 10, 0)
    feeder = Topic("jobs").publish_from(source, retry=Retry(first=1, longest=10))
    await trio.sleep(2 + 3 + 11 + 1.5)
    assert feeder.statistics().failures_in_a_row == 1
    waits = [later - earlier for earlier, later in pairwise(source.began)]
    assert waits == pytest.approx([2, 3, 12])
    assert feeder.statistics().failures == 3


async def test_the_log_has_a_traceback_once_and_then_lines(flow, autojump_clock, caplog):
    """Ten failures of one kind are one traceback, and tell when it is tried again."""
    Topic("jobs").publish_from(Flaky(), retry=Retry(first=1, longest=2))
    await trio.sleep(8)
    records = [record for record in caplog.records if record.name == "flowstream"]
    assert [bool(record.exc_info) for record in records] == [True, False, False]
    assert records[0].getMessage() == (
        "what feeds the topic 'jobs' failed; it is tried again in 1.0 s"
    )
    assert "(OSError: failure 2), 2 times in a row; it is tried again in 2.0 s" in caplog.text


@pytest.mark.parametrize("error", [asyncio.CancelledError, GeneratorExit, ValueError, RuntimeError])
async def test_no_failure_reaches_the_app(flow, autojump_clock, error):
    """Whatever the source raises is one more failure."""
    topic = Topic("jobs")
    topic.publish_from(Flaky(error=error))
    await trio.sleep(10)
    assert topic.statistics().feed_failures >= 2
    assert topic.statistics().feeders == 1


async def test_a_bad_item_is_left_out_and_the_source_goes_on(flow, autojump_clock, caplog):
    """It is counted and logged; the source is not begun anew."""
    began = 0

    async def items():
        nonlocal began
        began += 1
        yield 1
        yield object()  # no format can carry it
        yield Event(2, key=[])  # can't be hashed
        yield Event(3, id="")
        yield 4
        await trio.sleep_forever()

    topic = Topic("jobs")
    feeder = topic.publish_from(items)
    await wait_all_tasks_blocked()
    assert data(topic) == [1, 4]
    assert began == 1
    statistics = feeder.statistics()
    assert (statistics.published, statistics.bad_items, statistics.failures) == (2, 3, 0)
    assert topic.statistics().bad_items == 3
    assert [bool(record.exc_info) for record in caplog.records] == [True]
    await feeder.stop()
    assert "made 2 more bad items" in caplog.text


async def test_a_flood_of_bad_items_is_a_few_lines_and_starves_nobody(flow, autojump_clock, caplog):
    """A source that never waits and makes nothing good lets others run; the log stays small."""

    async def items():
        while True:
            yield object()

    feeder = Topic("jobs").publish_from(items)
    for _ in range(100):
        await trio.lowlevel.checkpoint()
    await feeder.stop()
    assert feeder.statistics().bad_items > 50
    assert len(caplog.records) == 2


@pytest.mark.parametrize(
    "wrap",
    [
        lambda source: source,
        lambda source: throttle(source, per_second=1000),
        lambda source: batched(source, 1, None),
        lambda source: with_timeout(source, between=60),
    ],
    ids=["bare", "throttle", "batched", "with_timeout"],
)
async def test_a_producer_rejects_what_it_cannot_read(flow, autojump_clock, wrap):
    """Also inside what shapes it."""

    async def produce(out):
        for text in ("1", "{", "2"):
            try:
                item = json.loads(text)
            except ValueError as error:
                out.reject(error)
            else:
                await out.send(item)
        await trio.sleep_forever()

    topic = Topic("jobs")
    topic.publish_from(lambda: wrap(produce))
    await trio.sleep(5)
    assert topic.statistics().bad_items == 1
    assert topic.statistics().feed_failures == 0
    assert topic.statistics().published >= 1


async def test_what_a_producer_rejects_fails_the_stream_of_one_client(autojump_clock):
    """Half an answer never looks whole."""

    async def produce(out):
        await out.send("good")
        out.reject(ValueError("bad"))
        await out.send("never")

    async with open_stream(sse(produce)) as client:
        events = [event async for event in client]
    assert [event.type for event in events] == ["message", "failed"]


async def test_the_envelope_of_an_event_is_kept(flow, autojump_clock):
    """Type, key, id, essential and retry are what the source says, and its event is its own."""
    event = Event("x", id="own", type="price", key="EUR", essential=True, retry=100)

    async def items():
        yield event
        yield event.data

    topic = Topic("jobs")
    async with topic.subscribe() as events:
        topic.publish_from(items)
        assert await anext(events) == event
        assert (await anext(events)).data == "x"


async def test_a_topic_can_be_fed_from_another(flow, autojump_clock):
    """Another topic's events get ids of this one, and an app's own ids stay; none is a bad item."""
    first, second = Topic("first"), Topic("second")
    async with second.subscribe() as events:
        second.publish_from(first.subscribe)
        await trio.testing.wait_all_tasks_blocked()
        given = [await first.publish("a"), await first.publish("b", id="own")]
        got = [await anext(events) for _ in range(2)]
    assert [event.data for event in got] == ["a", "b"]
    assert given == [f"{first.epoch}.a1", "own"]
    assert [event.id for event in got] == [f"{second.epoch}.a1", "own"]
    assert second.statistics().bad_items == 0


@pytest.mark.parametrize("how", ["async", "sync", "list", "returned", "set"])
async def test_what_can_be_made_again_is_taken(flow, how):
    """Functions, uncalled, and what can be iterated again; who ends well is not begun anew."""

    async def items():
        yield 1

    def rows():
        yield 1

    sources = {
        "async": items,
        "sync": rows,
        "list": [1],
        "returned": lambda: (item for item in [1]),
        "set": {1},
    }
    topic = Topic("jobs")
    feeder = topic.publish_from(sources[how])
    with trio.fail_after(60):
        await feeder._feeding.over.wait()
    assert (topic.statistics().published, topic.statistics().feeders) == (1, 0)


async def test_what_can_run_once_only_is_refused_unless_it_is_to_run_once(flow, autojump_clock):
    """A generator that was made can't begin anew, and the call says what to write."""

    async def items():
        yield 1
        raise OSError

    topic = Topic("jobs")
    generator = items()
    with pytest.raises(SourceError, match=r"function that makes it.*lambda: items.*retry=None"):
        topic.publish_from(generator)
    topic.publish_from(generator, retry=None)
    await trio.sleep(1000)
    statistics = topic.statistics()
    assert (statistics.published, statistics.feed_failures, statistics.feeders) == (1, 1, 0)


async def test_a_function_that_fails_later_is_one_more_failure(flow, autojump_clock):
    """The first call is the caller's; the others are tried again."""
    results = [Flaky(), OSError(), None, [7]]

    def make():
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    topic = Topic("jobs")
    topic.publish_from(make)
    await trio.sleep(60)
    assert data(topic) == [1, 7]
    assert topic.statistics().feed_failures == 3


@pytest.mark.parametrize(
    ("source", "options", "error", "match"),
    [
        ("text", {}, SourceError, "one item"),
        (Topic("other"), {}, SourceError, "subscribe in a generator function"),
        (lambda: None, {}, SourceError, "returned None"),
        (lambda a, b: None, {}, SourceError, "not a source"),
        ([1], {"retry": 5}, TypeError, r"Retry\(first="),
        ([1], {"cleanup_timeout": 0}, ValueError, "cleanup_timeout"),
        ([1], {"cleanup_timeout": float("inf")}, ValueError, "finite"),
    ],
)
async def test_wrong_arguments_are_refused_at_the_call(flow, source, options, error, match):
    """Before anything is started."""
    topic = Topic("jobs")
    with pytest.raises(error, match=match):
        topic.publish_from(source, **options)
    assert topic.statistics().feeders == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"first": 0}, ValueError),
        ({"first": "1"}, TypeError),
        ({"longest": float("inf")}, ValueError),
        ({"first": 5, "longest": 2}, ValueError),
    ],
)
def test_a_wrong_retry_is_refused(arguments, error):
    """With what is wrong, where it is written."""
    with pytest.raises(error, match=r"first|longest"):
        Retry(**arguments)


def test_outside_trio_it_says_where_to_call_it():
    """At import time, say."""
    with pytest.raises(RuntimeError, match="before_serving"):
        Topic("jobs").publish_from([1])


async def test_without_a_flowstream_it_says_what_is_missing():
    """Nobody would own the task."""
    with pytest.raises(RuntimeError, match=r"Flowstream\(app\)"):
        Topic("jobs").publish_from([1])


@pytest.mark.parametrize("when", [0.5, 2.5], ids=["while it runs", "while it waits"])
async def test_stop_ends_it_with_its_cleanup(flow, autojump_clock, when):
    """It is over when `stop` returns, and is not begun anew."""
    topic, source = Topic("jobs"), Flaky(1)
    feeder = topic.publish_from(source, retry=Retry(first=10))
    await trio.sleep(when)
    await feeder.stop()
    statistics = feeder.statistics()
    assert (statistics.over, statistics.running, topic.statistics().feeders) == (True, False, 0)
    assert (len(source.began), source.cleaned_up) == (1, 1)
    await feeder.stop()


async def test_one_that_is_stopped_before_it_begins_releases_its_source(flow, autojump_clock):
    """The generator is closed, and never runs."""
    ran = []

    async def items():
        ran.append(1)
        yield 1

    feeder = Topic("jobs").publish_from(items(), retry=None)
    await feeder.stop()
    assert not ran


@pytest.mark.parametrize("seconds", [1, 10])
async def test_one_that_never_began_releases_its_source_while_all_is_cancelled(
    autojump_clock, seconds
):
    """What the source has opened is closed, though the program is cancelled; within a bound."""
    closed = []

    class Rows:
        def __aiter__(self):
            return self

        async def __anext__(self):
            raise AssertionError("it is never begun")

        async def aclose(self):
            await trio.sleep(seconds)
            closed.append(trio.current_time())

    start = trio.current_time()
    with trio.CancelScope() as scope:
        async with Flowstream():
            Topic("jobs").publish_from(Rows(), retry=None, cleanup_timeout=3)
            scope.cancel()
    assert [at - start for at in closed] == [1.0][: seconds < 3]
    assert trio.current_time() - start == min(seconds, 3)


async def test_the_app_ends_it_within_the_bound(autojump_clock, caplog):
    """A source whose cleanup hangs is cancelled again after `cleanup_timeout`."""

    async def hangs(out):
        try:
            await trio.sleep_forever()
        finally:
            await trio.sleep_forever()

    start = trio.current_time()
    async with Flowstream():
        Topic("jobs").publish_from(hangs, cleanup_timeout=3)
        await wait_all_tasks_blocked()
    assert trio.current_time() - start == pytest.approx(3)
    assert "cleanup_timeout=3" in caplog.text


@pytest.mark.parametrize("waits", [True, False], ids=["it waits", "it sends"])
async def test_closing_the_topic_ends_it(flow, autojump_clock, caplog, waits):
    """Also one that waits for a message that never comes; nothing is logged as a failure."""

    async def items():
        while True:
            yield 1
            await trio.sleep(float("inf") if waits else 0)

    topic = Topic("jobs")
    feeder = topic.publish_from(items)
    await wait_all_tasks_blocked() if waits else await trio.lowlevel.checkpoint()
    await topic.aclose()
    with trio.fail_after(5):
        await feeder._feeding.over.wait()
    assert topic.statistics().feed_failures == 0
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
    with pytest.raises(trio.ClosedResourceError):
        topic.publish_from(items)


async def test_a_topic_that_is_forgotten_is_no_longer_fed(flow, autojump_clock):
    """Each topic of a registry may start what feeds it when it is made."""
    feeders = []

    def make(name):
        topic = Topic(name)
        feeders.append(topic.publish_from(trio_forever))
        return topic

    async def trio_forever(out):
        await trio.sleep_forever()

    topics = Topics(make, idle=10)
    assert "a" not in topics
    topics["a"]._touch()
    await trio.sleep(30)
    assert "a" not in topics
    assert feeders[0].statistics().over


async def test_a_quart_app_feeds_in_before_serving(autojump_clock):
    """The server outlives the failure, and clients get what comes after it."""
    app = QuartTrio(__name__)
    Flowstream(app)
    topic, source = Topic("jobs"), Flaky()

    @app.before_serving
    async def feed():
        topic.publish_from(source)

    @app.get("/")
    async def live():
        return sse(topic)

    async with open_lifespan(app), open_stream(app, "/") as client:
        got = [(await client.next_event()).data for _ in range(3)]
    assert got == [str(n) for n in range(int(got[0]), int(got[0]) + 3)]
    assert topic.statistics().feeders == 0


async def test_a_lifespan_of_starlette_feeds(autojump_clock):
    """What it starts ends with it."""
    source = Flaky(1000)
    async with lifespan(None):
        Topic("jobs").publish_from(source)
        await wait_all_tasks_blocked()
    assert source.cleaned_up == 1


async def test_a_feed_is_told_what_became_of_its_items(flow, autojump_clock):
    """`out.statistics()` counts what was sent, and what was bad."""
    found = []

    async def produce(out):
        await out.send("a")
        out.reject(ValueError("bad"))
        await out.send("b")
        found.append(out.statistics())

    Topic("t").publish_from(produce, retry=None)
    await wait_all_tasks_blocked()
    assert (found[0].offered, found[0].dropped) == (3, 1)
