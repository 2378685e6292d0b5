"""batched: full lists at once, others when their time is up, and none lost at the end."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from flowstream import Event, PublicError
from flowstream._errors import EncodingError
from flowstream.sources import batched
from flowstream.sources._relay import Relay


async def test_a_full_list_goes_at_once_and_the_rest_at_the_end(kept, autojump_clock):
    """Seven items in threes are three lists, and no time passes."""
    await batched(range(7), 3, 10).run(kept.outlet)
    assert kept == [[0, 1, 2], [3, 4, 5], [6]]
    assert kept.times == [0, 0, 0]


async def test_a_list_goes_when_its_first_item_has_waited(kept, autojump_clock):
    """The time is that of the first item of each list, not of the last."""

    async def produce():
        for pause in (0, 0.4, 0.4, 0.4, 5):
            await trio.sleep(pause)
            yield trio.current_time()

    await batched(produce, 10, 1).run(kept.outlet)
    assert kept == [[0, 0.4, 0.8], pytest.approx([1.2]), pytest.approx([6.2])]
    assert kept.times == pytest.approx([1, 2.2, 6.2])


async def test_without_a_time_a_list_waits_to_be_full(kept, autojump_clock):
    """max_wait=None is for lists of one size."""

    async def produce():
        for n in range(3):
            yield n
            await trio.sleep(100)

    await batched(produce, 2, None).run(kept.outlet)
    assert kept == [[0, 1], [2]]
    assert kept.times == [100, 300]


async def test_what_came_before_a_failure_is_sent_before_it(kept, autojump_clock):
    """The failure then comes out as it is, not in a group."""

    async def produce():
        yield 1
        yield 2
        raise PublicError("gone", "It has gone.")

    with pytest.raises(PublicError, match="gone"):
        await batched(produce, 10, 5).run(kept.outlet)
    assert kept == [[1, 2]]


async def test_the_failure_is_told_though_the_rest_cannot_be_sent():
    """What went wrong first is what comes out; the other is noted at it."""

    async def produce():
        yield object()
        raise PublicError("gone", "It has gone.")

    async def refuse(item):
        raise EncodingError("no such thing")

    with pytest.raises(PublicError, match="gone") as caught:
        await batched(produce, 10, 5).run(Relay(refuse, dict))
    assert "no such thing" in caught.value.__notes__[0]


async def test_events_make_an_event(autojump_clock, kept):
    """The list's envelope is made of theirs: the last id and retry, the shared type and key."""
    events = [
        Event(1, id="a", type="t", key="k"),
        Event(2, id="b", type="t", key="k", essential=True, retry=5),
        Event(3, type="t", key="k"),
    ]
    await batched(events, 5, 1).run(kept.outlet)
    assert kept == [Event([1, 2, 3], id="b", type="t", key="k", essential=True, retry=5)]


async def test_another_type_begins_another_list(autojump_clock, kept):
    """Order and types stay; a key that is not that of all is none of the list's."""
    items = [1, Event(2, type="t", key=1), Event(3, type="t", key=2), Event(4, type="u"), 5, 6]
    await batched(items, 5, 1).run(kept.outlet)
    assert kept == [[1], Event([2, 3], type="t"), Event([4], type="u"), [5, 6]]


class Gate:
    """An outlet whose `send` waits until it is opened."""

    def __init__(self) -> None:
        self.items: list[object] = []
        self.reached = trio.Event()
        self.opened = trio.Event()
        self.outlet = Relay(self.take, dict, self.items.append)  # type: ignore[arg-type]

    async def take(self, item: object) -> None:
        self.reached.set()
        await self.opened.wait()
        self.items.append(item)


