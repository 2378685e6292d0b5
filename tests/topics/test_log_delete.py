"""Deleting a topic: its events are forgotten, its subscribers end, and its next life is another."""

import pytest
import trio
from shared_log import ALL_CALLS, FINE, Weather, open_workers, reading
from trio.testing import wait_all_tasks_blocked

from flowstream import LatestByKey, Topic, Topics, sse
from flowstream.logs import LogUnavailableError
from flowstream.testing import collect, open_stream


async def test_in_memory_a_new_life_begins():
    """Subscribers end with `stopped`; who comes back gets a gap, and what follows."""
    topic = Topic("news")
    old = [await topic.publish(number) for number in range(3)]
    epoch = topic.epoch
    async with open_stream(sse(topic)) as client:
        await wait_all_tasks_blocked()
        await topic.delete()
        new = await topic.publish("new")
        end = await client.next_event()
        assert (end.type, end.data) == ("end", '{"reason":"stopped"}')
    assert topic.epoch > epoch
    assert new > old[-1]
    for id in old:
        got = []
        async with topic.subscribe(after=id) as events:
            await topic.publish("newer")
            async for event in events:
                got.append((event.type, event.data))
                if len(got) == 2:
                    break
        assert got[0][0] == "gap"
        assert got[0][1]["missed"] is None
        assert got[1] == (None, "newer")
    assert topic.statistics().replay_items == 4


async def test_in_memory_the_snapshot_is_empty():
    """What was kept by key is forgotten, too."""
    topic = Topic("news", snapshot=LatestByKey())
    await topic.publish(1, key="a")
    async with topic.subscribe() as events:
        assert (await anext(events)).data == [{"key": "a", "data": 1}]
    await topic.delete()
    async with topic.subscribe() as events:
        assert (await anext(events)).data == []


async def test_topics_delete_a_name_that_is_not_there():
    """It makes no topic."""
    topics = Topics()
    await topics.delete("news")
    assert len(topics) == 0
    await topics.publish("news", 1)
    epoch = topics["news"].epoch
    await topics.delete("news")
    assert topics["news"].epoch > epoch
    with pytest.raises(TypeError, match="must be a str"):
        await topics.delete(7)


@pytest.mark.parametrize("weather", [FINE, Weather(lost=1), Weather(late=3), Weather(latency=2)])
async def test_all_workers_end_their_subscribers(weather, autojump_clock):
    """Those of the old life end with `stopped`, and get nothing of the new one after a second."""
    async with open_workers(3) as (_, one, *others):
        await one.publish("old")
        for worker in others:
            worker.view.weather = weather
        async with trio.open_nursery() as nursery:
            reports = []

            async def read(worker):
                reports.append(await collect(sse(worker.topic), timeout=200))

            for worker in (one, *others):
                nursery.start_soon(read, worker)
            await trio.sleep(10)
            assert [worker.topic.subscribers for worker in (one, *others)] == [1, 1, 1]
            await one.topic.delete()
            await trio.sleep(30)
            assert [worker.topic.subscribers for worker in (one, *others)] == [0, 0, 0]
        for report in reports:
            assert report.body.count(b'data: {"reason":"stopped"}') == 1


async def test_who_comes_in_the_new_life_stays(autojump_clock):
    """A control message that comes late ends those of the old life alone."""
    async with open_workers(2) as (_, one, other):
        await one.publish("old")
        async with reading(other.topic) as old:
            await trio.sleep(1)
            # Other's tail of control messages hears nothing until the next sweep.
            hear = other.view._hear
            other.view._hear = lambda topic, *rest: topic == "control:" or hear(topic, *rest)
            await one.topic.delete()
            new = await one.publish("new")
            await trio.sleep(0.5)
            assert other.topic.subscribers == 1
            async with reading(other.topic) as young, reading(other.topic, after=new) as back:
                await trio.sleep(15)
                assert other.topic.subscribers == 2
                await one.publish("newer")
                await trio.sleep(1)
                assert young.got == back.got == ["newer"]
            assert "newer" not in old.got


async def test_the_past_is_gone_on_all_workers(autojump_clock):
    """A client with an id of the old life gets a gap and what follows, from any worker."""
    async with open_workers(2, snapshot=None) as (_, one, other):
        ids = [await one.publish(number) for number in range(20)]
        # Pages of the old life lie in the other worker's cache.
        async with other.topic.subscribe(after=ids[3]) as events:
            assert [(await anext(events)).data for _ in range(3)] == [4, 5, 6]
        await one.topic.delete()
        await one.publish("new")
        for worker in (one, other):
            for id in (ids[3], ids[-1]):
                async with worker.topic.subscribe(after=id) as events:
                    first = await anext(events)
                    assert (first.type, first.data["missed"]) == ("gap", None)
                    await one.publish("newer")
                    assert (await anext(events)).data == "newer"


async def test_a_topic_that_was_empty(autojump_clock):
    """Its subscribers end, too, though it has no new epoch."""
    async with open_workers(2) as (_, one, other), reading(one.topic), reading(other.topic):
        await trio.sleep(1)
        await one.topic.delete()
        await trio.sleep(1)
        assert (one.topic.subscribers, other.topic.subscribers) == (0, 0)


async def test_it_is_deleted_twice(autojump_clock):
    """Each time all who are there end."""
    async with open_workers(2) as (_, one, other):
        await one.publish(1)
        for worker in (one, other):
            async with reading(one.topic), reading(other.topic):
                await trio.sleep(1)
                await worker.topic.delete()
                await trio.sleep(1)
                assert (one.topic.subscribers, other.topic.subscribers) == (0, 0)


async def test_a_log_that_is_away(autojump_clock):
    """It waits for the log as publishers do, then fails; and succeeds when it is called again."""
    async with open_workers(2) as (_, one, other):
        await one.publish(1)
        one.view.weather = Weather(away=ALL_CALLS)
        start = trio.current_time()
        with pytest.raises(LogUnavailableError):
            await one.topic.delete()
        assert 1 < trio.current_time() - start <= 5
        one.view.weather = Weather(away=frozenset({"delete"}))
        async with reading(other.topic):
            await trio.sleep(1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.topic.delete)
                await trio.sleep(2)
                one.view.weather = FINE
            await trio.sleep(1)
            assert other.topic.subscribers == 0


async def test_publishes_that_race_are_in_the_new_life(autojump_clock):
    """What is published while it is deleted is either forgotten or new; ids only grow."""
    async with open_workers(2, seed=3) as (broker, one, other):
        one.view.weather = other.view.weather = Weather(latency=0.05)
        ids = []

        async def publish():
            for number in range(200):
                ids.append(await other.publish(number))  # noqa: PERF401

        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish)
            for _ in range(5):
                await trio.sleep(1)
                await one.topic.delete()
        assert ids == sorted(ids)
        assert len({id.partition(".")[0] for id in ids}) == 6
        head, known, records = await broker.memory.read(one.name, (ids[-1].split(".")[0], 0), 500)
        assert broker.number(one.name) == 200
        assert not known or len(records) < 200
        assert head.epochs == ((ids[-1].split(".")[0], head.epochs[0][1]),)
