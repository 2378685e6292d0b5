"""Runs in a log, on several workers: who owns them, what clients get, what happens at failures."""

from __future__ import annotations

import pytest
import trio
from log_workers import AWAY, FINE, open_workers, read_run

from flowstream import NoSuchRunError, Replay, RunExistsError, Runs, TooManyRunsError, sse
from flowstream._closing import CloseReason
from flowstream.quart import Flowstream
from flowstream.testing import collect


def counting(last, pause=1.0, log=None):
    """Return a source of the numbers up to `last`, one after each pause."""

    async def produce():
        try:
            for number in range(1, last + 1):
                await trio.sleep(pause)
                yield number
        finally:
            if log is not None:
                log.append("released")

    return produce


async def test_clients_of_all_workers_get_the_whole_answer(autojump_clock):
    """Those that come early, in between and late, here and elsewhere."""
    async with open_workers(3) as (_, *workers):
        run = await workers[0].claim("a", counting(10))
        found = []

        async def read(worker, after):
            await trio.sleep(after)
            found.append(await read_run(await worker.open("a")))

        async with trio.open_nursery() as nursery:
            for worker in workers:
                for after in (0, 3.5, 9.5, 12, 20, 50):
                    nursery.start_soon(read, worker, after)
        assert found == [(list(range(1, 11)), None)] * 18
        assert run.reason is CloseReason.COMPLETED


async def test_one_worker_gets_a_key(autojump_clock):
    """The others are told that it is running; when it is over the key can be used again."""
    async with open_workers(3) as (_, *workers):
        found = []

        async def claim(worker):
            try:
                await worker.claim("a", counting(3))
                found.append("claimed")
            except RunExistsError:
                found.append("exists")

        async with trio.open_nursery() as nursery:
            for worker in [*workers, *workers]:
                nursery.start_soon(claim, worker)
        assert sorted(found) == ["claimed"] + ["exists"] * 5
        run = await workers[1].open("a")
        assert await run.wait() is CloseReason.COMPLETED
        again = await workers[2].claim("a", counting(2))
        assert await read_run(again) == ([1, 2], None)
        assert await read_run(await workers[0].open("a")) == ([1, 2], None)


