"""merge: everything of all sources, fairly, and one end for all."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from flowstream import Block, Buffer, Event, PublicError, SourceError, Topic, ndjson, resumable
from flowstream.decoders import NDJSONDecoder
from flowstream.sources import merge
from flowstream.sources._relay import Relay
from flowstream.testing import collect, open_stream


async def ticks(name, pauses, log=None):
    try:
        for n, pause in enumerate(pauses):
            await trio.sleep(pause)
            yield f"{name}{n}"
    finally:
        if log is not None:
            await trio.sleep(1)
            log.append(name)


async def test_items_come_as_they_are_made(kept, autojump_clock):
    """Two sources in one stream, which ends with the last of them."""
    await merge(ticks("a", [1, 2]), ticks("b", [2, 3])).run(kept.outlet)
    assert kept == ["a0", "b0", "a1", "b1"]
    assert kept.times == [1, 2, 3, 5]


async def test_events_stay_as_they_are(kept):
    """Id, type, key, essential and retry go through: it is the same object."""
    event = Event(1, id="7", type="t", key="k", essential=True, retry=9)
    await merge([event], [2]).run(kept.outlet)
    assert sorted(map(id, kept)) == sorted(map(id, [event, 2]))


async def test_the_first_failure_cancels_the_others(kept, autojump_clock):
    """They clean up undisturbed, and then it comes out as it is."""
    log = []

    async def failing():
        yield "f0"
        await trio.sleep(2)
        raise PublicError("gone", "It has gone.")

    with pytest.raises(PublicError, match="gone"):
        await merge(ticks("a", [1] * 10, log), failing, ticks("b", [9], log)).run(kept.outlet)
    assert kept == ["f0", "a0"]
    assert sorted(log) == ["a", "b"]
    assert trio.current_time() == 3


async def test_a_second_failure_is_logged(kept, caplog, autojump_clock):
    """One that fails while it is cancelled for the first is not lost."""

    async def first(out):
        await trio.sleep(1)
        raise ValueError("the first")

    async def second(out):
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("the second")

    with pytest.raises(ValueError, match="the first"):
        await merge(first, second).run(kept.outlet)
    (record,) = caplog.records
    assert "failed while it was cancelled for another" in record.message
    assert record.exc_info[0] is KeyError


async def test_a_group_of_a_source_of_ones_own_stays_one(kept):
    """What a source raises is not taken apart either."""

    async def failing(out):
        raise ExceptionGroup("two", [ValueError(1), KeyError(2)])

    with pytest.raises(ExceptionGroup, match="two"):
        await merge(failing).run(kept.outlet)


async def test_a_flood_does_not_keep_the_others_out():
    """With a client that reads all the time, and with one that is slow, each gets its turns."""

    async def flood(name):
        while True:
            yield name

    source = merge(flood("a"), flood("b"), flood("c"))
    async with open_stream(ndjson(source, buffer=16, policy=Block()), window=0) as client:
        values = [await client.next_value() for _ in range(1500)]
        client.abort()
    # Full from the first on: they take turns, item by item, but for those that become ready in
    # the same instant, which Trio shuffles.
    late = values[300:]
    assert all(380 <= late.count(name) <= 420 for name in "abc")
    assert max(len(run) for run in "".join(late).replace("b", "-").replace("c", "-").split("a")) < 6


async def test_a_flood_gives_way_while_there_is_room():
    """Where the buffer never fills a lone item does not wait for thousands of others."""

    async def flood():
        for n in range(10_000):
            yield n

    async def lone():
        for _ in range(10):
            await trio.lowlevel.checkpoint()
            yield "lone"

    answer = await collect(ndjson(merge(flood, lone), buffer=Buffer(items=20_000)))
    values = NDJSONDecoder().feed(answer.body)
    assert len(values) == 10_011
    last = max(place for place, value in enumerate(values) if value == "lone")
    assert last < 64 * 30


@given(st.lists(st.lists(st.sampled_from([0, 0.5, 1, 2]), max_size=6), min_size=1, max_size=4))
def test_nothing_is_lost_and_each_source_keeps_its_order(sources):
    """Whatever the times, the items of each source are all there, in its order."""
    taken = []

    async def take(item):
        await trio.lowlevel.checkpoint()
        taken.append(item)

    async def main():
        await merge(*(ticks(f"{n}.", pauses) for n, pauses in enumerate(sources))).run(
            Relay(take, dict)
        )

    trio.run(main, clock=MockClock(autojump_threshold=0))
    for n, pauses in enumerate(sources):
        own = [item for item in taken if item.startswith(f"{n}.")]
        assert own == [f"{n}.{m}" for m in range(len(pauses))]
    assert len(taken) == sum(map(len, sources))


async def test_sync_sources_and_wrappers_are_merged_too():
    """A thread, a list and a merge in one stream."""
    answer = await collect(ndjson(merge(iter(range(3)), ["x"], merge(["y"], ["z"]))))
    values = NDJSONDecoder().feed(answer.body)
    assert sorted(map(str, values[:-1])) == ["0", "1", "2", "x", "y", "z"]
    assert values[-1]["type"] == "end"


async def test_all_are_discarded_though_one_fails_at_it(caplog):
    """A HEAD request closes every generator; what closing raises comes out."""
    closed = []

    class Held:
        def __init__(self, name, error=None):
            self.name, self.error = name, error

        def __aiter__(self):
            raise NotImplementedError

        async def aclose(self):
            closed.append(self.name)
            if self.error:
                raise self.error

    sources = [Held("a"), Held("b", ValueError("b")), Held("c", KeyError("c")), Held("d")]
    with pytest.raises(ValueError, match="b"):
        await merge(*sources).discard()
    assert closed == ["a", "b", "c", "d"]
    assert caplog.records[0].exc_info[0] is KeyError


def test_what_cannot_be_merged_is_refused_at_the_call():
    """Nothing at all, topics, what resumes, and what is not a source."""
    with pytest.raises(TypeError, match="at least one"):
        merge()
    with pytest.raises(SourceError, match="shared by many"):
        merge([1], Topic("t"))
    with pytest.raises(SourceError, match="Last-Event-ID"):
        merge([1], resumable(lambda after: [after]))
    with pytest.raises(SourceError, match="str"):
        merge([1], "text")
