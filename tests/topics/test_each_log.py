"""One app on each log: what it publishes on one worker, clients of the other have.

Nothing here knows which log it is. Time decides nothing: what is waited for is an event, and only
the run as a whole has a deadline.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
import trio
from each_log import Store
from each_log_app import FRAMEWORKS, POLICIES, Worker, open_workers

from flowstream import Topic


async def take(client: Any, count: int) -> list[Any]:
    """Return the next events of a client."""
    return [await client.next_event() for _ in range(count)]


async def came(worker: Worker, client: Any) -> str:
    """Wait until a new client of `news` has its place: what any worker publishes then, it gets.

    Returns the text that was published for that.
    """
    text = f"hello {os.urandom(4).hex()}"
    await worker.publish("news", text)
    await until_data(client, text)
    return text


async def until_data(client: Any, last: str) -> list[Any]:
    """Return events up to the one with this data."""
    got = [await client.next_event()]
    while got[-1].data != last:
        got.append(await client.next_event())
    return got


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_a_client_goes_on_on_another_worker(store: Store, framework: str) -> None:
    """It has events of both workers, in one order; with its last id the other worker goes on."""
    async with open_workers(store, framework) as (one, other):
        async with one.reading("/sse/news") as client:
            ids = [await (one, other)[n % 2].publish("news", f"{n}") for n in range(6)]
            seen = await take(client, 6)
        assert [event.id for event in seen] == ids == sorted(ids)
        assert [event.data for event in seen] == [f"{n}" for n in range(6)]
        await one.publish("news", "while it was away")
        async with other.reading("/sse/news", seen[2].id) as client:
            assert [event.data for event in await take(client, 4)] == [
                *("3", "4", "5"),
                "while it was away",
            ]
            await one.publish("news", "live")
            assert (await client.next_event()).data == "live"
        async with other.reading("/ndjson/news", ids[4]) as client:
            values = [await client.next_value() for _ in range(3)]
        assert [(value["data"], value["id"] > ids[4]) for value in values] == [
            *(("5", True), ("while it was away", True)),
            ("live", True),
        ]


async def test_an_id_of_nobody_is_a_gap(store: Store) -> None:
    """A client that comes with an id that no log has given is told so, and is live."""
    async with open_workers(store) as (one, other):
        await one.publish("news", "old")
        for id in ("nonsense", "1lgppmf8l75.a1", "x" * 3000):
            async with other.reading("/sse/news", id) as client:
                gap = await client.next_event()
                assert (gap.type, json.loads(gap.data)["missed"]) == ("gap", None)
                await one.publish("news", "live")
                assert (await client.next_event()).data == "live"


async def test_a_snapshot_by_key_is_that_of_all_workers(store: Store) -> None:
    """A new client gets the newest of each key, whoever published it, and then what follows."""
    async with open_workers(store) as (one, other):
        for n in range(6):
            await (one, other)[n % 2].publish("prices", n, key=f"k{n % 3}")
        async with one.reading("/sse/prices") as first, other.reading("/sse/prices") as second:
            for client in (first, second):
                snapshot = await client.next_event()
                assert snapshot.type == "snapshot"
                assert sorted(json.loads(snapshot.data), key=lambda entry: entry["key"]) == [
                    {"key": f"k{n}", "data": 3 + n} for n in range(3)
                ]
            id = await one.publish("prices", 9, key="k0")
            for client in (first, second):
                event = await client.next_event()
                assert (event.id, event.data) == (id, "9")


async def test_a_snapshot_of_the_app_misses_nothing(store: Store) -> None:
    """Its position was asked for first: what is not in it comes behind it, on any worker."""
    async with open_workers(store) as (one, other), trio.open_nursery() as nursery:

        async def add() -> None:
            for n in range(30):
                other.app.numbers.append(n)  # both workers read one database
                one.app.numbers = other.app.numbers
                await other.do("/add", n)

        nursery.start_soon(add)
        for worker in (one, other, one, other):
            async with worker.reading("/sse/numbers") as client:
                snapshot = await client.next_event()
                numbers = set(json.loads(snapshot.data))
                while len(numbers) < 30:
                    assert numbers == set(range(len(numbers)))
                    numbers.add(int((await client.next_event()).data))


async def test_joined_topics_resume_on_another_worker(store: Store) -> None:
    """One id says where a client is in each of them."""
    async with open_workers(store) as (one, other):
        async with one.reading("/sse/news+prices") as client:
            snapshot = await client.next_event()
            assert snapshot.type == "snapshot"
            await other.publish("news", "n0")
            await other.publish("prices", "p0", key="k")
            seen = await take(client, 2)
        await one.publish("prices", "p1", key="k")
        await other.publish("news", "n1")
        async with other.reading("/sse/prices+news", seen[-1].id) as client:
            rest = await take(client, 2)
        assert sorted(event.data for event in rest) == ["n1", "p1"]


async def test_presence_is_that_of_all_workers(store: Store) -> None:
    """Who comes and goes on one worker is told to clients of the other, and counted there."""

    async def told(client: Any, count: int) -> None:
        while True:
            event = await client.next_event()
            entries = json.loads(event.data)
            entries = [one["data"] for one in entries] if event.type == "snapshot" else [entries]
            if any(entry["subscribers"] == count for entry in entries):
                return

    async with open_workers(store) as (one, other), other.reading("/sse/who") as who:
        async with one.reading("/room/lobby", user="ada"):
            async with other.reading("/room/lobby", user="bob"):
                await told(who, 2)
                assert await one.do("/people/lobby") == 2
            await told(who, 1)
        await told(who, 0)
        assert await other.do("/people/lobby") == 0


async def test_a_topic_is_deleted_on_all_workers(store: Store) -> None:
    """Its subscribers end, its past is gone, and what comes then is a new life."""
    async with open_workers(store) as (one, other):
        old = await one.publish("news", "old")
        async with one.reading("/sse/news") as first, other.reading("/sse/news") as second:
            await came(one, first)
            await came(other, second)
            await other.do("/delete/news")
            for client in (first, second):
                end = (await until_data(client, '{"reason":"stopped"}'))[-1]
                assert end.type == "end"
        new = await other.publish("news", "new")
        assert new > old
        async with one.reading("/sse/news", old) as client:
            gap = await client.next_event()
            assert (gap.type, json.loads(gap.data)["missed"]) == ("gap", None)
            await other.publish("news", "live")
            assert (await until_data(client, "live"))[-1].id > new


async def test_a_subject_is_revoked_on_all_workers(store: Store) -> None:
    """Its streams end everywhere, and nobody else's."""
    async with (
        open_workers(store) as (one, other),
        one.reading("/room/lobby", user="ada") as first,
        other.reading("/room/lobby", user="ada") as second,
        other.reading("/room/lobby", user="bob") as stays,
    ):
        await one.do("/revoke", "ada")
        for client in (first, second):
            # One that had no place in the topic yet is told so, in a gap.
            end = (await until_data(client, '{"reason":"stopped"}'))[-1]
            assert end.type == "end"
        await other.app.rooms.publish("lobby", "go on")
        assert (await until_data(stays, "go on"))[-1].type == "message"


