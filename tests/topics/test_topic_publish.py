"""Publishing: when it is done, what it waits for, and what it never does."""

import logging
import threading
from contextlib import AsyncExitStack

import pytest
import trio
import trio.testing

from flowstream import (
    Block,
    CatchUp,
    CloseReason,
    Conflate,
    DropOldest,
    EncodingError,
    Event,
    LatestByKey,
    Replay,
    Topic,
    raw,
    sse,
)
from flowstream._clock import clock
from flowstream.ids._event_id import event_id
from flowstream.testing import open_stream
from flowstream.topics._subscription import SlowConsumerError


async def drain(events):
    async for _ in events:
        await trio.sleep(1)


@pytest.mark.on_each_log
async def test_it_is_published_at_once_and_delivered_in_order(autojump_clock):
    """Three publishers: everybody gets everything once, in the order of the ids."""
    topic = Topic("t")
    async with topic.subscribe() as events, trio.open_nursery() as nursery:

        async def publish(who):
            for n in range(20):
                await topic.publish(f"{who}{n}")
                await trio.lowlevel.checkpoint()

        for who in "abc":
            nursery.start_soon(publish, who)
        got = [await events.__anext__() for _ in range(60)]
    assert [event.id for event in got] == [event_id(topic.epoch, n) for n in range(1, 61)]
    for who in "abc":
        assert [e.data for e in got if e.data[0] == who] == [f"{who}{n}" for n in range(20)]


async def test_nowait_would_block_with_nothing_committed(autojump_clock):
    """A subscriber with Block has no room: nothing is published, and no id used up."""
    topic = Topic("t")
    async with topic.subscribe(policy=Block(timeout=5), buffer=2) as events:
        topic.publish_nowait("a")
        topic.publish_nowait("b")
        with pytest.raises(trio.WouldBlock):
            topic.publish_nowait("c")
        assert topic.statistics().published == 2
        assert (await events.__anext__()).data == "a"
        assert (await events.__anext__()).data == "b"
        assert topic.publish_nowait("d") == f"{topic.epoch}.a3"
        assert (await events.__anext__()).data == "d"


async def test_block_is_waited_for(autojump_clock):
    """The publisher goes on when the subscriber has taken something, and not before."""
    topic = Topic("t")
    async with topic.subscribe(policy=Block(timeout=5), buffer=1) as events:
        async with trio.open_nursery() as nursery:
            await topic.publish("a")
            started = trio.current_time()

            @nursery.start_soon
            async def publish():
                await topic.publish("b")
                assert trio.current_time() == started + 3

            await trio.sleep(3)
            assert (await events.__anext__()).data == "a"
        assert (await events.__anext__()).data == "b"


async def test_block_is_given_up_after_its_time(autojump_clock):
    """It is disconnected, the publisher goes on, and others are not held beyond that."""
    topic = Topic("t")
    async with (
        topic.subscribe(policy=Block(timeout=5), buffer=1) as slow,
        topic.subscribe() as other,
    ):
        await topic.publish("a")
        started = trio.current_time()
        await topic.publish("b")
        assert trio.current_time() == started + 5
        assert topic.statistics().subscribers == 1
        with pytest.raises(SlowConsumerError):
            await slow.__anext__()
        assert [(await other.__anext__()).data for _ in range(2)] == ["a", "b"]


async def test_a_cancelled_publisher_has_published(autojump_clock):
    """Who was not reached yet gets the event all the same, and so do those behind it."""
    topic = Topic("t")
    async with (
        topic.subscribe(policy=Block(timeout=5), buffer=1) as slow,
        topic.subscribe() as other,
    ):
        await topic.publish("a")
        with trio.move_on_after(1):
            await topic.publish("b")
        assert (await slow.__anext__()).data == "a"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(topic.publish, "c")
            assert (await slow.__anext__()).data == "b"
            assert (await slow.__anext__()).data == "c"
        assert [(await other.__anext__()).data for _ in range(3)] == ["a", "b", "c"]


