"""A client's place in a topic that is in a log: in the window, in the log, and in between."""

import pytest
import trio
from shared_log import FINE, Client, Weather, open_workers, reading
from trio.testing import wait_all_tasks_blocked

from flowstream import Event, Replay, Topic
from flowstream.ids._event_id import parse_event_id
from flowstream.topics._joined import Joined
from flowstream.topics._subscription import SubscriptionManager


async def settle(seconds=60):
    await trio.sleep(seconds)


async def test_a_client_in_another_process_gets_what_is_published(autojump_clock):
    """Two workers: what one publishes the other's client gets, in order, under the same ids."""
    async with open_workers(2) as (_, one, other), reading(other.topic) as client:
        await settle(1)
        ids = [await one.publish(n) for n in range(5)]
        await settle(1)
        assert client.got == [0, 1, 2, 3, 4]
        assert client.ids == ids


async def test_what_is_published_while_an_old_id_is_read_comes_after_it(autojump_clock):
    """A client that comes back to an open window is not pushed to before it has read the past."""
    async with open_workers(1) as (_, one):
        ids = [await one.publish(n) for n in range(3)]
        async with reading(one.topic):
            await settle(1)  # the window is open, behind those
            async with one.topic.subscribe(after=ids[0]) as events:
                await one.publish(3)  # before it has read anything
                got = [await events.__anext__() for _ in range(3)]
                assert [event.data for event in got] == [1, 2, 3]


async def test_a_client_that_reads_late_lost_nothing_since_it_joined(autojump_clock):
    """The window opens after it joined, and events come before its first read: it gets them."""
    async with open_workers(1) as (_, one):
        await one.publish("before")
        async with one.topic.subscribe() as events:
            for n in range(3):
                await one.publish(n)
            assert [(await events.__anext__()).data for _ in range(3)] == [0, 1, 2]


async def test_an_unknown_id_is_not_repeated_to_the_client(autojump_clock):
    """The gap of a client with an id that the log does not know names no id before it."""
    async with open_workers(1) as (_, one):
        await one.publish(0)
        for after in ("0000000aaaa.a5", "nonsense"):
            async with reading(one.topic, after=after) as client:
                await settle(5)
                await one.publish("new")
                await settle(5)
                assert client.got == [("gap", None), "new"], after
                assert client.gaps[0]["after"] is None


async def test_a_slow_client_goes_on_from_the_log_without_a_gap(autojump_clock):
    """It falls out of the window, which is small, and reads what the log still has."""
    async with open_workers(2, replay=Replay(items=5000)) as (_, one, other):  # noqa: SIM117
        async with reading(other.topic):
            await settle(1)
            first = await one.publish("first")
            await one.publish(0)
            await settle(1)
            async with other.topic.subscribe(after=first) as events:
                for n in range(1, 2500):
                    await one.publish(n)
                await settle(20)
                assert other.window.items <= 1000
                for n in range(2500):
                    event = await events.__anext__()
                    assert (event.type, event.data) == (None, n)


async def test_a_gap_comes_before_events_that_the_window_no_longer_has(autojump_clock):
    """A client with an unknown id reads late: first it hears that it lost some, then the rest."""
    async with open_workers(1, replay=Replay(items=5000)) as (_, one), reading(one.topic):
        await settle(1)  # the window is open
        async with one.topic.subscribe(after="nonsense") as events:
            for start in range(0, 3000, 1000):
                await one.publisher.publish_many([Event(n) for n in range(start, start + 1000)])
            gap = await events.__anext__()
            assert (gap.type, gap.data["missed"]) == ("gap", None)
            got = [(await events.__anext__()).data for _ in range(3000)]
            assert got == list(range(3000))


async def resumed(worker, after, seconds=15, **options):
    """Return what a client gets that comes back with `after`."""
    async with reading(worker.topic, after=after, **options) as client:
        await settle(seconds)
        return client.got


