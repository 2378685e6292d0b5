"""What all wrappers have in common: whom they wrap, and that nothing outlives the client."""

from __future__ import annotations

import contextlib
import contextvars
import threading
from functools import partial

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from flowstream import Event, Limits, Runs, SourceError, Topic, ndjson, raw, resumable, sse
from flowstream._errors import UpstreamError
from flowstream.event_types import EventTypes
from flowstream.quart import Flowstream
from flowstream.sources import (
    Resumable,
    Source,
    batched,
    checked,
    merge,
    progress,
    throttle,
    with_timeout,
)
from flowstream.sources._shielding import run_cancelled_once
from flowstream.testing import collect, open_stream


class Anything(EventTypes):
    """Any event at all, for what is not about events."""

    def __init__(self):
        pass

    def check(self, data):
        return data


WRAPPERS = {
    "throttle": partial(throttle, per_second=1000, burst=100),
    "batched": partial(batched, max_items=2, max_wait=1),
    "merge": merge,
    "with_timeout": partial(with_timeout, first=1000, between=1000),
    "progress": partial(progress, every=1),
    "checked": partial(checked, events=Anything()),
}

PLAIN = [name for name in WRAPPERS if name != "merge"]


def nested(source):
    """Put all of them around `source`."""
    for name, wrapper in WRAPPERS.items():
        source = source if name == "nested" else wrapper(source)
    return source


WRAPPERS["nested"] = nested
every_wrapper = pytest.mark.parametrize("shape", WRAPPERS.values(), ids=WRAPPERS)
every_plain_wrapper = pytest.mark.parametrize("name", PLAIN)


class Watched:
    """A source's life: what it was told, when, and whether it came to its end."""

    def __init__(self, cleanup: float = 1.0) -> None:
        self.cancelled_at: float | None = None
        self.cleaned_up_at: float | None = None
        self.cancelled = 0
        self._cleanup = cleanup

    async def generate(self):
        try:
            yield 1
            await self._wait()
        finally:
            await trio.sleep(self._cleanup)
            self.cleaned_up_at = trio.current_time()

    async def flood(self):
        try:
            while True:
                yield "x" * 100
        finally:
            self.cancelled_at = trio.current_time()
            await trio.sleep(self._cleanup)
            self.cleaned_up_at = trio.current_time()

    async def compute(self, out):
        try:
            while True:
                await trio.lowlevel.checkpoint()
        finally:
            self.cancelled_at = trio.current_time()
            await trio.sleep(self._cleanup)
            self.cleaned_up_at = trio.current_time()

    async def _wait(self):
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            self.cancelled += 1
            self.cancelled_at = trio.current_time()
            raise


@every_wrapper
async def test_the_clients_abort_reaches_the_source_at_once_and_cleanup_is_shielded(
    shape, autojump_clock
):
    """In the same instant, once; what it awaits then is completed, and the stream waits."""
    watched, reports = Watched(), []
    async with open_stream(ndjson(shape(watched.generate), on_close=reports.append)) as client:
        await trio.sleep(7)
        client.abort()
        await client.wait_finished()
        assert trio.current_time() == 8
    assert (watched.cancelled, watched.cancelled_at, watched.cleaned_up_at) == (1, 7, 8)
    assert [report.reason for report in reports] == ["client_disconnected"]


@every_wrapper
async def test_a_source_that_waits_for_the_client_is_cancelled_as_well(shape, autojump_clock):
    """The client reads nothing, the buffer is full, and then it goes."""
    watched = Watched()
    async with open_stream(ndjson(shape(watched.flood), buffer=2), window=0) as client:
        await client.wait_blocked()
        await trio.sleep(5)
        client.abort()
        await client.wait_finished()
    assert (watched.cancelled_at, watched.cleaned_up_at) == (5, 6)