async def test_several_events_are_in_one_piece(store: Store) -> None:
    """Two workers publish many at a time: each batch is together, on both."""
    async with open_workers(store) as (one, other):
        async with one.reading("/sse/news") as first, other.reading("/sse/news") as second:
            await came(one, first)
            await until_data(first, await came(other, second))
            async with trio.open_nursery() as nursery:
                for worker, name in ((one, "a"), (other, "b")):
                    for n in range(5):
                        batch = [f"{name}{n}.{piece}" for piece in range(4)]
                        nursery.start_soon(worker.do, "/publish-many/news", batch)
            texts = [[event.data for event in await take(one, 40)] for one in (first, second)]
        assert texts[0] == texts[1]
        for place in range(0, 40, 4):
            name = texts[0][place].partition(".")[0]
            assert texts[0][place : place + 4] == [f"{name}.{piece}" for piece in range(4)]


async def test_an_event_with_a_key_is_published_once(store: Store) -> None:
    """A retry on another worker gets the first one's id, and publishes nothing."""
    async with open_workers(store) as (one, other), other.reading("/sse/news") as client:
        await came(other, client)
        first = await one.publish("news", "once", idempotency_key="k")
        assert await other.publish("news", "twice", idempotency_key="k") == first
        await other.publish("news", "next", idempotency_key="l")
        assert [event.data for event in await take(client, 2)] == ["once", "next"]


