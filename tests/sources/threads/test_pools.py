"""Pools of worker threads: apart from each other, bounded, and not silent when one is exhausted.

What waits for a thread does so on the virtual clock: no thread is needed for that.
"""

from __future__ import annotations

import gc
import sqlite3
import threading
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import FrozenInstanceError, fields, replace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from flowstream import Limits, ndjson, raw, sse
from flowstream.sources import (
    ThreadPoolStatistics,
    closing_limiter,
    cursor_limiter,
    file_chunks,
    file_limiter,
    follow,
    process_limiter,
    process_output,
    sqlite_rows,
    thread_limiter,
    thread_statistics,
)
from flowstream.sources.threads._pools import Pool, Seat, pools
from flowstream.testing import collect, open_stream

LIMITERS: dict[str, Callable[[], trio.CapacityLimiter]] = {
    "iterables": thread_limiter,
    "closing": closing_limiter,
    "files": file_limiter,
    "cursors": cursor_limiter,
    "processes": process_limiter,
}


class Stuck:
    """A generator that blocks in its first item until it is let go."""

    def __init__(self) -> None:
        self.inside = 0
        self.closed = 0
        self._lock = threading.Lock()
        self.go = threading.Event()

    def __call__(self):
        with self._lock:
            self.inside += 1
        try:
            assert self.go.wait(60), "the test never let it go"
            yield 1
        finally:
            with self._lock:
                self.closed += 1


@pytest.fixture
def stuck():
    stuck = Stuck()
    yield stuck
    stuck.go.set()


@pytest.fixture
def log(caplog):
    """What was logged, as text, one a line."""
    return lambda: [r.getMessage() for r in caplog.records if "threads that" in r.getMessage()]


@asynccontextmanager
async def taken(pool: Pool):
    """Take all threads of a pool; gives their seats."""
    seats = [Seat(pool) for _ in range(int(pool.limiter.total_tokens))]
    for seat in seats:
        await seat.acquire()
    yield seats
    for seat in seats:
        seat.release()


async def waits(pool: Pool) -> None:
    """Wait for a thread, and give it back."""
    seat = Seat(pool)
    await seat.acquire()
    seat.release()


# -- apart from each other -----------------------------------------------------------------------


async def test_clients_that_leave_stuck_generators_stop_nothing_else(stuck, tmp_path, aeventually):
    """Downloads, `follow`, databases, programs and the app's own threads go on."""
    path = tmp_path / "file"
    path.write_text("one\ntwo\n")
    database = tmp_path / "database"
    sqlite3.connect(database).close()
    thread_limiter().total_tokens = 5
    limits = Limits(cleanup_timeout=0.01)
    with trio.fail_after(60):
        for number in range(1, 6):
            async with open_stream(ndjson(stuck, limits=limits)) as client:
                await aeventually(lambda n=number: stuck.inside == n, "it is inside")
                client.abort()
        now = thread_statistics()
        assert (now.iterables.limit, now.iterables.busy, now.iterables.left) == (5, 5, 5)
        assert (await collect(raw(file_chunks(path)))).body == b"one\ntwo\n"
        async with open_stream(ndjson(follow(path))) as client:
            assert (await client.next_value())["data"] == "one"
        answer = await collect(ndjson(sqlite_rows(database, "SELECT 1 AS n")))
        assert answer.body.startswith(b'{"n":1}')
        answer = await collect(ndjson(process_output(["echo", "hello"])))
        assert b"hello" in answer.body
        assert await trio.to_thread.run_sync(lambda: "free") == "free"
        assert thread_statistics().iterables.left == 5  # they exist until they return
        stuck.go.set()
        await aeventually(lambda: thread_limiter().borrowed_tokens == 0, "all have returned")
    now = thread_statistics()
    assert (now.iterables.busy, now.iterables.left) == (0, 0)
    assert stuck.closed == 5


async def test_no_pool_takes_of_trios_default_limiter(tmp_path):
    """With that exhausted by the app, all sources still work."""
    path = tmp_path / "file"
    path.write_text("one\n")
    database = tmp_path / "database"
    sqlite3.connect(database).close()
    default = trio.to_thread.current_default_thread_limiter()
    for number in range(int(default.total_tokens)):
        await default.acquire_on_behalf_of(number)
    with trio.fail_after(30):
        assert (await collect(raw(file_chunks(path)))).body == b"one\n"
        for source in (
            iter([1, 2]),
            sqlite_rows(database, "SELECT 1 AS n"),
            process_output(["echo", "hello"]),
        ):
            assert (await collect(ndjson(source))).complete
    for number in range(int(default.total_tokens)):
        default.release_on_behalf_of(number)