@every_wrapper
async def test_a_source_that_never_rests_is_cancelled_as_well(shape, autojump_clock):
    """It is runnable at the moment of the abort, in a checkpoint: it is told, and shielded."""
    watched = Watched()
    async with open_stream(ndjson(shape(watched.compute))) as client:
        for _ in range(50):
            await trio.lowlevel.checkpoint()
        client.abort()
        await client.wait_finished()
    assert watched.cleaned_up_at == watched.cancelled_at + 1


@every_wrapper
async def test_a_cleanup_that_hangs_has_its_deadline(shape, autojump_clock, caplog):
    """`cleanup_timeout` seconds are what it has, however many wrappers are around it."""
    watched = Watched(cleanup=1000)
    response = ndjson(shape(watched.generate), limits=Limits(cleanup_timeout=3))
    async with open_stream(response) as client:
        await trio.sleep(2)
        client.abort()
        await client.wait_finished()
        assert trio.current_time() == 5
    assert watched.cleaned_up_at is None


@every_wrapper
async def test_what_fails_comes_out_as_it_is(shape, kept, autojump_clock):
    """The very exception, in no group."""
    mine = RuntimeError("mine")

    async def failing():
        yield 1
        await trio.sleep(2)
        raise mine

    with pytest.raises(RuntimeError) as caught:
        await shape(failing).run(kept.outlet)
    assert caught.value is mine


@every_wrapper
async def test_an_item_that_cannot_be_encoded_fails_the_stream_as_ever(shape, autojump_clock):
    """The producer gets the error, or is cancelled; the client is told `encoding`."""

    async def produce():
        yield object()
        await trio.sleep_forever()

    answer = await collect(ndjson(shape(produce)))
    assert b'"code":"encoding"' in answer.body


@every_wrapper
async def test_a_source_that_never_runs_is_discarded(shape):
    """A HEAD request closes what was handed over."""
    closed = []

    class Held:
        def __aiter__(self):
            raise NotImplementedError

        async def aclose(self):
            closed.append(1)

    answer = await collect(ndjson(shape(Held())), method="HEAD")
    assert answer.status == 200
    assert closed == [1]


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@every_wrapper
async def test_contextvars_are_those_of_the_view(shape):
    """A producer sees them, can set and reset its own, and its cleanup sees these."""
    seen = []

    async def produce():
        seen.append(variable.get())
        token = variable.set("the producer's")
        try:
            yield 1
            yield 2
        finally:
            seen.append(variable.get())
            variable.reset(token)

    variable.set("the view's")
    await collect(ndjson(shape(produce)))
    assert seen == ["the view's", "the producer's"]


@every_wrapper
async def test_a_producers_nursery_keeps_trios_rules(shape, autojump_clock):
    """Its tasks are cancelled with it, and its own shields hold."""
    log = []

    async def child():
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            log.append("child")

    async def produce(out):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            await out.send(1)
            with trio.move_on_after(3):  # a time-out of its own, long before the abort
                await trio.sleep_forever()
            log.append("went on")
            await trio.sleep_forever()

    async with open_stream(ndjson(shape(produce))) as client:
        await trio.sleep(6)
        client.abort()
        await client.wait_finished()
    assert log == ["went on", "child"]


@every_wrapper
@pytest.mark.parametrize("shared", [Topic("one"), [Topic("two"), Topic("three")]])
def test_what_clients_share_is_refused_at_the_call(shape, shared):
    """With a message that says what to do instead."""
    with pytest.raises(SourceError, match=r"subscribe, `async with topic.subscribe\(\)"):
        shape(shared)


@every_plain_wrapper
async def test_a_subscription_is_wrapped_in_a_producer(name, autojump_clock):
    """As the message says: events of a topic, shaped for one client."""
    topic = Topic("prices")

    async def shaped(out):
        async with topic.subscribe() as events:
            await WRAPPERS[name](events).run(out)

    async with open_stream(ndjson(shaped)) as client:
        await wait_all_tasks_blocked()
        await topic.publish({"n": 1}, type="price")
        value = await client.next_value()
    assert value["type"] == "price"
    assert value["data"] in ({"n": 1}, [{"n": 1}])


