"""What is counted between a process and its log: each thing once, for the topic and for the log."""

import pytest
import trio
from shared_log import ALL_CALLS, FINE, Weather, open_workers, reading

from flowstream import LogStatistics, Replay, Topic, log_statistics
from flowstream._event import Event
from flowstream.logs import LogUnavailableError, SQLiteLog
from flowstream.quart import Flowstream


def of(worker):
    """Return what a worker's topic counts; the whole log must count the same."""
    one = worker.publisher.log_statistics()
    whole = worker.engine.statistics()
    for name in ("appends", "duplicates", "fitting_hints", "other_hints", "reads", "unsure"):
        assert getattr(one, name) == getattr(whole, name), name
    return one


async def test_appends_and_hints(autojump_clock):
    """An event is one append here, and one hint that fits elsewhere."""
    async with open_workers(2) as (_, one, other):
        async with reading(other.topic):
            await trio.sleep(1)
            for number in range(5):
                await one.publish(number)
            for _ in range(2):
                await one.publisher.publish(Event("once"), "a key")
            await trio.sleep(1)
            here, there = of(one), of(other)
        assert (here.appends, here.appended, here.duplicates) == (7, 6, 1)
        assert (here.fitting_hints, here.followed, here.queued) == (0, 0, 0)
        assert (there.appends, there.fitting_hints, there.other_hints) == (0, 6, 0)
        assert there.followed == 1
        assert other.engine.statistics().followed == 1


async def test_lost_hints_and_seams(autojump_clock):
    """A lost hint is a read; what was trimmed and what was lost are two kinds of seams."""
    async with open_workers(2) as (broker, one, other), reading(other.topic):
        await trio.sleep(1)
        other.view.weather = Weather(lost=1)
        await one.publish(1)
        await trio.sleep(11)
        assert (of(other).fitting_hints, of(other).reads, of(other).trimmed_seams) == (0, 1, 0)
        for number in range(5):
            await one.publish(number)
        await broker.trim(one.name, 2)
        await trio.sleep(11)
        assert (of(other).trimmed_seams, of(other).lost_seams) == (1, 0)
        await broker.delete(one.name)
        await one.publish("new")
        await trio.sleep(11)
        assert (of(other).trimmed_seams, of(other).lost_seams) == (1, 1)
        other.view.weather = FINE
        await one.publish("newer")
        assert of(other).fitting_hints == 1


async def test_clients_that_come_back(autojump_clock):
    """Those whom the window can serve, those who read the log, and the pages that they share."""
    async with (
        open_workers(2, replay=Replay(items=5000)) as (_, one, other),
        reading(other.topic),
    ):
        await trio.sleep(1)
        ids = [await one.publish(number) for number in range(1500)]
        async with reading(other.topic, after=ids[-2]) as near:
            await trio.sleep(1)
            assert near.got == [1499]
        assert (of(other).window_hits, of(other).window_misses) == (1, 0)
        assert other.engine.statistics().pages_read == 0
        async with (
            reading(other.topic, after=ids[3]) as far,
            reading(other.topic, after=ids[3]),
        ):
            await trio.sleep(1)
            assert far.got[0] == 4
        assert (of(other).window_hits, of(other).window_misses) == (1, 2)
        assert other.engine.statistics().pages_read >= 1
        assert other.engine.statistics().pages_shared >= 1


async def test_a_log_that_is_away(autojump_clock):
    """Repeated appends, those that failed, and those of which nobody knows."""
    async with open_workers(1) as (_, one):
        one.view.weather = Weather(away=ALL_CALLS)
        with pytest.raises(LogUnavailableError):
            await one.publish(1)
        assert of(one).retries > 3
        assert (of(one).refused, of(one).unsure) == (1, 0)
        one.view.weather = Weather(unsure=1)
        with pytest.raises(LogUnavailableError):
            await one.publish(2)
        assert (of(one).refused, of(one).unsure) == (2, 1)
        assert of(one).appends == 0


async def test_messages_to_all_workers(autojump_clock):
    """Who sends one hears it, too."""
    async with open_workers(2) as (_, one, other):
        await one.publish(1)
        await one.topic.delete()
        await trio.sleep(1)
        sent = [worker.engine.statistics().control_sent for worker in (one, other)]
        heard = [worker.engine.statistics().control_heard for worker in (one, other)]
        assert (sent, heard) == ([1, 0], [1, 1])


async def test_where_an_app_finds_them(tmp_path):
    """A topic has its own; `log_statistics` has all; in memory there are none."""
    assert log_statistics() is None
    assert Topic("memory").statistics().log is None
    async with Flowstream(log=SQLiteLog(tmp_path / "events.db")):
        topic = Topic("news")
        await topic.publish(1)
        assert isinstance(topic.statistics().log, LogStatistics)
        assert topic.statistics().log.appended == 1
        await Topic("other").publish(2)
        assert log_statistics().appended == 2
    assert log_statistics() is None
