"""Sync iterables, read in worker threads: in order, at once, closed once, never in two.

These run on the real clock: a virtual one takes a thread that works for silence. Nothing
sleeps; threads and tasks wait for each other by events.
"""

from __future__ import annotations

import contextvars
import threading
from contextlib import suppress

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from flowstream._errors import EncodingError
from flowstream.sources import as_source, thread_limiter
from flowstream.sources._shielding import run_cancelled_once
from flowstream.sources.threads._threaded_iteration import ThreadedIteration, _tell

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")


class Gate:
    """What a generator in a thread waits at, and how the test knows that it is there."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._open = threading.Event()
        self.reached = trio.Event()
        self.left = trio.Event()

    def wait(self) -> None:
        self._token.run_sync_soon(self.reached.set)
        assert self._open.wait(30), "the test never opened the gate"

    def open(self) -> None:
        self._open.set()

    def leave(self) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self.left.set)


class Recorded:
    """A generator, and what happened to it and in which threads."""

    def __init__(self, items, *, gate: Gate | None = None, fail: BaseException | None = None):
        self.closed = 0
        self.threads: set[int] = set()
        self._items = items
        self._gate = gate
        self._fail = fail

    def generate(self):
        try:
            for item in self._items:
                self.threads.add(threading.get_ident())
                yield item
            if self._gate is not None:
                self._gate.wait()
            if self._fail is not None:
                raise self._fail
        finally:
            self.closed += 1
            self.threads.add(threading.get_ident())
            if self._gate is not None:
                self._gate.leave()


async def test_items_are_sent_in_order_over_many_batches(outlet):
    """A thousand rows take several hops, and none is lost or twice between them."""
    recorded = Recorded(range(1000))
    await as_source(recorded.generate()).run(outlet)
    assert outlet.items == list(range(1000))
    assert recorded.closed == 1
    assert threading.get_ident() not in recorded.threads


async def test_a_generator_function_is_called_in_the_thread(outlet):
    """What opens a database connection in its first line does not hold the event loop."""
    recorded = Recorded([1])
    called = []

    def generate():
        called.append(threading.get_ident())
        yield from recorded.generate()

    source = as_source(generate)
    await source.discard()
    assert called == []
    await source.run(outlet)
    assert outlet.items == [1]
    assert called[0] != threading.get_ident()


async def test_context_variables_survive_between_batches(outlet):
    """The app's are seen in the thread, and what one batch sets the next one sees."""
    variable.set("app")

    def generate():
        yield variable.get()
        variable.set("thread")
        for _ in range(600):
            yield variable.get()

    await as_source(generate()).run(outlet)
    assert outlet.items == ["app"] + ["thread"] * 600
    assert variable.get() == "app"


async def test_items_before_a_failure_are_delivered_first(outlet):
    """And the error is the very one that the generator raised."""
    error = RuntimeError("the database is gone")
    recorded = Recorded([1, 2], fail=error)
    with pytest.raises(RuntimeError) as caught:
        await as_source(recorded.generate()).run(outlet)
    assert caught.value is error
    assert outlet.items == [1, 2]
    assert recorded.closed == 1


async def test_what_ends_the_program_is_passed_on(outlet):
    """A SystemExit in the thread is raised in the stream, without a group around it."""
    recorded = Recorded([1], fail=SystemExit(3))
    with pytest.raises(SystemExit):
        await as_source(recorded.generate()).run(outlet)
    assert outlet.items == [1]


async def test_an_iterable_that_cannot_be_iterated_fails_in_the_stream(outlet):
    """An `__iter__` that raises is the producer's failure."""

    class Broken:
        def __iter__(self):
            raise RuntimeError("no cursor")

    with pytest.raises(RuntimeError, match="no cursor"):
        await as_source(Broken()).run(outlet)


async def test_an_item_is_sent_while_the_next_one_is_awaited(outlet):
    """The last row of a burst does not wait in the thread for the next burst."""
    gates = [Gate(), Gate()]

    def generate():
        yield from range(3)
        gates[0].wait()
        yield from range(3, 6)
        gates[1].wait()
        yield 6

    async with trio.open_nursery() as nursery:
        nursery.start_soon(as_source(generate()).run, outlet)
        with trio.fail_after(10):
            for gate, count in zip(gates, (3, 6), strict=True):
                await gate.reached.wait()
                await outlet.wait_for(count)
                assert outlet.items == list(range(count))
                gate.open()
    assert outlet.items == list(range(7))


