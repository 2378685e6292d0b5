"""with_timeout: a silent producer fails, a slow client does not, on the virtual clock."""

from __future__ import annotations

import contextlib
import json
import logging

import pytest
import trio

from flowstream import Event, Limits, ndjson, sse
from flowstream._errors import PublicError, UpstreamError
from flowstream.sources import with_timeout
from flowstream.sources._relay import Relay
from flowstream.testing import collect, open_stream


def paused(*pauses, log=None, cleanup=0.0):
    async def produce():
        try:
            for n, pause in enumerate(pauses):
                await trio.sleep(pause)
                yield n
        finally:
            await trio.sleep(cleanup)
            if log is not None:
                log.append("cleaned up")

    return produce


@pytest.mark.parametrize(
    ("pauses", "times", "ends", "items"),
    [
        ((1, 1, 1), {"first": 2, "between": 2}, None, [0, 1, 2]),
        ((3,), {"first": 2}, 2, []),
        ((3, 3), {"first": 4}, None, [0, 1]),
        ((3, 3), {"between": 2}, 5, [0]),
        ((9, 1, 1), {"between": 2}, None, [0, 1, 2]),
        ((1, 1, 3), {"first": 100, "between": 2}, 4, [0, 1]),
        ((1, 5, 5), {"first": 2, "between": 6}, None, [0, 1, 2]),
        ((), {"first": 1}, None, []),
    ],
)
async def test_the_two_times(kept, autojump_clock, pauses, times, ends, items):
    """`first` is for the first item only, `between` for each after it."""
    manager = contextlib.nullcontext() if ends is None else pytest.raises(UpstreamError)
    with manager as caught:
        await with_timeout(paused(*pauses), **times).run(kept.outlet)
    assert kept == items
    if ends is None:
        assert trio.current_time() == sum(pauses)
        return
    assert trio.current_time() == ends
    error = caught.value
    assert (error.code, error.status, error.retryable) == ("timeout", 504, True)


async def test_the_end_is_waited_for_no_longer_than_an_item(kept, autojump_clock):
    """An upstream that neither sends nor ends is silent, too."""

    async def produce(out):
        await out.send(1)
        await trio.sleep_forever()

    with pytest.raises(UpstreamError, match=r"Nothing has come for 3 s\."):
        await with_timeout(produce, between=3).run(kept.outlet)


async def test_the_time_of_a_slow_client_does_not_count(autojump_clock):
    """An item may wait as long as it takes; the time begins when it is taken."""
    taken = []

    async def take(item):
        await trio.sleep(100)
        taken.append(item)

    await with_timeout(paused(1, 1, 1), first=2, between=2).run(Relay(take, dict))
    assert taken == [0, 1, 2]
    assert trio.current_time() == 303


async def test_while_one_task_waits_for_the_client_the_others_may_be_silent(autojump_clock):
    """The clock stands still until the last of them is through."""
    taken = []

    async def take(item):
        await trio.sleep(item)
        taken.append(item)

    async def produce(out):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(out.send, 10)
            nursery.start_soon(out.send, 20)
        await trio.sleep_forever()

    with pytest.raises(UpstreamError):
        await with_timeout(produce, between=5).run(Relay(take, dict))
    assert taken == [10, 20]
    assert trio.current_time() == 25


async def test_the_producer_cleans_up_before_the_failure_is_told(kept, autojump_clock):
    """It is cancelled once; what it awaits then runs to its end."""
    log = []
    with pytest.raises(UpstreamError):
        await with_timeout(paused(1, 9, log=log, cleanup=2), between=3).run(kept.outlet)
    assert log == ["cleaned up"]
    assert trio.current_time() == 6


async def test_a_failure_of_the_producer_comes_out_as_it_is(kept, autojump_clock):
    """In time it is no timeout, and in no group."""

    async def produce(out):
        await trio.sleep(1)
        raise PublicError("gone", "It has gone.")

    with pytest.raises(PublicError, match="gone"):
        await with_timeout(produce, first=2).run(kept.outlet)


async def test_a_failing_cleanup_does_not_hide_the_timeout(kept, caplog, autojump_clock):
    """The client is told of the timeout, the log of what came after."""

    async def produce(out):
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("while it was closed")

    with pytest.raises(UpstreamError, match="timeout"):
        await with_timeout(produce, first=2).run(kept.outlet)
    assert "while it was closed" in str(caplog.records[0].exc_info[1])


async def test_events_and_send_nowait_go_through(kept, autojump_clock):
    """An event is the same object; an item put without waiting is a sign of life as well."""
    event = Event(1, id="7", type="t", key="k", essential=True, retry=9)

    async def produce(out):
        await out.send(event)
        for n in range(5):
            await trio.sleep(1)
            out.send_nowait(n)

    await with_timeout(produce, between=1.5).run(kept.outlet)
    assert kept[0] is event
    assert kept[1:] == [0, 1, 2, 3, 4]


async def test_primed_it_is_a_504_and_later_a_failed_event(autojump_clock):
    """Before the first item the client gets a status, afterwards an event."""
    answer = await collect(ndjson(with_timeout(paused(60), first=10), prime=30))
    assert answer.status == 504
    assert json.loads(answer.body)["code"] == "timeout"
    answer = await collect(ndjson(with_timeout(paused(1, 60), between=10), prime=30))
    assert answer.status == 200
    *_, failed = answer.body.splitlines()
    assert json.loads(failed)["data"] == {
        "code": "timeout",
        "message": "Nothing has come for 10 s.",
    }


async def test_a_client_that_goes_is_no_timeout(caplog, autojump_clock):
    """Also when the time passes while the producer cleans up: nothing is logged as a failure."""
    caplog.set_level(logging.INFO)
    log = []
    source = with_timeout(paused(1, 100, log=log, cleanup=4), between=2)
    reports = []
    async with open_stream(sse(source, on_close=reports.append)) as client:
        await trio.sleep(2)
        client.abort()
        await client.wait_finished()
    assert log == ["cleaned up"]
    assert [report.reason for report in reports] == ["client_disconnected"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_cleanup_that_hangs_is_cut_off(caplog, autojump_clock):
    """After a timeout it has `cleanup_timeout` seconds, as at any other end."""
    source = with_timeout(paused(9, cleanup=1000), first=2)
    answer = await collect(ndjson(source, limits=Limits(cleanup_timeout=3)))
    assert b"timeout" in answer.body
    assert trio.current_time() == 5


@pytest.mark.parametrize("wrong", [{"first": 0}, {"between": -1}, {"first": "1"}, {}])
def test_wrong_numbers_are_refused_at_the_call(wrong):
    """One of the times at least, and each more than 0."""
    with pytest.raises((TypeError, ValueError), match=r"first|between"):
        with_timeout([1], **wrong)
