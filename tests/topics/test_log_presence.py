"""Presence over workers: clients are told the sum, once a second at most, whatever happens."""

from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import trio
from shared_log import ALL_CALLS, FINE, Weather, Worker, open_workers, reading

from flowstream import LatestByKey, Replay, Topic
from flowstream.abc import LogEntry
from flowstream.logs import SQLiteLog
from flowstream.quart import Flowstream
from flowstream.topics._presence import PRESENCE_TOPIC


def topic_of(worker, name, **options):
    """Return a topic of a worker's log."""
    topic = Topic(name, **options)
    publisher = worker.engine.publisher(
        "topic", name, options.get("replay", Replay()), topic._count_changed
    )
    topic._publisher = topic._feeders._publisher = publisher
    topic._prepare_snapshots(publisher)
    topic._is_bound = True
    return topic


class Room:
    """One worker's topic, its presence topic, and its clients."""

    def __init__(self, worker, name="room", **options):
        self.worker = worker
        self.who = topic_of(worker, "who", **options)
        self.topic = topic_of(worker, name, presence=self.who)
        self._scopes = []

    @asynccontextmanager
    async def clients(self, count):
        """Have so many clients while the context is open."""
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(self._client)
            await trio.sleep(0.01)
            yield
            nursery.cancel_scope.cancel()

    async def _client(self):
        async with self.topic.subscribe() as events:
            async for _ in events:
                pass


class Hearer:
    """What clients of the presence topic are told: (second, type, subscribers)."""

    def __init__(self, room):
        self.told = []
        self._room = room

    async def run(self, task_status=trio.TASK_STATUS_IGNORED):
        async with self._room.who.subscribe() as events:
            await trio.sleep(0.1)
            start = trio.current_time()
            task_status.started()
            async for event in events:
                assert event.key == event.data["topic"] == "room"
                self.told.append(
                    (trio.current_time() - start, event.type, event.data["subscribers"])
                )

    @property
    def counts(self):
        """The sums alone."""
        return [count for _, _, count in self.told]


@asynccontextmanager
async def hearing(room):
    """Hear what clients are told while the context is open."""
    hearer = Hearer(room)
    async with trio.open_nursery() as nursery:
        await nursery.start(hearer.run)
        yield hearer
        nursery.cancel_scope.cancel()


class Process:
    """A worker that can be killed, or closed, while others go on."""

    def __init__(self, nursery, broker):
        self.worker = Worker(broker.view())
        self._nursery = nursery
        self._scope = trio.CancelScope()

    async def start(self):
        async def run(task_status):
            with self._scope:
                await self.worker.engine.run(task_status=task_status)

        await self._nursery.start(run)
        return self

    def kill(self):
        """Have nothing it does get anywhere from now on."""
        self.worker.view.weather = Weather(away=ALL_CALLS, lost=1)

    def close(self):
        """Let it end as a worker does that is told to."""
        self._scope.cancel()


async def test_the_sum_of_all_workers_is_told(autojump_clock):
    """Each change is told, in the end with the right sum, and the same to all workers."""
    async with open_workers(3) as (_, *workers):
        rooms = [Room(worker) for worker in workers]
        async with hearing(rooms[0]) as one, hearing(rooms[2]) as other:
            async with rooms[0].clients(2), rooms[1].clients(3):
                await trio.sleep(3)
                assert one.counts[-1] == 5
                assert [room.topic.total_subscribers for room in rooms] == [5, 5, 5]
                assert [room.topic.subscribers for room in rooms] == [2, 3, 0]
                async with rooms[2].clients(1):
                    await trio.sleep(3)
                    assert one.counts[-1] == 6
            await trio.sleep(3)
            assert [room.topic.total_subscribers for room in rooms] == [0, 0, 0]
            assert one.counts[-1] == 0
        assert one.counts == other.counts
        changes = list(pairwise([0, *one.counts]))
        assert all(a != b for a, b in changes)
        kinds = ["join" if b > a else "leave" for a, b in changes]
        assert [kind for _, kind, _ in one.told] == kinds


async def test_the_first_one_is_told_at_once(autojump_clock):
    """Nobody waits for a round."""
    async with open_workers(1) as (_, worker):
        room = Room(worker)
        async with hearing(room) as hearer, room.clients(1):
            await trio.sleep(0.5)
            assert hearer.counts == [1]
            assert hearer.told[0][0] < 0.1


async def test_at_most_once_a_second(autojump_clock):
    """However many come and go; what was undone within a second is not told at all."""
    async with open_workers(2) as (_, *workers):
        rooms = [Room(worker) for worker in workers]
        async with hearing(rooms[1]) as hearer:
            for number in range(100):
                async with rooms[number % 2].clients(3):
                    await trio.sleep(0.1)
            await trio.sleep(3)
            times = [time for time, _, _ in hearer.told]
            assert all(b - a >= 0.99 for a, b in pairwise(times))
            assert 2 <= len(times) <= 14
            assert hearer.counts[-1] == 0


