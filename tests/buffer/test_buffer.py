"""The buffer: who waits, who is woken, and when the client is warned."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from flowstream._live_stream import BufferStatistics
from flowstream.abc import Judge, Policy, Verdict
from flowstream.buffer._event_buffer import Doorbell, EventBuffer
from flowstream.buffer._queue import Gap, Outcome
from flowstream.limits import Buffer
from flowstream.policies import Block, Conflate, DropOldest


def marked(mark: float | None, items: int = 8) -> EventBuffer:
    return EventBuffer(Buffer(items=items, warn_at=mark), Block())


def fill(buffer: EventBuffer, to: int) -> None:
    while buffer.queue.items < to:
        assert buffer.offer(b"x") is Outcome.ADMITTED
    while buffer.queue.items > to:
        buffer.take(1)


async def test_a_bell_wakes_the_task_that_waits_at_it(autojump_clock):
    """One ring, one waking."""
    bell, heard = Doorbell(), []

    async def listen():
        await bell.wait()
        heard.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await wait_all_tasks_blocked()
        assert bell.waiting
        assert not heard
        bell.ring()
        assert not bell.waiting
        bell.ring()  # nobody waits any more: nothing is left over for the next one
    assert len(heard) == 1
    with pytest.raises(trio.TooSlowError):
        with trio.fail_after(1):
            await bell.wait()


async def test_a_ring_that_nobody_waits_for_is_not_kept(autojump_clock):
    """Whoever comes later looks at the buffer first and needs no stale ring."""
    bell = Doorbell()
    bell.ring()
    bell.ring()
    with trio.move_on_after(1) as scope:
        await bell.wait()
    assert scope.cancelled_caught
    assert not bell.waiting


async def test_a_ring_between_a_cancellation_and_its_delivery_is_not_kept(autojump_clock):
    """The bell rung for a task that was already cancelled is not heard by the next."""
    bell = Doorbell()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bell.wait)
            await wait_all_tasks_blocked()
            scope.cancel()
            assert not bell.waiting  # though it has not run yet
            bell.ring()
    assert scope.cancelled_caught
    with trio.move_on_after(1) as scope:
        await bell.wait()
    assert scope.cancelled_caught


async def test_a_task_that_was_rung_for_and_then_cancelled_has_heard_it(autojump_clock):
    """The ring is not lost: whoever waits for the bell next is not the one it was meant for."""
    bell, heard = Doorbell(), []

    async def listen():
        await bell.wait()
        heard.append(True)

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await wait_all_tasks_blocked()
            bell.ring()
            scope.cancel()
    assert heard


async def test_a_task_that_comes_to_a_bell_cancelled_does_not_wait(autojump_clock):
    """Nor does it leave anything behind that a ring would wake."""
    bell = Doorbell()
    with trio.CancelScope() as scope:
        scope.cancel()
        await bell.wait()
    assert scope.cancelled_caught
    assert not bell.waiting
    bell.ring()


async def test_an_offer_wakes_a_waiting_writer_and_a_take_a_waiting_producer():
    """Each end rings at the other, and only there."""
    buffer = EventBuffer(Buffer(items=1), Block())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(buffer.filled.wait)
        await wait_all_tasks_blocked()
        buffer.take(1)
        assert buffer.filled.waiting
        buffer.offer(b"x")
        assert not buffer.filled.waiting
        nursery.start_soon(buffer.room.wait)
        await wait_all_tasks_blocked()
        assert buffer.offer(b"y") is Outcome.WAIT
        assert buffer.room.waiting
        assert buffer.take(1) == [b"x"]
        assert not buffer.room.waiting


class _DropsAll(Judge):
    behind = True

    def arrive(self, now: float, essential: bool) -> Verdict:
        return Verdict.DROP_ARRIVING


class DropAll(Policy):
    """A policy of one's own that drops even where there is room."""

    def start(self) -> Judge:
        return _DropsAll()


async def test_a_dropped_arrival_wakes_the_writer_too():
    """There is a gap to announce, though nothing was put."""
    buffer = EventBuffer(Buffer(), DropAll())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(buffer.filled.wait)
        await wait_all_tasks_blocked()
        assert buffer.offer(b"x", "1") is Outcome.DROPPED
    assert buffer.take(1) == [Gap(1, None, None)]


