"""Testing a slow client: without sockets, without waiting, to the byte.

    pytest examples/10_testing.py

`autojump_clock` lets Trio's time jump whenever everybody waits. `window=0` is a client that reads
nothing; `next_event()` reads one event and not a byte more.
"""

import trio

from flowstream import DropOldest, Limits, sse
from flowstream.testing import open_stream

released = []


async def ticks():
    n = 0
    try:
        while True:
            n += 1
            yield n
            await trio.sleep(1)
    finally:
        await trio.sleep(0.1)  # a rollback, a call that says goodbye
        released.append(n)


async def test_a_slow_client_is_told_what_it_missed(autojump_clock):
    async with open_stream(sse(ticks, buffer=3, policy=DropOldest()), window=0) as client:
        await trio.sleep(9.5)  # ten ticks: the first is on its way, and three stay
        assert (await client.next_event()).data == "1"
        gap = await client.next_event()
        kept = await client.next_event()
    assert (gap.type, kept.data) == ("gap", "8")
    assert '"missed":6' in gap.data


async def test_a_client_that_leaves_has_its_producer_cleaned_up(autojump_clock):
    released.clear()
    async with open_stream(sse(ticks)) as client:
        await client.next_event()
        client.abort()
        await client.wait_finished()
    assert released == [1]


async def test_a_client_that_reads_nothing_is_given_up(autojump_clock):
    reports = []
    limits = Limits(stall_timeout=5)
    async with open_stream(sse(ticks, limits=limits, on_close=reports.append), window=0) as client:
        await client.wait_finished()
    assert [report.reason for report in reports] == ["stalled"]
