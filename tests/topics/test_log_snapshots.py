"""Snapshots of a topic in a log: behind a gap, exact, and the same on every worker."""

import pytest
import trio
from shared_log import FINE, Weather, open_workers, read_all, reading
from trio.testing import wait_all_tasks_blocked

from flowstream import Event, LatestByKey, PublicError, Replay


async def settle(seconds=15):
    await trio.sleep(seconds)


async def resumed(worker, after, seconds=15, **options):
    async with reading(worker.topic, after=after, **options) as client:
        await settle(seconds)
        return client.got


def latest(**values):
    return [{"key": key, "data": value} for key, value in values.items()]


class TestByKey:
    """`LatestByKey`: the log keeps the newest event of each key."""

    async def test_a_worker_that_never_had_the_topic_has_its_snapshot(self, autojump_clock):
        """Read from the log once, and kept up to date from then on."""
        async with open_workers(2, snapshot=LatestByKey()) as (_, one, other):
            for n in range(6):
                await one.publish(n, key="abc"[n % 3])
            await one.publish("without a key")
            for _ in range(2):
                assert await resumed(other, None) == [("snapshot", latest(a=3, b=4, c=5))]
            async with reading(other.topic) as client:
                await settle(1)
                await one.publish(6, key="b")
                await settle(1)
                assert client.got == [("snapshot", latest(a=3, b=4, c=5)), 6]
                assert await resumed(other, None) == [("snapshot", latest(a=3, c=5, b=6))]
            # One more is of the counts of subscribers, at the start.
            assert other.view.calls.count("latest") == 1 + 1

    async def test_behind_a_gap_it_holds_what_is_missing(self, autojump_clock):
        """The count is exact, and events go on behind it; the same on each worker."""
        options = {"snapshot": LatestByKey(), "replay": Replay(items=3)}
        async with open_workers(2, **options) as (_, one, other):
            ids = [await one.publish(n, key="abc"[n % 3]) for n in range(12)]
            expected = [("gap", 10), ("snapshot", latest(a=9, b=10, c=11))]
            for worker in (one, other):
                async with reading(worker.topic, after=ids[1]) as client:
                    await settle(5)
                    assert client.got == expected
                    assert client.gaps[0]["after"] == ids[1]
                assert await resumed(worker, ids[9]) == [10, 11]
                assert await resumed(worker, "nonsense") == [("gap", None), expected[1]]
                assert await resumed(worker, "1lgppmf8l75.a5") == [("gap", None), expected[1]]

    async def test_after_a_seam_it_is_read_again(self, autojump_clock):
        """What the window never had may be in it."""
        options = {"snapshot": LatestByKey(), "replay": Replay(items=2)}
        async with open_workers(2, **options) as (broker, one, other):  # noqa: SIM117
            async with reading(other.topic) as client:
                await settle(1)
                await one.publish(0, key="a")
                await settle(1)
                other.view.weather = Weather(lost=1.0)
                for n in range(1, 6):
                    await one.publish(n, key="abc"[n % 3])
                other.view.weather = FINE
                await settle()
                assert client.got == [
                    ("snapshot", []),
                    0,
                    ("gap", 5),
                    ("snapshot", latest(a=3, b=4, c=5)),
                ]
                picture = broker.photograph()
                await one.publish("lost", key="a")
                await settle(1)
                broker.restore(picture)
                await settle()
                assert client.got[4:] == [
                    "lost",
                    ("gap", None),
                    ("snapshot", latest(a=3, b=4, c=5)),
                ]

    async def test_a_client_that_is_ahead_of_its_worker_is_not_set_back(self, autojump_clock):
        """It comes from a faster one, and what follows is trimmed: the gap is counted from there,
        and the snapshot is no older than what the client has."""
        async with open_workers(2, snapshot=LatestByKey()) as (broker, one, other):  # noqa: SIM117
            async with reading(other.topic) as client:
                await settle(1)
                await one.publish(0, key="a")
                await settle(1)
                other.view.weather = Weather(lost=1.0)
                ids = [await one.publish(n, key="abc"[n % 3]) for n in range(1, 10)]
                await broker.trim(one.name, 2)
                other.view.weather = FINE
                assert client.got == [("snapshot", []), 0]
                expected = [("gap", 5), ("snapshot", latest(b=7, c=8, a=9))]
                assert await resumed(other, ids[3]) == expected

    async def test_pages_of_two_epochs_are_no_snapshot(self, autojump_clock):
        """The log loses its end between two pages: what was lost never stands beside what came."""
        kept, lost, new = ("x" * 700_000, "lost" * 180_000, "new" * 240_000)
        async with open_workers(2, snapshot=LatestByKey()) as (broker, one, other):
            await one.publish(kept, key="a")
            await one.publish(kept, key="b")
            picture = broker.photograph()
            await one.publish(lost, key="a")
            asked, is_lost = other.view.latest, False

            async def lose_behind_the_first_page(topic, cursor=None):
                nonlocal is_lost
                if cursor is not None and not is_lost:
                    is_lost = True
                    other.view.weather = Weather(lost=1.0)  # it is not there yet
                    broker.restore(picture)
                    await one.publish(new, key="b")
                return await asked(topic, cursor)

            other.view.latest = lose_behind_the_first_page
            got = await resumed(other, None)
            assert is_lost
            assert ("snapshot", latest(a=lost, b=new)) not in got
            assert got[-1] == ("snapshot", latest(a=kept, b=new))

    async def test_a_log_that_is_away_makes_a_client_wait(self, autojump_clock):
        """And those that come meanwhile wait for the same reading."""
        async with open_workers(2, snapshot=LatestByKey()) as (_, one, other):
            await one.publish(0, key="a")
            other.view.weather = Weather(away=frozenset({"latest"}))
            async with reading(other.topic) as client, reading(other.topic) as second:
                await settle(30)
                assert client.got == second.got == []
                other.view.weather = FINE
                await settle(3)
                assert client.got == second.got == [("snapshot", latest(a=0))]
                assert other.view.calls.count("latest") == 1 + 1  # one at the start, as above

    async def test_what_is_published_while_it_is_read(self, autojump_clock):
        """Is in it or comes behind it, and never both or neither."""
        async with open_workers(2, snapshot=LatestByKey()) as (_, one, other):
            for n in range(3):
                await one.publish(n, key="abc"[n])
            other.view.weather = Weather(latency=2.0)
            async with reading(other.topic) as client:
                for n in range(3, 40):
                    await one.publish(n, key="abc"[n % 3])
                    await trio.sleep(0.2)
                await settle()
                (kind, state), *events = client.got
                assert kind == "snapshot"
                newest = max(item["data"] for item in state)
                assert events == list(range(newest + 1, 40))
                assert sorted(item["data"] for item in state) == [
                    newest - 2,
                    newest - 1,
                    newest,
                ]

    async def test_a_window_that_is_late_is_waited_for(self, autojump_clock):
        """The log's snapshot may be ahead of the window; that reads at once."""
        async with open_workers(2, snapshot=LatestByKey()) as (_, one, other):  # noqa: SIM117
            async with reading(other.topic, after=None):
                await settle(1)
                other.view.weather = Weather(lost=1.0)
                await one.publish(0, key="a")
                await one.publish(1, key="b")
                other.view.weather = FINE
                other.publisher.snapshots._number = None
                before = trio.current_time()
                async with reading(other.topic) as client:
                    await wait_all_tasks_blocked()
                    assert client.got == [("snapshot", latest(a=0, b=1))]
                assert trio.current_time() == before

    async def test_an_event_that_cannot_be_read_is_not_in_it(self, autojump_clock):
        """The others are."""
        async with open_workers(2, snapshot=LatestByKey()) as (broker, one, other):
            await one.publish(0, key="a")
            await one.publish(1, key="b")
            topic = broker.memory._topics[one.name]
            key = next(iter(topic._latest))
            at, record = topic._latest[key]
            topic._latest[key] = at, record._replace(data=b"of a newer release")
            assert await resumed(other, None) == [("snapshot", latest(b=1))]

    async def test_pages_of_many_keys(self, autojump_clock):
        """The log gives them in pages; they are in the order in which they were published."""
        async with open_workers(2, snapshot=LatestByKey()) as (_, one, other):
            for n in range(9, -1, -1):
                await one.publish(f"{n}{'.' * 200_000}", key=f"{n}")
            ((_, state),) = await resumed(other, None)
            assert [item["key"] for item in state] == [f"{n}" for n in range(9, -1, -1)]
            assert other.view.calls.count("latest") > 1