async def test_the_answer_survives_the_worker_that_made_it(autojump_clock):
    """Its clients elsewhere get what there is and `owner_lost`, and so do those that come later."""
    async with open_workers(3) as (_, one, two, three):
        await one.claim("a", counting(100))
        found = []

        async def read():
            found.append(await read_run(await two.open("a")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(5.5)
            one.freeze()
            began = trio.current_time()
        assert found == [([1, 2, 3, 4, 5], "owner_lost")]
        assert trio.current_time() - began < 25
        assert await read_run(await three.open("a")) == ([1, 2, 3, 4, 5], "owner_lost")
        assert two.runs.reaped + three.runs.reaped == 1
        await trio.sleep(61)
        with pytest.raises(NoSuchRunError):
            await three.open("a")


async def test_an_owner_that_wakes_is_refused_and_cancelled(autojump_clock):
    """What it appends when its lease was reaped never gets into the log."""
    released = []
    async with open_workers(2) as (broker, one, two):
        run = await one.claim("a", counting(1000, log=released))
        await trio.sleep(3.5)
        one.freeze()
        await trio.sleep(20)
        assert await read_run(await two.open("a")) == ([1, 2, 3], "owner_lost")
        head = broker.number("run:chats:a")
        one.thaw()
        await trio.sleep(10)
        assert released == ["released"]
        assert one.runs.lost == 1
        assert broker.number("run:chats:a") == head
        assert await read_run(run) == ([1, 2, 3], "owner_lost")


async def test_an_owner_whose_log_is_away_stops_before_its_lease_lapses(autojump_clock):
    """By its own clock, before any other worker may have the run."""
    released = []
    async with open_workers(2) as (_, one, two):
        await one.claim("a", counting(1000, log=released))
        await trio.sleep(3.5)
        one.view.weather = AWAY
        with trio.fail_after(15):
            while not released:  # noqa: ASYNC110  # virtual time
                await trio.sleep(0.1)
        (lease,) = (await two.view.leases(["run:chats:a"])).values()
        assert lease.seconds > 0
        one.view.weather = FINE
        assert (await read_run(await two.open("a")))[1] == "owner_lost"


async def test_a_producer_waits_for_a_log_that_is_away(autojump_clock):
    """For less than the lease: nothing is lost, and nobody notices."""
    async with open_workers(2) as (_, one, two):
        await one.claim("a", counting(20))
        await trio.sleep(3.5)
        one.view.weather = AWAY
        await trio.sleep(8)
        one.view.weather = FINE
        assert await read_run(await two.open("a")) == (list(range(1, 21)), None)


async def test_a_deploy_ends_a_run_at_once(autojump_clock):
    """Clients need not wait for the lease, and what there is is kept."""
    async with open_workers(2) as (_, one, two):
        await one.claim("a", counting(100))
        found = []

        async def read():
            found.append(await read_run(await two.open("a")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(5.5)
            await one.shut_down()
            began = trio.current_time()
        assert found == [([1, 2, 3, 4, 5], "owner_lost")]
        assert trio.current_time() - began < 1
        assert await read_run(await two.open("a")) == found[0]


async def test_any_worker_stops_a_run(autojump_clock):
    """It waits until the producer has cleaned up, and all clients end with what there is."""
    released = []
    async with open_workers(2) as (_, one, two):
        await one.claim("a", counting(100, log=released))
        await trio.sleep(4.5)
        with trio.fail_after(2):
            await two.runs.stop("a")
        assert released == ["released"]
        assert await read_run(await two.open("a")) == ([1, 2, 3, 4], None)
        assert (await two.open("a")).reason is CloseReason.STOPPED
        await two.runs.stop("a")  # it is over
        with pytest.raises(NoSuchRunError):
            await two.runs.stop("b")


async def test_who_stops_a_run_of_a_dead_worker_waits_for_its_lease(autojump_clock):
    """Then it is reaped."""
    async with open_workers(2) as (_, one, two):
        await one.claim("a", counting(100))
        await trio.sleep(3.5)
        one.freeze()
        with trio.fail_after(21):
            await two.runs.stop("a")
        assert await read_run(await two.open("a")) == ([1, 2, 3], "owner_lost")


async def test_a_run_that_nobody_reads_anywhere_is_given_up(autojump_clock):
    """A client of another worker keeps it alive; when that has left, grace runs out."""
    released = []
    async with open_workers(2, grace=12.0) as (_, one, two):
        await one.claim("a", counting(1000, log=released))
        run = await two.open("a")
        with trio.move_on_after(60):
            await read_run(run)
        assert not released
        await trio.sleep(30)
        assert released
        assert one.runs.ended == {"client_disconnected": 1}
        with pytest.raises(NoSuchRunError):
            await two.open("a")


async def test_another_worker_goes_on_with_a_run(autojump_clock):
    """Exactly one, behind what there is; clients get all of it, and no failure."""
    asked = []

    async def resume(lost):
        asked.append((lost.key, [event.data for event in lost.events], lost.after is not None))
        done = len(lost.events)

        async def produce():
            for number in range(done + 1, 11):
                await trio.sleep(1)
                yield number

        return produce

    async with open_workers(4, resume=resume) as (_, one, *others):
        await one.claim("a", counting(10))
        found = []

        async def read(worker):
            found.append(await read_run(await worker.open("a")))

        async with trio.open_nursery() as nursery:
            for worker in others:
                nursery.start_soon(read, worker)
            await trio.sleep(4.5)
            one.freeze()
        assert found == [(list(range(1, 11)), None)] * 3
        assert asked == [("a", [1, 2, 3, 4], True)]
        assert sum(worker.runs.resumed for worker in others) == 1
        one.thaw()
        await trio.sleep(5)
        assert await read_run(await one.open("a")) == (list(range(1, 11)), None)


async def test_another_worker_goes_on_at_once_after_a_deploy(autojump_clock):
    """The lease is let go; a function that gives nothing ends the run."""

    def resume(lost):
        return [len(lost.events) + 1, "the rest"] if lost.key == "a" else None

    async with open_workers(2, resume=resume) as (_, one, two):
        await one.claim("a", counting(100))
        await one.claim("b", counting(100))
        await trio.sleep(3.5)
        await one.shut_down()
        began = trio.current_time()
        assert await read_run(await two.open("a")) == ([1, 2, 3, 4, "the rest"], None)
        assert await read_run(await two.open("b")) == ([1, 2, 3], "owner_lost")
        assert trio.current_time() - began < 1


async def test_a_client_comes_back_on_another_worker(autojump_clock):
    """It goes on behind its last event; one with a strange id is told so, and gets everything."""
    async with open_workers(2) as (_, one, two):
        await one.claim("a", counting(6))
        ids = []
        async with (await one.open("a")).subscribe() as events:
            async for event in events:
                ids.append(event.id)
                if len(ids) == 3:
                    break
        run = await two.open("a")
        assert await read_run(run, after=ids[1]) == ([3, 4, 5, 6], None)
        assert await read_run(run, after=ids[-1]) == ([4, 5, 6], None)
        everything = [("gap", None), 1, 2, 3, 4, 5, 6]
        assert await read_run(run, after="strange") == (everything, None)
        assert await read_run(run, after="1aaaaaaaaaa.a3") == (everything, None)


async def test_an_error_of_the_producer_is_told_everywhere(autojump_clock):
    """Its text stays in the log of the worker."""

    async def produce():
        yield 1
        raise ValueError("a secret")

    async with open_workers(2) as (_, one, two):
        await one.claim("a", produce)
        assert await read_run(await two.open("a")) == ([1], "internal")
        assert (await two.open("a")).reason is CloseReason.ERROR


async def test_what_is_not_kept_is_a_gap(autojump_clock):
    """A client that comes late is told how many events it can't have."""
    async with open_workers(2, replay=Replay(items=5)) as (_, one, two):
        run = await one.claim("a", list(range(1, 21)))
        await run.wait()
        got, code = await read_run(await two.open("a"))
        assert code is None
        assert got[0][0] == "gap"
        assert got[1:] == list(range(got[0][1] + 1, 21))


async def test_a_worker_runs_no_more_than_it_may(autojump_clock):
    """Other workers have room of their own."""
    async with open_workers(2, max_running=1) as (_, one, two):
        await one.claim("a", counting(5))
        with pytest.raises(TooManyRunsError):
            await one.claim("b", counting(5))
        await two.claim("b", counting(5))


async def test_a_run_that_nobody_looks_at_is_ended_all_the_same(autojump_clock):
    """A worker sweeps."""
    async with open_workers(2) as (_, one, two):
        await one.claim("a", counting(100))
        await trio.sleep(3.5)
        one.freeze()
        await trio.sleep(90)
        assert two.runs.reaped == 1


async def test_an_app_uses_its_runs_from_any_worker(tmp_path):
    """What waits works over a log and in memory; what does not wait says what to write."""
    for log in (f"sqlite:///{tmp_path}/events.db", None):
        runs = Runs("chats", lease=60.0)
        async with Flowstream(log=log):
            with pytest.raises(NoSuchRunError):
                await runs.open("a")
            run = await runs.claim("a", ["hello", "world"])
            assert await run.wait() is CloseReason.COMPLETED
            opened = await runs.open("a")
            assert await read_run(opened) == (["hello", "world"], None)
            assert runs.statistics().started == 1
            endless = await runs.claim("b", counting(10**6, 0.01))
            with pytest.raises(RunExistsError):
                await runs.claim("b", ["x"])
            await runs.stop("b")
            assert endless.reason is CloseReason.STOPPED
            for call in (
                lambda runs=runs: runs.start("c", ["x"]),
                lambda runs=runs: runs.get_or_start("c", ["x"]),
                lambda runs=runs: runs["a"],
                lambda runs=runs: runs.get("a"),
                lambda runs=runs: "a" in runs,
                lambda runs=runs: len(runs),
            ):
                if log is None:
                    call()
                else:
                    with pytest.raises(RuntimeError, match=r"await runs\.claim.*await runs\.open"):
                        call()


@pytest.mark.parametrize("key", ["", "no", "\0", "x" * 5000, "\ud800", "a/b:c", "é" * 900])
async def test_a_key_that_no_run_can_have_is_a_404(tmp_path, key):
    """Whatever a client sends, it is told that there is no such run."""
    runs = Runs("chats")
    async with Flowstream(log=f"sqlite:///{tmp_path}/events.db"):
        with pytest.raises(NoSuchRunError):
            await runs.open(key)
        with pytest.raises(NoSuchRunError):
            await runs.stop(key)


async def test_a_client_that_has_the_end_is_not_served_again(tmp_path):
    """An EventSource that comes back with the id of the end gets 204, as of a run in memory."""
    runs = Runs("chats")
    async with Flowstream(log=f"sqlite:///{tmp_path}/events.db"):
        await (await runs.claim("a", ["hello", "world"])).wait()

        async def app(scope, receive, send):
            await sse(await runs.open("a"))(scope, receive, send)

        first = await collect(app)
        ids = [line[4:] for line in first.body.decode().splitlines() if line.startswith("id: ")]
        assert b"hello" in first.body
        assert b"completed" in first.body
        again = await collect(app, headers={"last-event-id": ids[-1]})
        assert again.status == 204
        rest = await collect(app, headers={"last-event-id": ids[0]})
        assert b"hello" not in rest.body
        assert b"world" in rest.body


async def test_an_answer_outlives_the_app_that_made_it(tmp_path):
    """The app is served again, and its clients find the answer."""
    url = f"sqlite:///{tmp_path}/events.db"
    runs = Runs("chats")
    async with Flowstream(log=url):
        await (await runs.claim("a", ["hello"])).wait()
    async with Flowstream(log=url):
        assert await read_run(await runs.open("a")) == (["hello"], None)


@pytest.mark.parametrize(
    "options",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "x" * 65},
        {"lease": 0},
        {"lease": float("inf")},
        {"log": "sqlite:///x"},
        {"on_owner_lost": "resume"},
    ],
)
def test_wrong_arguments_are_told_where_they_are_written(options):
    """Not when the first run is claimed."""
    with pytest.raises((TypeError, ValueError)):
        Runs(**options)