async def test_nowait_while_somebody_is_waited_for(autojump_clock):
    """It goes behind what is being delivered: the order stands for everybody."""
    topic = Topic("t")
    async with (
        topic.subscribe(policy=Block(timeout=5), buffer=1) as slow,
        topic.subscribe() as other,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(topic.publish, "a")
        nursery.start_soon(topic.publish, "b")
        await trio.sleep(1)
        got = [(await slow.__anext__()).data]
        topic.publish_nowait("c")
        got += [(await slow.__anext__()).data for _ in range(2)]
        assert sorted(got) == ["a", "b", "c"]
        assert got[2] == "c"
        assert [(await other.__anext__()).data for _ in range(3)] == got


async def test_a_filter_that_fails_ends_that_subscriber_alone(autojump_clock):
    """At once, or while it is waited for: no publisher hears of it, nor anybody else."""

    def where(event):
        if event.data == "bad":
            raise ZeroDivisionError("mine")
        return True

    topic = Topic("t")
    async with (
        topic.subscribe(where=where) as first,
        topic.subscribe(where=where, policy=Block(timeout=60), buffer=1) as second,
        topic.subscribe() as other,
        trio.open_nursery() as nursery,
    ):

        @nursery.start_soon
        async def publish():
            topic.publish_nowait("good")
            await topic.publish("better")
            await topic.publish("bad")

        await trio.sleep(1)
        assert (await second.__anext__()).data == "good"
        for events in (first, second):
            with pytest.raises(ZeroDivisionError):
                await drain(events)
        assert [(await other.__anext__()).data for _ in range(3)] == ["good", "better", "bad"]
        assert topic.statistics().subscribers == 1


@pytest.mark.on_each_log
async def test_a_batch_with_a_bad_event_fails_where_it_is_bad(autojump_clock):
    """While one is waited for a batch grows: the failing filter is met in the waiting, too."""

    def where(event):
        if event.data == "bad":
            raise ZeroDivisionError("mine")
        return True

    topic = Topic("t")
    block = Block(timeout=60)
    async with (
        topic.subscribe(policy=block, buffer=1) as slow,
        topic.subscribe(where=where, policy=block, buffer=1) as picky,
        trio.open_nursery() as nursery,
    ):
        # The slow one has no room for the second: what is published then is one batch.
        for text in ("1", "2", "a", "b", "bad"):
            nursery.start_soon(topic.publish, text)
            await trio.testing.wait_all_tasks_blocked()
            if text in "12":
                assert (await picky.__anext__()).data == text
        nursery.start_soon(drain, slow)
        assert (await picky.__anext__()).data == "a"
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(ZeroDivisionError):
            await drain(picky)
        assert topic.statistics().subscribers == 1
        nursery.cancel_scope.cancel()


async def test_a_filter_publishes_more_than_somebody_has_room_for(autojump_clock):
    """The rest is delivered by a task that can wait, as soon as there is room."""
    topic = Topic("t")

    def where(event):
        if event.data == "a":
            topic.publish_nowait("b")
        return True

    async with (
        topic.subscribe(where=where) as first,
        topic.subscribe(policy=Block(timeout=5), buffer=1) as second,
    ):
        topic.publish_nowait("a")
        with trio.fail_after(1):
            for events in (first, second):
                assert [(await events.__anext__()).data for _ in range(2)] == ["a", "b"]


async def test_a_filter_that_publishes(autojump_clock):
    """What it publishes comes behind what is being delivered, once, for everybody."""
    topic = Topic("t")

    def where(event):
        if event.data == "a":
            topic.publish_nowait("echo")
        return True

    async with topic.subscribe(where=where) as first, topic.subscribe() as second:
        topic.publish_nowait("a")
        await topic.publish("a")
        for events in (first, second):
            got = [(await events.__anext__()).data for _ in range(4)]
            assert got == ["a", "echo", "a", "echo"]
    assert topic.statistics().published == 4


async def test_a_format_that_cannot_carry_it_fails_alone(autojump_clock, caplog):
    """Its clients get what came before, and are told; those of other formats get all."""
    caplog.set_level(logging.CRITICAL)
    topic = Topic("t")
    async with (
        open_stream(raw(topic)) as first,  # whichever format comes first decides nothing
        open_stream(sse(topic)) as page,
        open_stream(raw(topic)) as pipe,
        open_stream(raw(topic, where=lambda event: event.data != {"no": "bytes"})) as picky,
    ):
        await trio.testing.wait_all_tasks_blocked()
        for data in ("one", {"no": "bytes"}, "two"):
            topic.publish_nowait(data)
        assert [(await page.next_event()).data for _ in range(3)] == [
            "one",
            '{"no":"bytes"}',
            "two",
        ]
        assert await pipe.read_all() == b"one"
        assert not pipe.complete
        assert await first.read_all() == b"one"
        assert await picky.read(6) == b"onetwo"


async def test_what_nobody_can_encode_is_not_published():
    """EncodingError, and nothing is committed."""
    topic = Topic("t")
    for publish in (topic.publish, topic.publish_nowait):
        with pytest.raises(EncodingError, match="type object"):
            await publish(object())
    with pytest.raises(TypeError, match="unhashable"):
        await topic.publish("x", key=[])
    with pytest.raises(TypeError):
        await topic.publish("x", id=5)
    assert topic.statistics().published == 0


@pytest.mark.on_each_log
async def test_publishing_from_a_thread(autojump_clock):
    """From Trio's threads, and from any other once the loop is known."""
    topic = Topic("t")
    failures = []
    with pytest.raises(RuntimeError):
        topic.publish_from_thread("on the loop itself")

    def stranger():
        try:
            topic.publish_from_thread("c")
        except Exception as error:  # noqa: BLE001  # looked at below
            failures.append(error)

    def unknown():
        try:
            Topic("fresh").publish_from_thread("x")
        except Exception as error:  # noqa: BLE001  # looked at below
            failures.append(error)

    async with topic.subscribe() as events:
        assert await trio.to_thread.run_sync(topic.publish_from_thread, "a")
        thread = threading.Thread(target=stranger)
        thread.start()
        await trio.to_thread.run_sync(thread.join)
        assert [(await events.__anext__()).data for _ in range(2)] == ["a", "c"]
    assert not failures
    thread = threading.Thread(target=unknown)
    thread.start()
    await trio.to_thread.run_sync(thread.join)
    (failure,) = failures
    assert isinstance(failure, RuntimeError)


async def test_a_closed_topic_takes_nothing(autojump_clock):
    """ClosedResourceError for every way in; who comes late gets the past and the end."""
    topic = Topic("t")
    first = await topic.publish("a")
    await topic.publish("b")
    await topic.aclose()
    await topic.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await topic.publish("c")
    with pytest.raises(trio.ClosedResourceError):
        topic.publish_nowait("c")
    async with topic.subscribe(after=first) as events:
        assert [event.data async for event in events] == ["b"]
    async with topic.subscribe() as events:
        assert [event.data async for event in events] == []


async def test_closing_while_somebody_is_waited_for_is_cancelled(autojump_clock):
    """Nobody is left behind: each still gets all that was published, and its end."""
    topic = Topic("t")
    async with (
        topic.subscribe(policy=Block(timeout=50), buffer=1) as slow,
        topic.subscribe() as other,
        trio.open_nursery() as nursery,
    ):
        for text in ("a", "b", "c"):
            nursery.start_soon(topic.publish, text)
        await trio.sleep(1)
        with trio.move_on_after(1) as scope:
            await topic.aclose()
        assert scope.cancelled_caught
        assert sorted([event.data async for event in slow]) == ["a", "b", "c"]
        assert sorted([event.data async for event in other]) == ["a", "b", "c"]


def test_the_end_of_the_run_meets_a_publisher():
    """A system task that publishes while the run ends breaks nothing."""
    topic = Topic("t")

    async def main():
        async def at_the_end():
            try:
                await trio.sleep_forever()
            finally:
                topic.publish_nowait("too late")

        trio.lowlevel.spawn_system_task(at_the_end)
        async with topic.subscribe(policy=Block(timeout=5), buffer=1):
            await trio.lowlevel.checkpoint()
            for text in "ab":
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await topic.publish(text)
            topic._publisher.fanout.count = 1000  # as if many were there: they are left to a task

    trio.run(main)
    assert topic._publisher.history.head == 3


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"after": 5}, TypeError),
        ({"where": "thirds"}, TypeError),
        ({"policy": "drop"}, TypeError),
        ({"policy": Block()}, ValueError),
        ({"buffer": 0}, ValueError),
        ({"buffer": "big"}, TypeError),
    ],
)
async def test_arguments_of_a_subscription(options, error):
    """What is wrong is found where it is written, and nobody is subscribed."""
    topic = Topic("t")
    with pytest.raises(error):
        async with topic.subscribe(**options):
            pass
    assert topic.statistics().subscribers == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: Topic(5),
        lambda: Topic("t", replay=100),
        lambda: Topic("t", snapshot=5),
        lambda: Topic("t", presence="t"),
        lambda: Replay(items=True),
        lambda: Replay(seconds="1"),
        lambda: Replay(bytes=1.5),
    ],
)
def test_arguments_of_a_topic(make):
    """A TypeError, where the topic is made."""
    with pytest.raises(TypeError):
        make()