async def test_an_idle_generator_is_closed_while_all_threads_are_stuck_in_others():
    """Closing has threads of its own: it does not wait for what can't be interrupted."""
    closed = []

    def endless():
        try:
            while True:
                yield "x" * 1000
        finally:
            closed.append(True)

    reports = []
    response = ndjson(endless(), on_close=reports.append, limits=Limits(cleanup_timeout=60))
    with trio.fail_after(30):
        async with open_stream(response, window=0) as client:
            await client.wait_blocked()
            async with taken(pools().iterables):
                client.abort()
                await client.wait_finished()
                assert closed == [True]


@pytest.mark.parametrize("ends", ["its client leaves", "it is a HEAD"])
async def test_what_is_not_closed_in_time_is_closed_in_a_thread_later(ends, aeventually):
    """It is not left to the garbage collector, whose thread is the event loop's."""
    closed_in = []

    def endless():
        try:
            while True:
                yield "x" * 1000
        finally:
            closed_in.append(threading.get_ident())

    generator = endless()
    next(generator)
    response = ndjson(generator, limits=Limits(cleanup_timeout=0.01))
    del generator
    with trio.fail_after(30):
        async with taken(pools().closing):
            if ends == "it is a HEAD":
                async with open_stream(response, method="HEAD") as client:
                    await client.wait_finished()
            else:
                async with open_stream(response, window=0) as client:
                    await client.wait_blocked()
                    client.abort()
                    await client.wait_finished()
            del response, client
            gc.collect()
            await wait_all_tasks_blocked()
            assert closed_in == []
            assert thread_statistics().closing.waiting == 1
        await aeventually(lambda: closed_in, "it is closed")
    assert closed_in != [threading.get_ident()]


async def test_what_fails_when_it_is_closed_later_is_logged(caplog, aeventually):
    """There is nobody left to tell, and the server goes on."""

    def fail():
        raise OSError("cannot close")

    with trio.fail_after(30):
        async with taken(pools().closing):
            with trio.move_on_after(0) as scope:
                await pools().closing.run_surely(fail)
            assert scope.cancelled_caught
        await aeventually(lambda: "cannot close" in caplog.text, "it is logged")
    assert thread_statistics().closing.busy == 0


@pytest.mark.parametrize("kind", LIMITERS)
async def test_each_pool_has_a_limiter_that_an_app_can_set(kind):
    """One of forty a Trio run, and its size is what the pool goes by."""
    limiter = LIMITERS[kind]()
    assert limiter is LIMITERS[kind]()
    assert limiter is getattr(pools(), kind).limiter
    assert limiter.total_tokens == getattr(thread_statistics(), kind).limit == 40
    limiter.total_tokens = 1
    async with taken(getattr(pools(), kind)):
        assert getattr(thread_statistics(), kind).busy == 1
        others = [getattr(thread_statistics(), other).busy for other in LIMITERS if other != kind]
        assert others == [0, 0, 0, 0]


def test_each_trio_run_has_pools_of_its_own():
    """A bound that is set in one is not that of the next."""

    async def one() -> float:
        before = file_limiter().total_tokens
        file_limiter().total_tokens = 3
        return before

    assert [trio.run(one), trio.run(one)] == [40, 40]


# -- who waits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["iterables", "files", "cursors", "processes"])
async def test_a_stream_that_waits_for_a_thread_beats_and_can_be_left(
    kind, tmp_path, autojump_clock
):
    """Its head and its heartbeats are sent, and its close ends the wait at once."""
    path = tmp_path / "file"
    path.write_text("one\n")
    source = {
        "iterables": Stuck(),
        "files": follow(path),
        "cursors": sqlite_rows(path, "SELECT 1"),
        "processes": process_output(["echo"]),
    }[kind]
    reports = []
    async with taken(getattr(pools(), kind)):
        async with open_stream(sse(source, on_close=reports.append)) as client:
            await client.started()
            while client.received.count(b":") < 4:
                await client.read(1)
            assert getattr(thread_statistics(), kind).waiting == 1
            left_at = trio.current_time()
            client.abort()
            await client.wait_finished()
        assert trio.current_time() == left_at
        now = getattr(thread_statistics(), kind)
        assert (now.waiting, now.left, now.busy) == (0, 0, 40)
    assert reports[0].reason == "client_disconnected"
    assert getattr(thread_statistics(), kind).busy == 0