@every_plain_wrapper
async def test_what_resumes_does_so_wrapped(name, autojump_clock):
    """The function is told what the client saw last."""
    asked = []

    async def history(after):
        asked.append(after)
        for n in range(4):
            if after is None or n > int(after):
                yield Event(n, id=str(n))

    source = WRAPPERS[name](resumable(history))
    assert isinstance(source, Resumable)
    whole = await collect(sse(source))
    rest = await collect(sse(source), headers={"last-event-id": "1"})
    assert asked == [None, "1"]
    assert b"id: 3\n" in whole.body
    assert b"id: 3\n" in rest.body
    assert b"id: 1\n" not in rest.body


class Part(Source):
    """A source that knows what its response is to be."""

    status = 206
    headers = (("Content-Range", "bytes 0-3/9"),)
    length = 4

    async def run(self, out):
        await out.send(b"abcd")


@every_plain_wrapper
async def test_a_response_is_the_inner_sources_where_the_items_are(name):
    """Status, headers and length go through, but not around items that are others."""
    source = WRAPPERS[name](Part())
    if name in ("throttle", "with_timeout", "checked"):
        answer = await collect(raw(source))
        assert (answer.status, answer.body) == (206, b"abcd")
        assert answer.headers["content-range"] == "bytes 0-3/9"
        assert answer.headers["content-length"] == "4"
    else:
        assert (source.status, source.headers, source.length) == (None, (), None)


@every_wrapper
@pytest.mark.parametrize(("cleanup", "ended"), [(1, 5), (2.5, 6), (1000, 6)])
async def test_run_in_a_producer_it_is_cancelled_like_any_await(
    shape, cleanup, ended, autojump_clock
):
    """Nothing behind it runs for a client that has gone; all cleanup has one deadline."""
    watched, log = Watched(cleanup), []

    async def produce(out):
        try:
            await shape(watched.generate).run(out)
            log.append("went on")
        finally:
            await trio.sleep(1)
            log.append("cleaned up")

    async with open_stream(ndjson(produce, limits=Limits(cleanup_timeout=3))) as client:
        await trio.sleep(3)
        client.abort()
        await client.wait_finished()
        assert trio.current_time() == ended
    assert "went on" not in log
    assert (log == ["cleaned up"]) == (ended == 5)


async def test_who_goes_on_after_a_timeout_has_all_of_its_cleanup_later(autojump_clock):
    """What one source took for its cleanup is not taken from the next."""
    first, second = Watched(cleanup=2), Watched(cleanup=2)

    async def produce(out):
        for watched in (first, second):
            with contextlib.suppress(UpstreamError):
                await with_timeout(merge(watched.generate), between=5).run(out)

    async with open_stream(ndjson(produce, limits=Limits(cleanup_timeout=3))) as client:
        await trio.sleep(9)
        client.abort()
        await client.wait_finished()
    assert (first.cancelled_at, first.cleaned_up_at) == (5, 7)
    assert (second.cancelled_at, second.cleaned_up_at) == (9, 11)


async def test_a_sheltered_task_is_told_even_if_its_parent_comes_first(autojump_clock):
    """All orders in which Trio may run the tasks after an abort come to the same end."""
    for _ in range(30):
        watched = [Watched() for _ in range(3)]
        start = trio.current_time()
        scope = trio.CancelScope(shield=True)
        source = with_timeout(merge(*(one.generate for one in watched)), first=1000)

        async def run(source=source, scope=scope):
            async def drop(item):
                await trio.lowlevel.checkpoint()

            from flowstream.sources._relay import Relay

            with scope:
                await run_cancelled_once(source.run(Relay(drop, dict)), scope, 5.0)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await trio.sleep(1)
            scope.cancel()
        assert [one.cancelled for one in watched] == [1, 1, 1]
        assert [one.cleaned_up_at for one in watched] == [start + 2] * 3