async def test_closing_with_a_reason(autojump_clock):
    """Streams end at once, with that reason, and leave the topic."""
    topic = Topic("t")
    reports = []
    async with open_stream(sse(topic, on_close=reports.append)) as client:
        await trio.testing.wait_all_tasks_blocked()
        await topic.aclose(CloseReason.STOPPED)
        event = await client.next_event()
        assert (event.type, event.data) == ("end", '{"reason":"stopped"}')
        await client.wait_finished()
    assert reports[0].reason == "stopped"
    assert topic.statistics().subscribers == 0


async def test_an_event_may_be_essential(autojump_clock):
    """No policy drops it; a buffer full of such ends its subscriber, and nobody else's."""
    topic = Topic("t")
    async with topic.subscribe(buffer=2) as small, topic.subscribe() as large:
        for n in range(3):
            await topic.publish(n, essential=True)
        with pytest.raises(SlowConsumerError):
            await small.__anext__()
        assert [(await large.__anext__()).data for _ in range(3)] == [0, 1, 2]
        assert Event(0).essential is False


async def test_what_a_cancelled_publisher_left_is_delivered_without_it(autojump_clock):
    """As soon as there is room, though nobody publishes any more."""
    topic = Topic("t")
    async with topic.subscribe(policy=Block(timeout=50), buffer=1) as slow:
        await topic.publish("a")
        with trio.move_on_after(1) as scope:
            await topic.publish("b")
        assert scope.cancelled_caught
        with trio.fail_after(10):
            assert [(await slow.__anext__()).data for _ in range(2)] == ["a", "b"]