@pytest.mark.parametrize("late", [False, True])
async def test_two_lists_are_held_at_the_most(autojump_clock, late):
    """One on its way to a client that does not read, and one that fills; then it waits."""
    made, gate = [], Gate()

    async def produce():
        for n in range(100):
            made.append(n)
            yield n
            if late and n == 1:
                await trio.sleep(10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(batched(produce, 3, 1).run, gate.outlet)
        await trio.sleep(20)
        assert len(made) == (5 if late else 3)
        gate.opened.set()
    assert [n for batch in gate.items for n in batch] == list(range(100))
    assert max(map(len, gate.items)) == 3


@pytest.mark.parametrize("count", [0, 1])
async def test_a_list_that_is_on_its_way_at_the_end_arrives(autojump_clock, count):
    """The producer ends while the timer's list waits for the client: nothing is cut off."""
    gate = Gate()

    async def produce():
        yield 1
        await trio.sleep(2)
        for n in range(count):
            yield n

    async with trio.open_nursery() as nursery:
        nursery.start_soon(batched(produce, 3, 1).run, gate.outlet)
        await trio.sleep(10)
        gate.opened.set()
    assert gate.items == [[1], [0]][: count + 1]


async def test_the_time_of_a_list_that_was_sent_is_not_that_of_the_next(kept, autojump_clock):
    """A list that fills up in time leaves no alarm behind that would go off too early."""

    async def produce():
        for pause in (0, 0.5, 0.4, 5):
            await trio.sleep(pause)
            yield trio.current_time()

    await batched(produce, 2, 1).run(kept.outlet)
    assert kept == [[0, 0.5], [0.9], [5.9]]
    assert kept.times == [0.5, 1.9, 5.9]


async def test_send_nowait_does_not_overtake(autojump_clock):
    """While a list is on its way another cannot be sent at once."""
    gate, refused = Gate(), []

    async def produce(out):
        await out.send(1)
        await gate.reached.wait()  # the timer's list
        out.send_nowait(2)
        try:
            out.send_nowait(3)
        except trio.WouldBlock:
            refused.append(3)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(batched(produce, 2, 1).run, gate.outlet)
        await trio.sleep(10)
        gate.opened.set()
    assert gate.items == [[1], [2]]
    assert refused == [3]


async def test_a_list_that_cannot_be_sent_late_fails_the_source(autojump_clock):
    """The timer's error comes out as it is, and the producer is cancelled and cleans up."""
    log = []

    async def produce():
        try:
            yield object()
            await trio.sleep_forever()
        finally:
            await trio.sleep(1)
            log.append("cleaned up")

    async def refuse(item):
        raise EncodingError("no such thing")

    with pytest.raises(EncodingError, match="no such thing"):
        await batched(produce, 3, 1).run(Relay(refuse, dict))
    assert log == ["cleaned up"]


async def test_send_nowait_fills_and_refuses(kept, autojump_clock):
    """It adds while there is room, sends what it fills, and raises where `send` would wait."""
    refused = []

    async def produce(out):
        for n in range(4):
            out.send_nowait(n)
        with pytest.raises(trio.WouldBlock):
            out.send_nowait(Event("x", type="other"))
        refused.append(True)

    await batched(produce, 3, 1).run(kept.outlet)
    assert kept == [[0, 1, 2], [3]]
    assert refused


@given(
    st.lists(st.tuples(st.sampled_from([0, 0.1, 0.5, 1, 3]), st.sampled_from([None, "t", "u"]))),
    st.integers(1, 4),
    st.sampled_from([0.2, 1, None]),
    st.sampled_from([0, 0.3, 2]),
)
def test_every_item_arrives_once_in_order_and_in_time(steps, max_items, max_wait, lag):
    """Whatever the times of the producer and the client: the lists joined are the items."""
    sent, taken = [], []

    async def main():
        async def produce(out):
            for n, (pause, type) in enumerate(steps):
                await trio.sleep(pause)
                sent.append((n, type, trio.current_time()))
                await out.send(n if type is None else Event(n, type=type))

        async def take(item):
            taken.append((item, trio.current_time()))
            await trio.sleep(lag)

        await batched(produce, max_items, max_wait).run(Relay(take, dict))

    trio.run(main, clock=MockClock(autojump_threshold=0))
    received = []
    for item, when in taken:
        batch, type = (item.data, item.type) if isinstance(item, Event) else (item, None)
        assert 1 <= len(batch) <= max_items
        received += [(n, type) for n in batch]
        if max_wait is not None and not lag:
            assert when <= sent[batch[0]][2] + max_wait
    assert received == [(n, type) for n, type, _ in sent]


@pytest.mark.parametrize(
    "wrong", [(0, 1), (1.5, 1), (True, 1), (3, 0), (3, -1), (3, "1"), (3, float("nan"))]
)
def test_wrong_numbers_are_refused_at_the_call(wrong):
    """A list has room for an item, and a time is more than 0."""
    with pytest.raises((TypeError, ValueError), match=r"max_items|max_wait"):
        batched([1], *wrong)