@pytest.mark.parametrize("end", [EventBuffer.finish, EventBuffer.abandon])
async def test_the_end_wakes_both_sides(end):
    """Neither the writer nor a producer is left waiting for the other."""
    buffer = EventBuffer(Buffer(), Block())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(buffer.filled.wait)
        nursery.start_soon(buffer.room.wait)
        await wait_all_tasks_blocked()
        end(buffer)
    assert buffer.finished


async def test_what_is_queued_at_the_finish_may_still_be_taken():
    """A finished buffer gives up what it holds, and its gaps."""
    buffer = EventBuffer(Buffer(items=1), DropOldest())
    buffer.offer(b"x", "1")
    buffer.offer(b"y", "2")
    buffer.finish()
    assert buffer.take(10) == [Gap(1, None, "2"), b"y"]


@pytest.mark.parametrize("policy", [DropOldest(), Conflate()])
async def test_what_is_queued_when_it_is_abandoned_is_counted_as_dropped(policy):
    """Nobody will take it, and no gap is made of it."""
    buffer = EventBuffer(Buffer(items=2), policy)
    for key in range(3):
        buffer.offer(b"x", key=key)
    buffer.abandon()
    assert buffer.take(10) == []
    statistics = buffer.statistics()
    assert (statistics.items, statistics.dropped, statistics.gaps) == (0, 3, 0)


async def test_statistics_say_how_full_it_is_and_what_became_of_the_offers():
    """Every number of the snapshot has its own source."""
    buffer = EventBuffer(Buffer(items=3, bytes=50), DropOldest())
    for size in (1, 2, 3, 4):
        buffer.offer(b"x" * size)
    buffer.take(2)
    assert buffer.statistics() == BufferStatistics(
        items=2, bytes=7, max_items=3, max_bytes=50, offered=4, dropped=1, gaps=1
    )


def test_there_is_no_warning_unless_asked_for():
    """The default mark is none."""
    buffer = marked(None)
    fill(buffer, 8)
    assert buffer.warning() is None


def test_the_warning_comes_once_when_the_mark_is_passed():
    """At 75 % nothing is said, above it the level and the bound, and then no more."""
    buffer = marked(0.75)
    fill(buffer, 6)
    assert buffer.warning() is None
    fill(buffer, 7)
    assert buffer.warning() == (7, 8)
    assert buffer.warning() is None
    fill(buffer, 8)
    assert buffer.warning() is None


def test_the_warning_is_armed_again_at_half_empty():
    """Five of eight is not low enough for another warning, four of eight is."""
    buffer = marked(0.75)
    fill(buffer, 8)
    assert buffer.warning() == (8, 8)
    for low, again in [(5, None), (4, (8, 8))]:
        fill(buffer, low)
        assert buffer.warning() is None
        fill(buffer, 8)
        assert buffer.warning() == again


def test_a_mark_below_half_is_armed_again_at_the_mark():
    """A buffer that stays above a low mark is warned of once, though it is half empty."""
    buffer = marked(0.25)
    fill(buffer, 4)
    assert buffer.warning() == (4, 8)
    fill(buffer, 3)
    assert buffer.warning() is None
    fill(buffer, 4)
    assert buffer.warning() is None
    fill(buffer, 2)
    assert buffer.warning() is None
    fill(buffer, 3)
    assert buffer.warning() == (3, 8)


def test_bytes_pass_the_mark_like_items():
    """A few large items fill the buffer as much as many small ones."""
    buffer = EventBuffer(Buffer(items=100, bytes=10, warn_at=0.75), Block())
    buffer.offer(b"12345678")
    assert buffer.warning() == (1, 100)


@given(st.floats(0.01, 1), st.lists(st.integers(0, 8)))
def test_between_two_warnings_the_buffer_was_half_empty_and_not_above_the_mark(mark, levels):
    """However the level moves, each warning is above the mark and has its own rise to it."""
    buffer, armed = marked(mark), True
    for level in levels:
        fill(buffer, level)
        warned = buffer.warning()
        assert (warned is not None) == (armed and level / 8 > mark)
        if warned is not None:
            armed = False
        elif level / 8 <= min(mark, 0.5):
            armed = True