async def test_what_is_published_soon_comes_in_order(store: Store) -> None:
    """Nobody waits for it; a position is that of the log, on every worker."""
    async with open_workers(store) as (one, other):
        async with other.reading("/sse/news") as client:
            await came(other, client)
            for n in range(20):
                await one.do("/publish-soon/news", n)
            seen = await take(client, 20)
        assert [event.data for event in seen] == [f"{n}" for n in range(20)]
        assert one.app.lost == []
        for worker in (one, other):
            assert await worker.do("/position/news") == seen[-1].id


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_slow_client_misses_nothing_in_silence(store: Store, policy: str) -> None:
    """Of a slow client of each policy: order is kept, and what is missing is counted in gaps."""
    async with open_workers(store) as (one, other):
        slow = one.reading("/sse/news", window=0, policy=policy)
        async with slow as client, trio.open_nursery() as nursery:

            async def publish() -> None:
                for n in range(60):
                    await (one, other)[n % 2].publish("news", f"{n}", key="one")
                await one.publish("news", "last", key="one", essential=True)

            nursery.start_soon(publish)
            if policy != "block":  # its publishers wait until it reads
                while (await other.do("/position/news"))[-4:] != ".b61":  # noqa: ASYNC110
                    await trio.sleep(0.01)
            got = await until_data(client, "last")
        numbers = [int(event.data) for event in got[:-1] if event.type == "message"]
        missed = [json.loads(event.data)["missed"] for event in got if event.type == "gap"]
        assert numbers == sorted(set(numbers))
        assert len(numbers) + sum(missed) == 60
        if policy in ("block", "catch-up"):
            assert missed == []
        else:
            assert missed


async def test_statistics_are_those_of_topic_and_log(store: Store) -> None:
    """What this worker did is counted for the topic, and for the whole log; in memory is none."""
    async with open_workers(store) as (one, other):
        async with other.reading("/sse/news") as client:
            await came(other, client)
            for n in range(3):
                await one.publish("news", f"{n}")
            await one.publish("news", "twice", idempotency_key="k")
            await one.publish("news", "twice", idempotency_key="k")
            await take(client, 4)
        whole, topic = await one.do("/statistics/news")
        if not store.is_shared:
            assert (whole, topic) == (None, None)
            return
        assert (topic["appended"], topic["duplicates"], topic["queued"]) == (4, 1, 0)
        assert whole["appended"] >= 4
        assert (whole["lost"], whole["unsure"], whole["refused"]) == (0, 0, 0)
        heard = (await other.do("/statistics/news"))[1]
        assert heard["appended"] == 1
        assert heard["followed"] == 1
        assert heard["fitting_hints"] + heard["reads"] > 0


async def test_what_a_worker_published_outlives_it(shared_store: Store) -> None:
    """All workers are gone; the next one has the past, and ids go on."""
    async with open_workers(shared_store, count=1) as (one,):
        ids = [await one.publish("news", f"{n}") for n in range(3)]
        await one.publish("prices", 7, key="k")
    async with open_workers(shared_store, count=1) as (next_life,):
        async with next_life.reading("/sse/news", ids[0]) as client:
            assert [event.id for event in await take(client, 2)] == ids[1:]
        async with next_life.reading("/sse/prices") as client:
            assert json.loads((await client.next_event()).data) == [{"key": "k", "data": 7}]
        assert await next_life.publish("news", "3") > ids[-1]


async def test_two_namespaces_do_not_meet(shared_store: Store) -> None:
    """Staging and production share a log, and neither hears the other."""
    staging = Store(shared_store.kind, shared_store.url, f"staging-{shared_store.namespace}")
    async with (
        open_workers(shared_store, count=1) as (one,),
        open_workers(staging, count=1) as (other,),
        other.reading("/sse/news") as client,
    ):
        for _ in range(3):
            await one.publish("news", "production")
        await other.publish("news", "staging")
        event = await client.next_event()
        assert (event.data, event.id[-3:]) == ("staging", ".a1")


@pytest.mark.on_each_log
async def test_a_marked_test_is_in_its_log(request: pytest.FixtureRequest) -> None:
    """A test that is marked for each log runs in the one that its name says."""
    store: Store = request.getfixturevalue("_store_around")
    news = Topic("news")
    await news.publish("x")
    counted = news.statistics().log
    assert (counted is None) == (store.kind == "memory")
    assert counted is None or counted.appended == 1