async def test_no_more_than_one_batch_is_fetched_ahead_of_a_slow_client(outlet):
    """An endless iterable does not pile up in the server while the client reads nothing."""
    fetched = 0

    def generate():
        nonlocal fetched
        while True:
            fetched += 1
            yield fetched

    outlet.block_at = 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(as_source(generate()).run, outlet)
        await outlet.wait_for(1)
        await wait_all_tasks_blocked(0.01)
        assert 1 <= fetched <= 256
        nursery.cancel_scope.cancel()


async def test_a_generator_is_closed_in_a_thread_when_an_item_cannot_be_sent(outlet):
    """It does not run on for a stream that has failed, and the error is not in a group."""
    recorded = Recorded(range(1000))

    outlet.refuses = True
    with pytest.raises(EncodingError, match="refused"):
        await as_source(recorded.generate()).run(outlet)
    assert recorded.closed == 1
    assert threading.get_ident() not in recorded.threads


async def run_as_a_stream_does(source, outlet, scope: trio.CancelScope, *, cleanup: float = 30):
    """Run it with time for its cleanup; return whether that was not enough."""
    with scope:
        return await run_cancelled_once(source.run(outlet), scope, cleanup)


@pytest.fixture
def scope() -> trio.CancelScope:
    return trio.CancelScope(shield=True)


async def test_a_generator_is_closed_in_a_thread_when_it_is_cancelled_between_hops(outlet, scope):
    """Cancelled while a slow client makes it wait, the cursor is closed at once."""
    recorded = Recorded(range(1000))
    outlet.block_at = 3
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            source = as_source(recorded.generate())
            nursery.start_soon(run_as_a_stream_does, source, outlet, scope)
            await outlet.wait_for(3)
            scope.cancel()
    assert recorded.closed == 1
    assert threading.get_ident() not in recorded.threads


async def test_a_generator_that_is_blocked_in_next_is_closed_when_it_comes_back(outlet, scope):
    """The stream waits for the thread, which closes the generator before it goes home."""
    gate = Gate()
    recorded = Recorded([1], gate=gate)
    ended = False

    async def run():
        nonlocal ended
        await run_as_a_stream_does(as_source(recorded.generate()), outlet, scope)
        ended = True

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await gate.reached.wait()
            scope.cancel()
            await wait_all_tasks_blocked(0.01)
            assert not ended
            assert recorded.closed == 0
            gate.open()
    assert ended
    assert recorded.closed == 1


async def test_a_thread_that_takes_longer_than_cleanup_may_is_left_behind(outlet, scope):
    """The stream ends at its deadline; the thread still closes the generator, later."""
    gate = Gate()
    recorded = Recorded([1], gate=gate)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:

            async def run():
                source = as_source(recorded.generate())
                assert await run_as_a_stream_does(source, outlet, scope, cleanup=0.01) is not False

            nursery.start_soon(run)
            await gate.reached.wait()
            scope.cancel()
        assert recorded.closed == 0
        assert thread_limiter().borrowed_tokens == 1  # it counts as long as it is away
        gate.open()
        await gate.left.wait()
        assert recorded.closed == 1


class Closing:
    """An iterator of one item, and what was asked of it; its `close` fails if it is to."""

    def __init__(self, gate: Gate | None = None, *, fails: bool = True) -> None:
        self.asked = self.closed = 0
        self._gate = gate
        self._fails = fails

    def __iter__(self):
        return self

    def __next__(self):
        self.asked += 1
        if self.asked == 1 and self._gate is not None:
            self._gate.wait()
        if self.asked > 1:
            raise StopIteration
        return 1

    def close(self):
        self.closed += 1
        if self._fails:
            raise OSError("cannot close")


async def test_a_failure_to_close_is_the_streams_failure(outlet):
    """Also where the items were all delivered: the source did not end well."""
    with pytest.raises(OSError, match="cannot close"):
        await as_source(Closing()).run(outlet)
    assert outlet.items == [1]


async def test_a_failure_to_close_in_the_thread_is_told_at_once(outlet, scope):
    """It neither gets lost in the thread nor holds the stream until its deadline."""
    gate = Gate()
    with trio.fail_after(10):
        with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="cannot close")):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run_as_a_stream_does, as_source(Closing(gate)), outlet, scope)
                await gate.reached.wait()
                scope.cancel()
                gate.open()