async def test_a_delivery_to_many_lets_others_run(monkeypatch):
    """After every 256 subscribers, if the clock does not say so before."""
    monkeypatch.setattr(clock, "perf_counter", lambda: 0.0)

    class Passes(trio.abc.Instrument):
        count = 0

        def before_io_wait(self, timeout):
            self.count += 1

    passes = Passes()
    trio.lowlevel.add_instrument(passes)
    took = []
    for count in (1, 1024):
        topic = Topic("t")
        async with AsyncExitStack() as stack:
            for _ in range(count):
                await stack.enter_async_context(topic.subscribe())
            before = passes.count
            await topic.publish("x")
            took.append(passes.count - before)
    trio.lowlevel.remove_instrument(passes)
    assert took[1] - took[0] == 4


@pytest.mark.on_each_log
async def test_a_program_that_is_behind_gets_the_newest_of_a_key_without_an_id():
    """Its id would claim what is still queued."""
    topic = Topic("t")
    async with topic.subscribe(policy=Conflate()) as events:
        await topic.publish(0, key="a")
        assert (await events.__anext__()).id == f"{topic.epoch}.a1"
        for key, data in (("a", 1), ("b", 2), ("a", 3)):
            await topic.publish(data, key=key)
        got = [await events.__anext__() for _ in range(3)]
    assert [event.type for event in got] == ["gap", None, None]
    assert [(event.data, event.id) for event in got[1:]] == [(3, None), (2, None)]


@pytest.mark.on_each_log
async def test_what_a_gap_is_after_that_follows_the_past(autojump_clock):
    """The past that was read from the history counts as delivered."""
    topic = Topic("t")
    ids = [await topic.publish(n) for n in range(3)]
    async with topic.subscribe(after=ids[0], policy=DropOldest(), buffer=1) as events:
        assert [(await events.__anext__()).data for _ in range(2)] == [1, 2]
        for n in range(3, 6):
            await topic.publish(n)
        gap = await events.__anext__()
    assert gap.type == "gap"
    assert (gap.data["missed"], gap.data["after"]) == (2, ids[2])


@pytest.mark.on_each_log
async def test_a_reader_may_be_lost_again_and_again(autojump_clock):
    """Each time it goes on with a snapshot, as long as the replay follows on that."""
    topic = Topic("t", replay=Replay(items=1), snapshot=LatestByKey())
    async with topic.subscribe(policy=CatchUp(), buffer=1) as events:
        for _ in range(8):
            for n in range(5):
                await topic.publish(n, key="k")
            with trio.fail_after(1):
                while (await events.__anext__()).type != "snapshot":
                    pass


@pytest.mark.on_each_log
async def test_an_event_is_not_data():
    """Who publishes an `Event` reads how its parts are given, and nothing is published."""
    topic = Topic("t")
    for publish in (topic.publish, wrapped(topic.publish_soon)):
        with pytest.raises(TypeError, match=r"publish\(event\.data, type=event\.type"):
            await publish(Event({"price": 1}, key="a"))
    with pytest.raises(TypeError, match=r"publish\(event\.data, type=event\.type"):
        await topic.publish_many(["one", Event(Event("two"))])
    assert topic.statistics().published == 0


async def test_an_event_is_not_data_for_publish_nowait():
    """It says the same."""
    topic = Topic("t")
    with pytest.raises(TypeError, match=r"publish\(event\.data, type=event\.type"):
        topic.publish_nowait(Event({"price": 1}, key="a"))
    assert topic.statistics().published == 0


def wrapped(function):
    async def call(*args):
        return function(*args)

    return call