async def test_a_client_resumes_in_the_window_and_from_the_log(autojump_clock):
    """On a worker that had the topic all the time, and on one that never had it."""
    async with open_workers(3) as (_, one, other, third), reading(other.topic):
        await settle(1)
        ids = [await one.publish(n) for n in range(20)]
        await settle(1)
        assert await resumed(other, ids[4]) == list(range(5, 20))
        assert "read" not in other.view.calls
        assert await resumed(third, ids[4]) == list(range(5, 20))
        assert "read" in third.view.calls
        assert await resumed(third, ids[19]) == []


async def test_a_client_resumes_from_an_older_epoch(autojump_clock):
    """With a gap of unknown size where the epoch ends, whether it saw what was lost or not."""
    async with open_workers(2) as (broker, one, other):
        ids = [await one.publish(n) for n in range(5)]
        picture = broker.photograph()
        lost = await one.publish("lost")
        broker.restore(picture)
        ids += [await one.publish(n) for n in range(5, 8)]
        for worker in (one, other):
            assert await resumed(worker, ids[1]) == [2, 3, 4, ("gap", None), 5, 6, 7]
            assert await resumed(worker, ids[4]) == [("gap", None), 5, 6, 7]
            assert await resumed(worker, lost) == [("gap", None), 5, 6, 7]
            assert await resumed(worker, ids[6]) == [7]
        broker.restore(picture)
        assert await resumed(other, ids[4]) == [("gap", None)]


@pytest.mark.parametrize("where", ["the window", "the log"])
async def test_what_is_missing_is_counted_where_it_can_be_known(autojump_clock, where):
    """Trimmed events of one epoch are counted; with a filter nobody knows how many it wanted."""
    async with open_workers(2, replay=Replay(items=10)) as (_, one, other), reading(one.topic):
        await settle(1)
        ids = [await one.publish(n) for n in range(30)]
        worker = one if where == "the window" else other
        expected = [("gap", 17), *range(20, 30)]
        assert await resumed(worker, ids[2]) == expected
        even = await resumed(worker, ids[2], where=lambda event: event.data % 2 == 0)
        assert even == [("gap", None), *range(20, 30, 2)]
        assert await resumed(worker, ids[19]) == expected[1:]
        assert await resumed(worker, ids[18]) == [("gap", 1), *range(20, 30)]


async def test_all_is_trimmed(autojump_clock):
    """A topic whose events are gone still knows how many a client missed."""
    async with open_workers(2) as (broker, one, other):
        ids = [await one.publish(n) for n in range(5)]
        await broker.trim(one.name, 0)
        assert await resumed(other, ids[1]) == [("gap", 3)]
        assert await resumed(other, ids[4]) == []
        await one.publish(5)
        assert await resumed(other, ids[1]) == [("gap", 3), 5]


async def test_nothing_older_than_the_replay_is_served(autojump_clock):
    """Not from the window, not from the log, and not from a page that was read before."""
    async with open_workers(2, replay=Replay(seconds=10)) as (_, one, other):  # noqa: SIM117
        async with reading(one.topic):
            await settle(1)
            ids = [await one.publish(n) for n in range(3)]
            await settle(8)
            ids += [await one.publish(n) for n in range(3, 5)]
            async with other.topic.subscribe(after=ids[0]) as events:
                assert (await events.__anext__()).data == 1  # the page is read
            await settle(1.9)
            async with other.topic.subscribe(after=ids[0]) as events:
                assert (await events.__anext__()).data == 1
            await settle(0.2)
            assert await resumed(other, ids[0], 1) == [("gap", 2), 3, 4]
            assert await resumed(one, ids[0], 1) == [("gap", 2), 3, 4]
            await settle(10)
            assert await resumed(one, ids[0], 1) == [("gap", 4)]
            assert await resumed(other, ids[0], 1) == [("gap", 4)]


async def test_a_page_expires_while_a_client_reads_it(autojump_clock):
    """The rest of it is not served; its count is exact."""
    async with open_workers(2, replay=Replay(seconds=10)) as (_, one, other):
        ids = [await one.publish(f"{n} {'.' * 40_000}") for n in range(4)]
        async with other.topic.subscribe(after=ids[0]) as events:
            first = await events.__anext__()
            assert first.data.startswith("1 ")
            await settle(11)
            await one.publish("new")
            gap = await events.__anext__()
            assert (gap.type, gap.data["missed"]) == ("gap", 2)
            assert gap.data["after"] == ids[1]
            assert (await events.__anext__()).data == "new"