async def test_a_source_that_is_cancelled_before_it_gets_a_thread_is_closed(outlet, scope):
    """With every thread taken it waits in line, and leaves the line when its client goes."""
    recorded = Recorded(range(3))
    generator = recorded.generate()
    next(generator)
    limiter = thread_limiter()
    limiter.total_tokens = 1
    await limiter.acquire_on_behalf_of("another")
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_as_a_stream_does, as_source(generator), outlet, scope)
            while not limiter.statistics().tasks_waiting:
                await trio.lowlevel.checkpoint()
            scope.cancel()
            await wait_all_tasks_blocked()
            limiter.release_on_behalf_of("another")
    assert outlet.items == []
    assert recorded.closed == 1


async def test_a_thread_that_starts_after_the_cancel_does_not_touch_the_iterable(
    outlet, monkeypatch
):
    """It was granted and not yet running: it finds that it is over, and goes home."""
    hops = []

    async def run_sync(function, *arguments, limiter=None, abandon_on_cancel=False):
        hops.append((function, arguments))
        if len(hops) == 1:
            await limiter.acquire_on_behalf_of("thread")
            limiter.release_on_behalf_of("thread")
            await trio.sleep_forever()
        function(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    closing = Closing(fails=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(as_source(closing).run, outlet)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert len(hops) == 2  # the one that was to fetch, and the one that has closed
    assert (closing.asked, closing.closed) == (0, 1)
    function, arguments = hops[0]
    function(*arguments)
    assert (closing.asked, closing.closed) == (0, 1)


async def test_no_more_than_forty_threads_iterate_at_once(new_outlet):
    """The forty-first waits until one of them comes back, and all items arrive."""
    token = trio.lowlevel.current_trio_token()
    opened = threading.Event()
    lock = threading.Lock()
    now = most = 0
    full = trio.Event()

    def generate():
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
            if now == 40:
                token.run_sync_soon(full.set)
        assert opened.wait(30)
        with lock:
            now -= 1
        yield 1

    outlets = [new_outlet() for _ in range(50)]
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for each in outlets:
                nursery.start_soon(as_source(generate).run, each)
            await full.wait()
            await wait_all_tasks_blocked(0.01)
            assert thread_limiter().borrowed_tokens == 40
            # An app's own threads have a limiter apart, which is not touched.
            assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
            assert await trio.to_thread.run_sync(lambda: "free") == "free"
            opened.set()
    assert most == 40
    assert all(each.items == [1] for each in outlets)


async def test_there_is_one_limiter_a_run_and_its_size_can_be_set():
    """The same object every time, of forty tokens unless an app says otherwise."""
    assert thread_limiter() is thread_limiter()
    assert thread_limiter().total_tokens == 40
    assert thread_limiter() is not trio.to_thread.current_default_thread_limiter()


async def test_a_discarded_generator_is_closed_in_a_thread():
    """What a refused request would have read is released, without a line having run."""
    recorded = Recorded([1, 2])
    generator = recorded.generate()
    next(generator)
    await as_source(generator).discard()
    assert recorded.closed == 1
    assert threading.get_ident() not in recorded.threads - {threading.get_ident()}
    with pytest.raises(StopIteration):
        next(generator)


async def test_what_cannot_be_closed_is_left_alone(outlet):
    """A set has no `close`, and needs none."""
    await as_source({1}).discard()
    await as_source({1}).run(outlet)
    assert outlet.items == [1]


def test_a_thread_that_outlives_the_trio_run_closes_quietly():
    """There is nobody left to tell, and nothing is raised in the thread."""
    kept = []

    async def main():
        kept.extend([trio.lowlevel.current_trio_token(), trio.Event()])

    trio.run(main)
    _tell(*kept)
    assert not kept[1].is_set()


def test_a_source_says_how_it_is_read():
    """A function is called and an iterable iterated, both by threads."""
    assert isinstance(as_source(Recorded([]).generate), ThreadedIteration)


async def test_what_never_ran_can_be_left_while_it_is_closed():
    """A close() that hangs holds its thread, and not who waits for it beyond their patience."""
    gate = Gate()

    class Stuck:
        def __iter__(self):
            return iter(())

        def close(self):
            gate.wait()
            gate.leave()

    source = ThreadedIteration(Stuck())
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.discard)
            await gate.reached.wait()
            nursery.cancel_scope.cancel()
        gate.open()
        await gate.left.wait()