async def test_many_who_come_at_once_cost_few_appends(autojump_clock):
    """A worker says what has changed at most each 0.2 s."""
    async with open_workers(1) as (_, worker):
        room = Room(worker)
        before = worker.view.calls.count("append")
        for _ in range(300):
            async with room.clients(1):
                pass
        assert worker.view.calls.count("append") - before < 3.01 * (5 + 2)


async def test_while_nobody_is_there_nothing_is_written(autojump_clock):
    """Neither before the first one comes, nor after the last one has left."""
    async with open_workers(3) as (_, *workers):
        rooms = [Room(worker) for worker in workers]
        await trio.sleep(100)
        assert not any("append" in worker.view.calls for worker in workers)
        async with rooms[1].clients(1):
            await trio.sleep(100)
        await trio.sleep(30)
        before = [worker.view.calls.count("append") for worker in workers]
        await trio.sleep(1000)
        assert before == [worker.view.calls.count("append") for worker in workers]


@pytest.mark.parametrize("victim", [0, 1])
async def test_a_killed_workers_share_expires(victim, autojump_clock):
    """After 15 s, also if it was the one that tells; the others' clients stay counted."""
    async with open_workers(0) as (broker,), trio.open_nursery() as nursery:
        processes = [await Process(nursery, broker).start() for _ in range(3)]
        rooms = [Room(process.worker) for process in processes]
        async with (
            hearing(rooms[2]) as hearer,
            rooms[0].clients(2),
            rooms[1].clients(3),
            rooms[2].clients(4),
        ):
            await trio.sleep(10)
            assert hearer.counts[-1] == 9
            processes[victim].kill()
            await trio.sleep(9.5)
            assert hearer.counts[-1] == 9
            await trio.sleep(9.5)
            assert hearer.counts[-1] == 9 - (2, 3)[victim]
            assert min(hearer.counts[hearer.counts.index(9) :]) >= 6
        nursery.cancel_scope.cancel()


async def test_a_worker_is_killed_while_it_tells(autojump_clock):
    """Wherever that is, in the end clients have the right sum."""
    for appends in range(8):
        async with open_workers(0) as (broker,), trio.open_nursery() as nursery:
            processes = [await Process(nursery, broker).start() for _ in range(2)]
            rooms = [Room(process.worker) for process in processes]
            async with hearing(rooms[1]) as hearer, rooms[0].clients(2):
                await trio.sleep(5)
                assert hearer.counts == [2]
                async with rooms[1].clients(2):
                    view, call = processes[0].worker.view, processes[0].worker.view._call
                    left = appends

                    async def dying(name, do, process=processes[0], call=call):
                        nonlocal left
                        if name == "append":
                            left -= 1
                            if left < 0:
                                process.kill()
                        return await call(name, do)

                    view._call = dying
                    await trio.sleep(60)
                    assert hearer.counts[-1] == 2, (appends, hearer.told)
                    assert rooms[1].topic.total_subscribers == 2
                await trio.sleep(60)
                assert hearer.counts[-1] == 0, (appends, hearer.told)
            nursery.cancel_scope.cancel()


async def test_the_only_worker_is_killed_while_it_tells(autojump_clock):
    """The next one, which starts long after, tells that nobody is there."""
    for appends in range(6):
        async with open_workers(0) as (broker,), trio.open_nursery() as nursery:
            first = await Process(nursery, broker).start()
            room = Room(first.worker)
            call, left = first.worker.view._call, appends

            async def dying(name, do, call=call, process=first):
                nonlocal left
                if name == "append":
                    left -= 1
                    if left < 0:
                        process.kill()
                return await call(name, do)

            first.worker.view._call = dying
            async with room.clients(3):
                await trio.sleep(0.3)
            await trio.sleep(2)
            first.kill()
            await trio.sleep(100)
            second = await Process(nursery, broker).start()
            await trio.sleep(60)
            found = broker.memory._topics.get("topic:who")
            if found is not None:
                assert b'"subscribers":0' in found._events[-1][1].data, appends
            assert second.worker.engine.presence._counts.pending == {}
            nursery.cancel_scope.cancel()


async def test_a_worker_that_ends_says_so(autojump_clock):
    """Its share is gone at once."""
    async with open_workers(0) as (broker,), trio.open_nursery() as nursery:
        processes = [await Process(nursery, broker).start() for _ in range(2)]
        rooms = [Room(process.worker) for process in processes]
        async with hearing(rooms[1]) as hearer, rooms[0].clients(2), rooms[1].clients(1):
            await trio.sleep(5)
            processes[0].close()
            await trio.sleep(2.5)
            assert hearer.counts[-1] == 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("pause", [1, 100])