async def test_a_page_is_taken_in_pieces_of_the_size_that_is_asked_for(autojump_clock):
    """Each pull brings about as many bytes as the stream wants, and one event at least."""
    async with open_workers(2) as (_, one, other):
        first = await one.publish("first")
        for n in range(30):
            await one.publish(f"{n} {'.' * 1000}")
        manager = other.topic.subscribe(after=first)
        async with manager as events:
            cursor = events._cursor
            await cursor.prepare()
            assert not cursor.waits
            sizes = []
            data = []
            for limit in (1, 1, 2500, 5000, 1 << 20):
                pieces = await cursor.pull(limit)
                sizes.append(len(pieces))
                data += [int(piece.event.data.split()[0]) for piece in pieces]
            assert sizes[:4] == [1, 1, 2, 4]
            assert data == list(range(30))
            assert not cursor.behind


async def test_a_filter_that_fails_behind_events_that_pass(autojump_clock):
    """They are delivered first; then the client hears of the failure, once."""

    def where(event):
        return event.data / (event.data - 5)

    async with open_workers(2) as (_, one, other):
        ids = [await one.publish(n) for n in range(10)]
        client = Client()
        with pytest.raises(ZeroDivisionError):
            await client.run(other.topic, after=ids[0], where=where)
        assert client.got == [1, 2, 3, 4]


async def test_a_filter_that_wants_nothing_lets_others_run(autojump_clock):
    """A long past is passed over page by page, and its place is kept."""
    async with open_workers(2, replay=Replay(items=5000)) as (_, one, other):
        first = await one.publish(-1)
        await one.publisher.publish_many([Event(n) for n in range(1000)])
        await one.publisher.publish_many([Event(n) for n in range(1000, 2000)])
        assert await resumed(other, first, where=lambda event: event.data == 1999) == [1999]
        async with other.topic.subscribe(after=first, where=lambda event: False) as events:
            cursor = events._cursor
            await cursor.prepare()
            assert cursor.position == first
            assert await cursor.pull(1000) == []
            assert parse_event_id(cursor.position)[1] == 512
            assert cursor.lacks() is None
            assert cursor.behind
            assert cursor.waits


async def test_where_a_cursor_is_at_each_step(autojump_clock):
    """Before it knows the log, in the log, and in the window."""
    async with open_workers(2) as (_, one, other):
        ids = [await one.publish(n) for n in range(3)]
        async with other.topic.subscribe(after=ids[0]) as events:
            cursor = events._cursor
            assert (cursor.behind, cursor.waits, cursor.position) == (True, True, ids[0])
            assert cursor.lacks() is None
            await cursor.prepare()
            assert (cursor.behind, cursor.waits, cursor.position) == (True, False, ids[0])
            assert len(await cursor.pull(1 << 20)) == 2
            assert (cursor.behind, cursor.waits, cursor.position) == (False, False, ids[2])
            assert cursor.lacks() == 0
            cursor.fall_behind()
            assert cursor.behind
            cursor.catch_up()
            assert not cursor.behind
        async with other.topic.subscribe() as events:
            cursor = events._cursor
            assert (cursor.behind, cursor.waits, cursor.position) == (False, False, ids[2])
        async with one.topic.subscribe() as events:
            cursor = events._cursor
            assert (cursor.behind, cursor.waits, cursor.position) == (True, True, None)
            cursor.catch_up()
            assert cursor.behind


@pytest.mark.parametrize("where", ["the window", "the log"])
async def test_a_stream_counts_what_it_got_and_what_it_missed(autojump_clock, where):
    """The id that a client comes back with is no item."""
    async with open_workers(2, replay=Replay(items=3)) as (_, one, other), reading(one.topic):
        await settle(1)
        ids = [await one.publish(n) for n in range(8)]
        worker = one if where == "the window" else other
        async with worker.topic.subscribe(after=ids[5]) as events:
            assert [(await events.__anext__()).data for _ in range(2)] == [6, 7]
            assert events.statistics().offered == 2
        async with worker.topic.subscribe(after=ids[1]) as events:
            assert (await events.__anext__()).data["missed"] == 3
            for _ in range(3):
                await events.__anext__()
            statistics = events.statistics()
            assert (statistics.offered, statistics.dropped) == (6, 3)