class State:
    """An app's state, which it keeps beside the log.

    Attributes:
        seconds: how long reading it takes.
        exact: whether it says the position that it read first.
        ids: what it says instead, the next times.
    """

    def __init__(self, exact=True):
        self.worker = None
        self.broker = None
        self.seconds = 0.1
        self.exact = exact
        self.made = 0
        self.ids = []

    async def __call__(self):
        self.made += 1
        id = self.ids.pop(0) if self.ids else await self.worker.publisher.position()
        await trio.sleep(self.seconds)
        state = self.broker.number(self.worker.name)
        return Event(state, id=id) if self.exact else state


class TestFromApp:
    """An app's function, with or without `Topic.position`."""

    async def test_a_position_is_exact(self, autojump_clock):
        """What follows the position that was read before the state comes, though it is in it."""
        state = State()
        async with open_workers(2, snapshot=state) as (broker, one, other):
            state.broker, state.worker = broker, other
            for n in range(1, 4):
                await one.publish(n)
            state.seconds = 5.0
            async with reading(other.topic) as client:
                await settle(1)
                await one.publish(4)
                await settle()
                assert client.got == [("snapshot", 4), 4]

    async def test_a_position_ahead_of_this_process(self, autojump_clock):
        """It is waited for, so that nothing comes that is in the state."""
        state = State()
        async with open_workers(2, snapshot=state) as (broker, one, other):
            state.broker, state.worker = broker, other
            async with reading(other.topic):
                await settle(1.05)
                other.view.weather = Weather(lost=1.0)
                for n in range(1, 4):
                    await one.publish(n)
                other.view.weather = FINE
                before = trio.current_time()
                async with reading(other.topic) as client:
                    await settle(1)
                    assert client.got == [("snapshot", 3)]
                    assert trio.current_time() - before < 2
                    await one.publish(4)
                    await settle(1)
                    assert client.got == [("snapshot", 3), 4]

    async def test_a_position_that_the_window_no_longer_has(self, autojump_clock):
        """What follows it comes from the log."""
        state = State()
        async with open_workers(2, snapshot=state, replay=Replay(items=5000)) as workers:
            state.broker, one, other = workers
            state.worker = other
            state.seconds = 20.0
            async with reading(other.topic), reading(other.topic) as client:
                await settle(1)
                for n in range(1, 1501):
                    await one.publish(n)
                await settle(60)
                assert client.got == [("snapshot", 1500), *range(1, 1501)]

    async def test_a_position_of_an_older_epoch(self, autojump_clock):
        """An app that keeps its state for a while: what follows it comes, behind a gap."""
        state = State()
        async with open_workers(2, snapshot=state) as (broker, one, other):
            state.broker, state.worker = broker, other
            state.ids = [await one.publish(1)]
            await one.publish(2)
            broker.restore(broker.photograph())
            await one.publish(3)
            async with reading(other.topic) as client:
                await settle()
                assert client.got == [
                    ("snapshot", 3),
                    2,
                    ("gap", None),
                    ("snapshot", 3),
                ]

    async def test_without_a_position_it_holds_what_was_before_the_call(self, autojump_clock):
        """An event may be in it and come again; none is missing."""
        state = State(exact=False)
        async with open_workers(2, snapshot=state) as (broker, one, other):
            state.broker, state.worker = broker, other
            for n in range(1, 4):
                await one.publish(n)
            state.seconds = 5.0
            async with reading(other.topic) as client:
                await settle(1)
                await one.publish(4)
                await settle()
                assert client.got == [("snapshot", 4), 4]

    async def test_a_state_that_the_log_never_reaches_back_to(self, autojump_clock):
        """The client is told to come back, instead of gap and snapshot for ever."""
        state = State()
        async with open_workers(2, snapshot=state, replay=Replay(items=1)) as (broker, one, other):
            state.broker, state.worker = broker, other
            state.ids = [await one.publish(1)] * 100
            for n in range(2, 6):
                await one.publish(n)
            with pytest.raises(PublicError) as raised, trio.fail_after(60):
                await read_all(other.topic)
            assert raised.value.code == "snapshot"
            assert state.made <= 5

    @pytest.mark.parametrize("id", ["the app's own", "0123456789a.a5", "of the future"])
    async def test_a_position_that_nobody_knows(self, autojump_clock, id):
        """It counts as including what was before the call."""
        state = State()
        async with open_workers(2, snapshot=state) as (broker, one, other):
            state.broker, state.worker = broker, other
            last = [await one.publish(n) for n in range(3)][-1]
            state.ids = [f"{last.partition('.')[0]}.c999" if id == "of the future" else id]
            async with reading(other.topic) as client:
                await settle(40)  # it may wait for its time-out
                assert client.got == [("snapshot", 3)]
                await one.publish(3)
                await settle(1)
                assert client.got == [("snapshot", 3), 3]
                assert client.snapshot_ids == [last]

    async def test_many_clients_share_one_call(self, autojump_clock):
        """After a deploy."""
        state = State()
        async with open_workers(1, snapshot=state) as (broker, one):
            state.broker, state.worker = broker, one
            await one.publish(1)
            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(resumed, one, "nonsense")
            assert state.made == 1

    async def test_a_state_from_before_events_were_lost(self, autojump_clock):
        """Some events follow it each time; the client is told to come back all the same."""
        state = State()
        async with open_workers(2, snapshot=state) as (broker, one, other):
            state.broker, state.worker = broker, other
            state.ids = [await one.publish(1)] * 100
            await one.publish(2)
            broker.restore(broker.photograph())
            await one.publish(3)
            with pytest.raises(PublicError), trio.fail_after(60):
                await read_all(other.topic)
            assert state.made <= 5

    async def test_a_client_that_lives_through_many_epochs(self, autojump_clock):
        """Each is a gap and a snapshot, from which it gets to the window: none of them is vain."""
        state = State(exact=False)
        async with open_workers(2, snapshot=state) as (broker, one, other):
            state.broker, state.worker = broker, other
            async with reading(other.topic) as client:
                await settle()
                expected = [("snapshot", 0)]
                for n in range(1, 9):
                    broker.replace()
                    await one.publish(n)
                    await settle()
                    expected += [("gap", None), ("snapshot", 1)]
                assert client.got == expected
