"""throttle: items at the rate that was asked for, on the virtual clock, and none dropped."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from flowstream import Event
from flowstream.sources import as_source, throttle
from flowstream.sources.shapes.throttle import _Turns


async def test_items_come_at_the_rate(kept, autojump_clock):
    """The first at once, each other one after its time."""
    await throttle(range(5), per_second=2).run(kept.outlet)
    assert kept == [0, 1, 2, 3, 4]
    assert kept.times == [0, 0.5, 1, 1.5, 2]


async def test_a_burst_goes_at_once(kept, autojump_clock):
    """So many items without a wait, then the rate again; a pause earns a new one."""

    async def produce(out):
        for n in range(5):
            await out.send(n)
        await trio.sleep(10)
        for n in range(5):
            await out.send(n)

    await throttle(produce, per_second=1, burst=3).run(kept.outlet)
    assert kept.times == [0, 0, 0, 1, 2, 12, 12, 12, 13, 14]


async def test_the_producer_waits(kept, autojump_clock):
    """Nothing is fetched ahead of its turn: that is what slows the upstream down."""
    made = []

    async def produce():
        for n in range(3):
            made.append((n, trio.current_time()))
            yield n

    await throttle(produce, per_second=0.5).run(kept.outlet)
    assert made == [(0, 0), (1, 0), (2, 2)]
    assert kept.times == [0, 2, 4]


async def test_several_tasks_take_their_turns_in_order(kept, autojump_clock):
    """Who sends first goes first, and together they keep the rate."""

    async def produce(out):
        async with trio.open_nursery() as nursery:
            for n in range(4):
                nursery.start_soon(out.send, n)
                await trio.sleep(0.01)

    await throttle(produce, per_second=1).run(kept.outlet)
    assert kept == [0, 1, 2, 3]
    assert kept.times == [0, 1, 2, 3]


async def test_send_nowait_does_not_wait_for_its_turn(kept, autojump_clock):
    """It raises before its turn, and takes it when it is there."""
    refused = []

    async def produce(out):
        out.send_nowait("a")
        with pytest.raises(trio.WouldBlock):
            out.send_nowait("b")
        refused.append(trio.current_time())
        await trio.sleep(1)
        out.send_nowait("c")
        await out.send("d")

    await throttle(produce, per_second=1).run(kept.outlet)
    assert kept == ["a", "c", "d"]
    assert kept.times == [0, 1, 2]


async def test_an_event_stays_as_it_is(kept, autojump_clock):
    """Id, type, key, essential and retry go through: it is the same object."""
    event = Event(1, id="7", type="t", key="k", essential=True, retry=9)
    await throttle([event], per_second=1).run(kept.outlet)
    assert kept[0] is event


@given(
    st.floats(0.01, 100),
    st.integers(1, 5),
    st.lists(st.floats(0, 3), min_size=1, max_size=40),
)
def test_no_window_of_time_has_more_than_the_burst_and_the_rate(rate, burst, pauses):
    """In any `t` seconds at most burst + rate * t items, and none later than it has to be."""
    turns, now, times = _Turns(1 / rate, (burst - 1) / rate), 0.0, []
    for pause in pauses:
        now += pause
        free = turns.is_free(now)
        times.append(turns.take(now))
        assert free == (times[-1] <= now)
        now = max(now, times[-1])
    for first in range(len(times)):
        for last in range(first, len(times)):
            assert last - first + 1 <= burst + rate * (times[last] - times[first]) + 1e-6
    assert times == sorted(times)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"per_second": 0}, ValueError),
        ({"per_second": "2"}, TypeError),
        ({"per_second": 1, "burst": 0}, ValueError),
        ({"per_second": 1, "burst": 1.5}, TypeError),
    ],
)
def test_wrong_numbers_are_refused_at_the_call(wrong, error):
    """A rate is more than 0, a burst 1 or more."""
    with pytest.raises(error, match=r"per_second|burst"):
        throttle([1], **wrong)


def test_it_is_a_source():
    """What it returns is handed on like any other."""
    source = throttle([1], per_second=1)
    assert as_source(source) is source