@every_wrapper
async def test_in_a_run_it_is_stopped_like_any_source(shape, autojump_clock):
    """A stop is told once, cleanup is shielded, and who attached is told of the end."""
    watched, runs = Watched(), Runs(grace=30)
    async with (
        Flowstream(),
        open_stream(ndjson(runs.start("k", shape(watched.generate)))) as client,
    ):
        await trio.sleep(2)
        await runs.stop("k")
        await client.wait_finished()
    assert (watched.cancelled, watched.cancelled_at, watched.cleaned_up_at) == (1, 2, 3)
    assert b'"reason":"stopped"' in client.received


@every_wrapper
async def test_a_thread_is_left_and_its_generator_closed(shape, aeventually):
    """The client goes while `next()` runs: the stream waits for it, and closes what it iterates."""
    reached, release, closed = threading.Event(), threading.Event(), []

    def generate():
        try:
            yield 1
            reached.set()
            release.wait(30)
            yield 2
        finally:
            closed.append(1)

    async with open_stream(ndjson(shape(generate))) as client:
        await aeventually(reached.is_set, "the generator is in its next()")
        client.abort()
        await wait_all_tasks_blocked()
        assert not closed
        release.set()
        await client.wait_finished()
    assert closed == [1]


async def test_on_a_socket_the_abort_reaches_all_of_it(server, client, aeventually):
    """A client that closes its connection ends the threads, tasks and timers behind it."""
    watched = [Watched(cleanup=0) for _ in range(3)]
    reports = []

    async def app(scope, receive, send):
        source = nested(merge(*(one.generate for one in watched)))
        await ndjson(source, on_close=reports.append)(scope, receive, send)

    url = await server(app)
    connection = await trio.to_thread.run_sync(client, url)
    connection.get()
    await trio.to_thread.run_sync(connection.read_until, b"[1,1]")
    gone = trio.current_time()
    connection.socket.close()
    await aeventually(lambda: reports, "the stream is over")
    assert [report.reason for report in reports] == ["client_disconnected"]
    assert [one.cancelled for one in watched] == [1, 1, 1]
    assert all(one.cleaned_up_at - gone < 5 for one in watched)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([name for name in WRAPPERS if name != "nested"]), max_size=4),
    st.lists(st.sampled_from([0, 0.1, 1, 2.5]), max_size=8),
    st.sampled_from([0, 0.1, 1, 2, 3.5, 100]),
    st.sampled_from([0, 0.5, 2, 50]),
    st.sampled_from([0, 30, None]),
)
def test_whenever_the_client_goes_all_is_cleaned_up_once(names, pauses, goes, cleanup, window):
    """Any nest of wrappers, any times: one report, one cleanup, within its deadline, at once."""
    log, reports = [], []

    async def produce():
        whole = False
        try:
            for n, pause in enumerate(pauses):
                await trio.sleep(pause)
                yield n
            whole = True
        finally:
            start = trio.current_time()
            try:
                await trio.sleep(cleanup)
            finally:
                log.append((whole, start, trio.current_time()))

    async def main():
        source = produce
        for name in names:
            source = WRAPPERS[name](source)
        limits = Limits(cleanup_timeout=3, stall_timeout=1000)
        response = ndjson(source, buffer=2, limits=limits, on_close=reports.append)
        async with open_stream(response, window=window) as client:
            await trio.sleep(goes)
            client.abort()
            await client.wait_finished()
            return trio.current_time()

    finished = trio.run(main, clock=MockClock(autojump_threshold=0))
    assert len(reports) == 1
    if not log:  # it had not run a line yet
        assert goes == 0
        return
    ((whole, start, end),) = log
    if whole:  # it ended by itself, and may have been cancelled while it cleaned up
        assert start <= goes
        assert end == min(start + cleanup, goes) or (start == goes and end <= goes + 3)
    else:
        assert (start, end) == (goes, goes + min(cleanup, 3))
    assert finished == max(goes, end)