@pytest.mark.parametrize("end", ["kill", "close"])
async def test_who_starts_after_all_others_tells_that_nobody_is_there(end, pause, autojump_clock):
    """What was told last is in the log, so it is put right."""
    async with open_workers(0) as (broker,), trio.open_nursery() as nursery:
        first = await Process(nursery, broker).start()
        room = Room(first.worker, snapshot=LatestByKey())
        async with room.clients(3):
            await trio.sleep(2)
            getattr(first, end)()
            await trio.sleep(pause)
        second = await Process(nursery, broker).start()
        await trio.sleep(20)
        late = topic_of(second.worker, "who", snapshot=LatestByKey())
        async with late.subscribe() as events:
            (latest,) = (await anext(events)).data
        assert latest == {"key": "room", "data": {"topic": "room", "subscribers": 0}}
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("weather", [Weather(lost=1), Weather(late=2, doubled=0.5, latency=0.3)])
async def test_bad_weather(weather, autojump_clock):
    """In the end the sums are right, and nothing is told that never was."""
    async with open_workers(3, seed=7) as (_, *workers):
        rooms = [Room(worker) for worker in workers]
        for worker in workers:
            worker.view.weather = weather
        async with hearing(rooms[1]) as hearer:
            for size in (3, 1, 2):
                async with rooms[0].clients(size), rooms[2].clients(size):
                    await trio.sleep(40)
                    assert [room.topic.total_subscribers for room in rooms] == [2 * size] * 3
                    assert hearer.counts[-1] == 2 * size
                await trio.sleep(40)
                assert hearer.counts[-1] == 0
            assert max(hearer.counts) <= 6


async def test_a_frozen_worker_takes_nobody_for_dead(autojump_clock):
    """When it goes on it tells nobody's leave before it has heard the others."""
    async with open_workers(3) as (_, *workers):
        rooms = [Room(worker) for worker in workers]
        async with (
            hearing(rooms[2]) as hearer,
            rooms[0].clients(1),
            rooms[1].clients(2),
            rooms[2].clients(4),
        ):
            await trio.sleep(10)
            workers[0].view.weather = Weather(frozen=True)
            await trio.sleep(60)
            assert hearer.counts[-1] == 6
            told = len(hearer.counts)
            workers[0].view.weather = FINE
            await trio.sleep(30)
            assert set(hearer.counts[told:]) == {7}


async def test_a_log_that_is_away(autojump_clock, caplog):
    """Clients come and go all the same; the counts are told when it is there again."""
    async with open_workers(2) as (_, *workers):
        rooms = [Room(worker) for worker in workers]
        async with hearing(rooms[1]) as hearer, rooms[0].clients(1), rooms[1].clients(1):
            await trio.sleep(10)
            for worker in workers:
                worker.view.weather = Weather(away=ALL_CALLS)
            async with rooms[0].clients(5):
                await trio.sleep(60)
                assert rooms[1].topic.total_subscribers == 2
                assert rooms[0].topic.subscribers == 6
                for worker in workers:
                    worker.view.weather = FINE
                await trio.sleep(30)
                assert hearer.counts[-1] == 7
                assert min(hearer.counts[2:]) >= 2
    caplog.clear()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"7",
        b"{}",
        b'{"worker":"0","counts":{"topic:who":{"room":3}}}',
        b'{"worker":"0","into":[["topic:who",-1,null,1,false]],"counts":{"topic:who":{"room":3}}}',
        b'{"worker":"0","into":[["topic:who",9,null,9,false]],"counts":{"topic:who":{"room":-3}}}',
        b'{"worker":"0","told":["topic:nobody","room",7]}',
        b'{"worker":"0","told":["topic:who","room",null]}',
        b'{"worker":"0","whatever":true}',
    ],
)
async def test_messages_that_are_none(data, autojump_clock, caplog):
    """They change no count, and are no end of anything."""
    async with open_workers(2) as (broker, *workers):
        rooms = [Room(worker) for worker in workers]
        await broker.memory.append(PRESENCE_TOPIC, [LogEntry(data)], keep=Replay(), token="t")
        async with hearing(rooms[0]) as hearer:
            async with rooms[1].clients(1):
                await trio.sleep(40)
                assert hearer.counts[-1] == 1
            await trio.sleep(40)
            assert hearer.counts[-1] == 0
    assert not caplog.records


async def test_topics_in_two_places(tmp_path):
    """A topic and its presence topic are in one log, or both in memory; else it says so."""
    log = SQLiteLog(tmp_path / "events.db")
    from flowstream.logs import MemoryLog

    async with Flowstream(log=log):
        for topic in (
            Topic("a", presence=Topic("who", log=MemoryLog())),
            Topic("b", log=MemoryLog(), presence=Topic("who")),
        ):
            with pytest.raises(ValueError, match="must be in the same log, or both in memory"):
                await topic.publish(1)
        alone = Topic("c")
        with pytest.raises(RuntimeError, match="presence=another_topic"):
            _ = alone.total_subscribers
        memory = Topic("d", log=MemoryLog())
        async with memory.subscribe():
            assert memory.total_subscribers == 1


async def test_others_topics_are_not_touched(autojump_clock):
    """A topic without a presence topic says nothing."""
    async with open_workers(2) as (_, one, other):
        async with reading(one.topic), reading(other.topic):
            await trio.sleep(60)
        assert "append" not in one.view.calls + other.view.calls
