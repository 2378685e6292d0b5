"""Timers: each thing is looked at when it is due, by one task that comes and goes."""

import gc
import math
import weakref

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from flowstream.tasks._timers import start_timer


async def test_each_at_its_time(autojump_clock):
    """Looks come in the order of their times, first come first where these are equal."""
    start, looks = trio.current_time(), []

    def look_of(name):
        def look(now):
            looks.append((name, round(now - start, 6)))
            return math.inf

        return look

    for name, at in (("c", 3), ("a", 1), ("b1", 2), ("b2", 2), ("now", 0), ("past", -5)):
        start_timer(start + at, look_of(name))
    await trio.sleep(10)
    assert looks == [("past", 0), ("now", 0), ("a", 1), ("b1", 2), ("b2", 2), ("c", 3)]


async def test_again_and_again(autojump_clock):
    """It is looked at again at the time that a look returns."""
    start, looks = trio.current_time(), []

    def look(now):
        looks.append(round(now - start, 6))
        return now + len(looks)

    timer = start_timer(start + 1, look)
    await trio.sleep(8)
    assert looks == [1, 2, 4, 7]
    timer.stop()
    await trio.sleep(100)
    assert len(looks) == 4


async def test_one_that_is_due_sooner_than_all(autojump_clock):
    """A timer that is started while the task sleeps wakes it in time."""
    start, looks = trio.current_time(), []
    start_timer(start + 100, lambda now: math.inf)
    await trio.sleep(1)
    start_timer(start + 2, lambda now: looks.append(now - start) or math.inf)
    await trio.sleep(5)
    assert [round(one, 6) for one in looks] == [2]


async def test_stopping_and_starting_inside_a_look(autojump_clock):
    """A look may stop itself, another that is due at the same time, and start new ones."""
    start, looks = trio.current_time(), []
    timers = {}

    def first(now):
        looks.append("first")
        timers["first"].stop()
        timers["second"].stop()
        timers["third"] = start_timer(now, lambda now: looks.append("third") or math.inf)
        return now + 1

    timers["first"] = start_timer(start + 1, first)
    timers["second"] = start_timer(start + 1, lambda now: looks.append("second") or math.inf)
    await trio.sleep(10)
    assert looks == ["first", "third"]
    for timer in timers.values():
        timer.stop()
        timer.stop()


async def test_a_look_that_fails(autojump_clock, caplog):
    """It is logged and not called again; the others are looked at."""
    looks = []

    def fails(now):
        looks.append("fails")
        raise ValueError("broken")

    start = trio.current_time()
    start_timer(start + 1, fails)
    start_timer(start + 1, lambda now: looks.append("good") or now + 1)
    await trio.sleep(3.5)
    assert looks == ["fails", "good", "good", "good"]
    assert caplog.text.count("a timer failed") == 1
    caplog.clear()


def timer_tasks():
    return [
        task
        for nursery in trio.lowlevel.current_root_task().child_nurseries
        for task in nursery.child_tasks
        if task.name == "flowstream timers"
    ]


async def test_the_task_ends_with_the_last_timer(autojump_clock):
    """There is a task while there are timers, one, and a new one when there are some again."""
    for _ in range(3):
        assert timer_tasks() == []
        start_timer(trio.current_time() + 1, lambda now: math.inf)
        start_timer(trio.current_time() + 2, lambda now: math.inf)
        assert len(timer_tasks()) == 1
        await trio.sleep(3)


async def test_many(autojump_clock):
    """Thousands are looked at in order, and others run in between."""
    start, looks, between = trio.current_time(), [], []
    for number in range(2000):
        start_timer(start + 1, lambda now, number=number: looks.append(number) or math.inf)

    async def other():
        await trio.sleep_until(start + 1)
        while len(looks) < 2000:
            between.append(len(looks))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
    assert looks == list(range(2000))
    assert len(between) >= 20


async def test_what_was_stopped_is_not_held(autojump_clock):
    """A stopped timer holds nothing of what it looked at, and its entry goes, too."""

    class Thing:
        def look(self, now):
            return now + 1

    references, timers = [], []
    keep = start_timer(trio.current_time() + 1000, lambda now: math.inf)
    for _ in range(500):
        thing = Thing()
        references.append(weakref.ref(thing))
        timers.append(start_timer(trio.current_time() + 1000, thing.look))
    del thing
    for timer in timers:
        timer.stop()
    gc.collect()
    assert not any(reference() for reference in references)
    assert len(keep._timers._heap) < 200
    keep.stop()
    await wait_all_tasks_blocked()


def test_one_run_after_the_other():
    """Each Trio run of a process has timers of its own, whatever the one before left."""
    looks = []

    async def run():
        start_timer(trio.current_time() + 1, lambda now: looks.append(1) or math.inf)
        start_timer(trio.current_time() + 1000, lambda now: looks.append(2) or math.inf)
        await trio.sleep(2)

    for _ in range(3):
        trio.run(run, clock=MockClock(autojump_threshold=0))
    assert looks == [1, 1, 1]