async def test_a_client_without_an_id_that_leaves_before_it_began(autojump_clock):
    """Its place is none, and nothing of it is left."""
    async with open_workers(1) as (_, one):
        one.view.weather = Weather(away=frozenset({"heads"}))
        with trio.move_on_after(3):
            async with one.topic.subscribe() as events:
                await events.__anext__()
        assert one.publisher.fanout.count == 0


async def test_a_log_that_is_away_while_a_client_reads(autojump_clock):
    """It waits, and goes on without a gap."""
    async with open_workers(2) as (_, one, other):
        ids = [await one.publish(n) for n in range(3)]
        other.view.weather = Weather(away=frozenset({"read"}))
        async with reading(other.topic, after=ids[0]) as client:
            await settle(30)
            assert client.got == []
            other.view.weather = FINE
            await settle(3)
            assert client.got == [1, 2]


async def test_a_client_that_has_read_all_waits_for_a_window_that_is_late(autojump_clock):
    """It is further than the window, which has missed a hint: it goes on when that has come."""
    async with open_workers(2) as (_, one, other), reading(other.topic):
        await settle(1)
        first = await one.publish(0)
        other.view.weather = Weather(lost=1.0)
        last = await one.publish(1)
        other.view.weather = FINE
        async with reading(other.topic, after=last) as client:
            await wait_all_tasks_blocked()
            assert other.window.id_of(other.window.head) == last  # at once, not with the sweep
            await one.publish(2)
            await settle(1)
            assert client.got == [2]
        assert await resumed(other, first) == [1, 2]


async def test_many_clients_that_come_back_share_what_is_read(autojump_clock):
    """A hundred, each at a place of its own: two pages are read."""
    async with open_workers(2) as (_, one, other):
        ids = [await one.publish(n) for n in range(700)]
        done = []

        async def client(place):
            done.append(await resumed(other, ids[place]) == list(range(place + 1, 700)))

        async with trio.open_nursery() as nursery:
            for place in range(0, 600, 6):
                nursery.start_soon(client, place)
        assert done == [True] * 100
        assert other.view.calls.count("read") == 2


async def test_a_new_client_gets_no_past(autojump_clock):
    """It begins with what is published after it came."""
    async with open_workers(2) as (_, one, other):
        await one.publish("before")
        async with reading(other.topic) as client, reading(one.topic) as here:
            await settle(1)
            await one.publish("after")
            await settle(1)
            assert client.got == here.got == ["after"]


async def test_nothing_is_pushed_before_every_topic_has_its_place(autojump_clock):
    """Two topics on one connection: an id must say where the client is in both of them."""
    memory = Topic("memory")
    async with open_workers(1) as (_, one):
        await one.publish("before")
        feed = Joined([memory._feed, one.topic._feed])
        async with SubscriptionManager(feed, None, None, 256, None) as events:
            await memory.publish("a")
            assert events.statistics().offered == 0
            assert (await events.__anext__()).data == "a"
            assert "" not in events._cursor.position.split("~")
            await one.publish("b")
            assert (await events.__anext__()).data == "b"
            await memory.publish("c")
            assert events.statistics().items == 1
            assert (await events.__anext__()).data == "c"


async def test_ids_sort_and_resume_over_workers_and_epochs(autojump_clock):
    """Whatever happens to the log, a later id sorts behind."""
    async with open_workers(2) as (broker, one, other):
        ids = [await one.publish(0), await other.publish(1)]
        picture = broker.photograph()
        for _ in range(3):
            ids.append(await one.publish(2))
            broker.restore(picture)
            ids.append(await other.publish(3))
        broker.replace()
        ids.append(await one.publish(4))
        assert ids == sorted(ids)
        assert len({*ids}) == len(ids)