async def test_a_thread_whose_caller_has_left_counts_until_it_returns(stuck, aeventually):
    """It is among the busy ones, and among those that were left."""
    pool = pools().files
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.run, lambda: list(stuck()))
            await aeventually(lambda: stuck.inside == 1, "it is inside")
            assert (pool.statistics().busy, pool.statistics().left) == (1, 0)
            nursery.cancel_scope.cancel()
        assert (pool.statistics().busy, pool.statistics().left) == (1, 1)
        stuck.go.set()
        await aeventually(lambda: pool.statistics().busy == 0, "it has returned")
    assert pool.statistics().left == 0


# -- what the log and the statistics say ----------------------------------------------------------


async def test_a_long_wait_is_logged_each_minute_and_so_is_its_end(log, autojump_clock):
    """How many threads, for how long, who waits, and whose streams have ended."""
    async with trio.open_nursery() as nursery, taken(pools().files) as seats:
        seats[0].leave()
        seats[0].leave()  # as once
        await trio.sleep(9)
        nursery.start_soon(waits, pools().files)
        nursery.start_soon(waits, pools().files)
        await trio.sleep(0.9)
        assert log() == []
        await trio.sleep(60)
        assert log() == [
            "all 40 threads that read files have been busy for 10 s, and 2 streams wait for "
            "one; 1 of the threads work for streams that have ended, and count until they "
            "return"
        ]
        await trio.sleep(60)
        assert len(log()) == 2
        assert "busy for 70 s" in log()[1]
    assert log()[2:] == ["threads that read files are free again: all were busy for 130 s"]
    await trio.sleep(200)
    assert len(log()) == 3


async def test_all_busy_and_nobody_waits_is_not_logged(log, autojump_clock):
    """Nothing is wrong then; nor once those who waited have left."""
    async with taken(pools().files):
        await trio.sleep(100)
        with trio.move_on_after(0.5):
            await waits(pools().files)
        await trio.sleep(100)
    assert log() == []


async def test_a_pool_that_is_exhausted_again_and_again_is_logged_once_a_minute(
    log, autojump_clock
):
    """Two lines a minute at the most, whatever clients do; each pool has its own."""
    for _ in range(100):
        async with (
            trio.open_nursery() as nursery,
            taken(pools().files),
            taken(pools().cursors),
        ):
            nursery.start_soon(waits, pools().files)
            nursery.start_soon(waits, pools().cursors)
            await trio.sleep(3)
    for kind in ("read files", "wait for databases"):
        assert 2 <= sum(f"all 40 threads that {kind}" in line for line in log()) <= 6
        assert 2 <= sum(f"threads that {kind} are free again" in line for line in log()) <= 6


async def test_statistics_tell_for_how_long_all_threads_were_busy(autojump_clock):
    """Now, and in all; frozen values."""
    pool = pools().cursors
    free = ThreadPoolStatistics(
        limit=40, busy=0, left=0, waiting=0, exhausted=0.0, exhausted_total=0.0
    )
    assert pool.statistics() == free
    async with taken(pool):
        await trio.sleep(5)
    await trio.sleep(100)
    async with trio.open_nursery() as nursery, taken(pool):
        nursery.start_soon(waits, pool)
        await trio.sleep(2)
        assert pool.statistics() == ThreadPoolStatistics(
            limit=40, busy=40, left=0, waiting=1, exhausted=2.0, exhausted_total=7.0
        )
    assert pool.statistics() == replace(free, exhausted_total=7.0)
    assert [field.name for field in fields(thread_statistics())] == list(LIMITERS)
    with pytest.raises(FrozenInstanceError):
        thread_statistics().files.busy = 1


async def test_a_larger_limiter_ends_the_exhaustion(log, autojump_clock):
    """An operator's remedy: who waits has a thread at once, and the log says that it is over."""
    pool = pools().files
    async with trio.open_nursery() as nursery, taken(pool):
        nursery.start_soon(waits, pool)
        await trio.sleep(2)
        pool.limiter.total_tokens = 41
        await wait_all_tasks_blocked()
        assert pool.statistics().waiting == 0
        assert log()[1:] == ["threads that read files are free again: all were busy for 2 s"]


def test_statistics_outside_of_a_trio_run_are_refused():
    """They belong to one."""
    with pytest.raises(RuntimeError):
        thread_statistics()
