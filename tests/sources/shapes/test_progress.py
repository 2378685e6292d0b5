"""progress: how far a source is, between its items, on the virtual clock."""

from __future__ import annotations

import json

import pytest
import trio

from flowstream import Conflate, Event, csv, raw, resumable, sse
from flowstream._errors import PublicError
from flowstream.sources import Progress, progress, with_timeout
from flowstream.testing import collect, open_stream


def every(seconds, count, *, ids=False):
    async def produce():
        for n in range(count):
            await trio.sleep(seconds)
            yield Event(n, id=f"i{n}") if ids else n

    return produce


def told(kept):
    return [item for item in kept if isinstance(item, Event) and item.type == "progress"]


async def test_it_tells_once_in_a_while_and_at_the_end(kept, autojump_clock):
    """Behind the first item after each interval, with what was sent by then."""
    await progress(every(0.4, 7), every=1).run(kept.outlet)
    assert [item for item in kept if not isinstance(item, Event)] == list(range(7))
    assert [event.data.items for event in told(kept)] == [3, 6, 7]
    assert kept[3].type == kept[7].type == kept[9].type == "progress"
    assert told(kept)[0].data == Progress(
        items=3,
        seconds=1.2,
        rate=2.5,
        total=None,
        fraction=None,
        seconds_left=None,
    )


async def test_with_a_total_it_says_how_much_is_left(kept, autojump_clock):
    """The fraction, and the seconds at the rate so far."""
    await progress(every(0.5, 8), every=2, total=8).run(kept.outlet)
    first, second, last = told(kept)
    assert (first.data.fraction, first.data.seconds_left) == (0.5, 2)
    assert (second.data.items, second.data.fraction, second.data.seconds_left) == (8, 1.0, 0)
    assert (last.data.items, last.data.rate, last.data.total) == (8, 2, 8)


async def test_a_total_that_was_too_small_is_no_more_than_all(kept, autojump_clock):
    """An estimate may be wrong; the fraction stays within 1."""
    await progress(every(1, 4), every=1, total=2).run(kept.outlet)
    assert [event.data.fraction for event in told(kept)] == [0.5, 1, 1, 1, 1]
    assert all(event.data.seconds_left >= 0 for event in told(kept))


async def test_nothing_at_all_is_told_of_too(kept, autojump_clock):
    """An empty source has one event, without a rate."""
    await progress([], total=5).run(kept.outlet)
    assert told(kept)[0].data == Progress(
        items=0,
        seconds=0.0,
        rate=None,
        total=5,
        fraction=0.0,
        seconds_left=None,
    )


async def test_none_of_none_is_all(kept):
    """A table without rows is exported to its end."""
    await progress([], total=0).run(kept.outlet)
    assert (kept[0].data.items, kept[0].data.fraction) == (0, 1.0)


async def test_the_last_one_is_essential_and_a_failure_has_none(kept, autojump_clock):
    """The end is told for certain; a failure tells itself."""

    async def failing():
        yield 1
        raise PublicError("gone", "It has gone.")

    await progress(every(1, 2), every=1).run(kept.outlet)
    assert [event.essential for event in told(kept)] == [False, False, True]
    kept.clear()
    with pytest.raises(PublicError, match="gone"):
        await progress(failing).run(kept.outlet)
    assert kept == [1]


async def test_conflate_keeps_the_newest_for_a_slow_client(autojump_clock):
    """They have one key, so a client that reads nothing has one of them waiting."""

    async def rows():
        for n in range(50):
            await trio.sleep(0.5)
            yield Event(n, key=n)

    source = progress(rows, every=1)
    async with open_stream(sse(source, buffer=60, policy=Conflate()), window=0) as client:
        await trio.sleep(28)
        events = [event async for event in client]
    seen = [json.loads(event.data)["items"] for event in events if event.type == "progress"]
    numbers = [json.loads(event.data) for event in events if event.type == "message"]
    assert numbers == list(range(50))
    assert seen == [50, 50]  # the newest, and the last, which is essential


async def test_it_has_the_id_of_the_item_in_front_of_it(autojump_clock):
    """A client that resumes at one misses nothing, and repeats nothing."""

    async def history(after):
        start = 0 if after is None else int(after[1:]) + 1
        for n in range(start, 4):
            await trio.sleep(1)
            yield Event(n, id=f"i{n}")

    source = progress(resumable(history), every=1)
    whole = await collect(sse(source))
    assert b'id: i1\ndata: {"type":"progress","items":2' in whole.body
    rest = await collect(sse(source), headers={"last-event-id": "i1"})
    assert rest.status == 200
    assert b"data: 2\n" in rest.body
    assert b"data: 1\n" not in rest.body


async def test_events_and_send_nowait_go_through(kept, autojump_clock):
    """An event is the same object; what was put without waiting is counted."""
    event = Event(1, id="7", type="t", key="k", essential=True, retry=9)

    async def produce(out):
        await out.send(event)
        out.send_nowait(2)

    await progress(produce, key=("mine", 1)).run(kept.outlet)
    assert kept[0] is event
    assert kept[1] == 2
    assert (kept[2].data.items, kept[2].key, kept[2].id) == (2, ("mine", 1), "7")


@pytest.mark.parametrize(
    "wrong",
    [
        {"every": 0},
        {"every": "1"},
        {"total": -1},
        {"total": float("nan")},
        {"total": "9"},
        {"key": []},
    ],
)
def test_wrong_arguments_are_refused_at_the_call(wrong):
    """Times and totals are more than 0, a key can be looked up."""
    with pytest.raises((TypeError, ValueError), match=r"every|total|unhashable"):
        progress([1], **wrong)


async def test_a_table_tells_a_function(autojump_clock):
    """The rows are all that is sent, and whoever else wants to know is told how far they are."""
    heard = []

    async def rows():
        for n in range(3):
            await trio.sleep(1)
            yield [n]

    answer = await collect(csv(progress(rows, every=1, total=3, tell=heard.append)))
    assert answer.body == b"0\r\n1\r\n2\r\n"
    assert [(told.items, told.total) for told in heard] == [(1, 3), (2, 3), (3, 3), (3, 3)]


@pytest.mark.parametrize("make", [csv, raw])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_format_without_room_for_it_refuses_it_at_the_call(make, wrapped):
    """With what to write instead."""
    source = progress([[1]])
    with pytest.raises(TypeError, match="tell=function"):
        make(with_timeout(source, between=60) if wrapped else source)


def test_a_function_that_would_have_to_be_awaited_is_refused():
    """Nobody would."""

    async def tell(_):
        """Wait."""

    with pytest.raises(TypeError, match="tell must be a plain function"):
        progress([1], tell=tell)
