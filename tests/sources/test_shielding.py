"""A producer is cancelled once, and its cleanup runs to its end or to its deadline.

The threat: under Trio every await of a ``finally`` is cancelled again, so a connection that
an app closes there would never be closed; and a shield that is raised at the wrong moment
keeps a producer running for a client that has gone.
"""

from __future__ import annotations

from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from flowstream.sources import _await_chain, as_source
from flowstream.sources._shielding import run_cancelled_once

CLEANUP = 5.0


@pytest.fixture(autouse=True, params=["interpreter read", "interpreter not read"])
def _interpreter(request):
    """Every test holds too where the internals of the interpreter can't be read."""
    with pytest.MonkeyPatch.context() as patch:
        assert _await_chain.readable
        patch.setattr(_await_chain, "_warned", True)
        if request.param == "interpreter not read":
            patch.setattr(_await_chain, "readable", False)
        yield


class Run:
    """A producer that runs as a stream would run it, and how it came out."""

    def __init__(self, nursery: trio.Nursery, coroutine: Any) -> None:
        self.scope = trio.CancelScope(shield=True)
        self.overrun: bool | None = None
        self.ended: float | None = None
        nursery.start_soon(self._run, coroutine)

    async def _run(self, coroutine: Any) -> None:
        with self.scope:
            self.overrun = await run_cancelled_once(coroutine, self.scope, CLEANUP)
        self.ended = trio.current_time()

    async def cancel(self) -> float:
        """Cancel it when all is quiet; return the time at which it was."""
        await wait_all_tasks_blocked()
        self.scope.cancel()
        return trio.current_time()


async def test_a_producer_that_ends_by_itself_is_left_alone(autojump_clock):
    """No deadline and no shield: it takes as long as it takes."""

    async def produce():
        await trio.sleep(100)

    async with trio.open_nursery() as nursery:
        run = Run(nursery, produce())
    assert (run.overrun, run.ended) == (False, 100)


async def test_an_error_of_the_producer_passes_through(autojump_clock):
    """It is not touched, whether the scope was cancelled or not."""

    async def produce(cancel: trio.CancelScope | None):
        try:
            if cancel is not None:
                cancel.cancel()
            await trio.lowlevel.checkpoint()
        finally:
            raise RuntimeError("mine")

    for cancelled in (False, True):
        with trio.CancelScope(shield=True) as scope, pytest.raises(RuntimeError, match="mine"):
            await run_cancelled_once(produce(scope if cancelled else None), scope, CLEANUP)


async def test_cleanup_of_a_generator_blocked_in_its_own_await_is_completed(outlet, autojump_clock):
    """Its `finally` may await for a second though its scope is cancelled."""
    log = []

    async def generate():
        try:
            yield 1
            await trio.sleep_forever()
        finally:
            await trio.sleep(1)
            log.append("cleaned up")

    async with trio.open_nursery() as nursery:
        run = Run(nursery, as_source(generate()).run(outlet))
        start = await run.cancel()
    assert log == ["cleaned up"]
    assert run.ended == start + 1
    assert run.overrun is not True


async def test_cleanup_of_a_generator_suspended_at_its_yield_is_completed(outlet, autojump_clock):
    """It gets GeneratorExit there, and the same shelter for its `finally`."""
    log = []

    async def generate():
        try:
            yield 1
        except GeneratorExit:
            log.append("exit")
            raise
        finally:
            await trio.sleep(1)
            log.append("cleaned up")

    outlet.block_at = 1
    async with trio.open_nursery() as nursery:
        run = Run(nursery, as_source(generate()).run(outlet))
        start = await run.cancel()
    assert log == ["exit", "cleaned up"]
    assert run.ended == start + 1


async def test_a_producer_that_is_runnable_at_the_cancel_is_cancelled_at_its_next_await(
    autojump_clock,
):
    """It had not been told yet, so nothing is shielded until it is: then once."""
    log, wake = [], trio.Event()

    async def produce():
        await wake.wait()
        try:
            log.append("woken")
            await trio.sleep(1000)
            log.append("went on")
        finally:
            await trio.sleep(1)
            log.append("cleaned up")

    async with trio.open_nursery() as nursery:
        run = Run(nursery, produce())
        await wait_all_tasks_blocked()
        wake.set()
        run.scope.cancel()
        start = trio.current_time()
    assert log == ["woken", "cleaned up"]
    assert run.ended == start + 1


async def test_a_timeout_of_the_producer_raises_no_shield(autojump_clock):
    """Its own `move_on_after` is its own business; a later cancel is delivered at once."""
    log = []

    async def produce():
        with trio.move_on_after(1):
            await trio.sleep_forever()
        log.append("timed out")
        try:
            await trio.sleep_forever()
        finally:
            await trio.sleep(1)
            log.append("cleaned up")

    async with trio.open_nursery() as nursery:
        run = Run(nursery, produce())
        await trio.sleep(10)
        start = await run.cancel()
    assert log == ["timed out", "cleaned up"]
    assert run.ended == start + 1


async def test_a_timeout_inside_a_shield_of_the_producer_raises_no_other(autojump_clock):
    """While it commits something behind its own shield it cannot be told; right after it is."""
    log = []

    async def produce():
        with trio.CancelScope(shield=True):
            await trio.sleep(3)  # which is a cancel scope of Trio's, with a deadline
            log.append("committed")
        try:
            await trio.sleep_forever()
        finally:
            await trio.sleep(1)
            log.append("cleaned up")

    async with trio.open_nursery() as nursery:
        run = Run(nursery, produce())
        start = await run.cancel()
    assert log == ["committed", "cleaned up"]
    assert run.ended == start + 3 + 1
    assert not run.overrun


async def test_checkpoints_behind_a_shield_of_the_producer_go_on(autojump_clock):
    """Cancelled in the midst of them, it finishes what it shields and is told after that."""
    log = []

    async def produce():
        with trio.CancelScope(shield=True):
            for _ in range(10):
                await trio.lowlevel.checkpoint()
            log.append("committed")
        try:
            await trio.sleep_forever()
        finally:
            await trio.sleep(1)
            log.append("cleaned up")

    async with trio.open_nursery() as nursery:
        run = Run(nursery, produce())
        for _ in range(4):
            await trio.lowlevel.checkpoint()
        run.scope.cancel()
    assert log == ["committed", "cleaned up"]
    assert run.ended == 1


@pytest.mark.parametrize("seconds", [0, 1])
async def test_cleanup_of_a_producer_that_is_cancelled_in_a_checkpoint_is_completed(
    seconds, autojump_clock
):
    """A flood that never waits is cancelled where it lets others run, once like any other."""
    log = []

    async def produce():
        try:
            while True:
                await trio.lowlevel.checkpoint()
        finally:
            await trio.sleep(seconds)
            log.append("cleaned up")

    async with trio.open_nursery() as nursery:
        run = Run(nursery, produce())
        for _ in range(4):
            await trio.lowlevel.checkpoint()
        run.scope.cancel()
    assert log == ["cleaned up"]
    assert not run.overrun


@pytest.mark.parametrize("where", ["body", "child", "both"])
async def test_a_nursery_of_the_producer_does_not_swallow_the_cancellation(where, autojump_clock):
    """What stands behind the nursery does not run for a client that has gone."""
    log = []

    async def produce():
        try:
            async with trio.open_nursery() as nursery:
                if where != "body":
                    nursery.start_soon(trio.sleep_forever)
                if where != "child":
                    await trio.sleep_forever()
            log.append("behind")
        finally:
            log.append("finally")

    async with trio.open_nursery() as nursery:
        run = Run(nursery, produce())
        cancelled = await run.cancel()
    assert log == ["finally"]
    assert not run.overrun
    assert run.ended == cancelled


async def test_a_timeout_inside_the_cleanup_works(autojump_clock):
    """The cleanup may bound its own awaits, and goes on after the bound."""
    log = []

    async def produce():
        try:
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(1):
                await trio.sleep_forever()
            await trio.sleep(1)
            log.append("cleaned up")

    async with trio.open_nursery() as nursery:
        run = Run(nursery, produce())
        start = await run.cancel()
    assert log == ["cleaned up"]
    assert run.ended == start + 2


async def test_cleanup_that_overruns_is_cancelled_and_reported(autojump_clock):
    """At its deadline it is cancelled for good, and whoever runs it is told."""
    log = []

    async def produce():
        try:
            await trio.sleep_forever()
        finally:
            try:
                await trio.sleep(1000)
            except trio.Cancelled:
                log.append("cancelled again")
                await trio.sleep(1000)

    async with trio.open_nursery() as nursery:
        run = Run(nursery, produce())
        start = await run.cancel()
    assert log == ["cancelled again"]
    assert (run.overrun, run.ended) == (True, start + CLEANUP)


async def test_a_producer_that_swallows_its_cancellation_ends_at_the_deadline(autojump_clock):
    """One that goes on as if nothing had happened has the cleanup's time, and no more."""
    steps = 0

    async def produce():
        nonlocal steps
        while True:
            try:
                while True:
                    await trio.sleep(1)
                    steps += 1
            except trio.Cancelled:
                if trio.current_time() >= CLEANUP:
                    raise

    async with trio.open_nursery() as nursery:
        run = Run(nursery, produce())
        start = await run.cancel()
    assert (run.overrun, run.ended) == (True, start + CLEANUP)
    assert steps < CLEANUP


async def test_a_second_cancel_does_not_shorten_the_cleanup(autojump_clock):
    """A stream that is ended twice, as by a shutdown after a disconnect, cleans up once."""
    log = []

    async def produce():
        try:
            await trio.sleep_forever()
        finally:
            await trio.sleep(4)
            log.append("cleaned up")

    async with trio.open_nursery() as nursery:
        run = Run(nursery, produce())
        start = await run.cancel()
        await trio.sleep(2)
        run.scope.cancel()
    assert log == ["cleaned up"]
    assert run.ended == start + 4


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_what_ends_the_program_passes_through(error):
    """Raised by the producer, in its work or in its cleanup, it is not held up."""

    async def work():
        await trio.lowlevel.checkpoint()
        raise error

    async def cleanup(scope: trio.CancelScope):
        try:
            scope.cancel()
            await trio.sleep_forever()
        finally:
            await trio.lowlevel.checkpoint()
            raise error

    with trio.CancelScope(shield=True) as scope:
        with pytest.raises(error):
            await run_cancelled_once(work(), scope, CLEANUP)
        with pytest.raises(error):
            await run_cancelled_once(cleanup(scope), scope, CLEANUP)


async def test_an_error_thrown_in_from_outside_reaches_the_producer():
    """Between the producer and Trio nothing is caught, also when the outer one throws."""
    seen = []

    async def produce():
        try:
            await trio.sleep_forever()
        except GeneratorExit:
            seen.append("closed")
            raise

    coroutine = run_cancelled_once(produce(), trio.CancelScope(), CLEANUP)
    coroutine.send(None)
    coroutine.close()
    assert seen == ["closed"]


@given(
    st.lists(st.sampled_from(["checkpoint", "sleep", "timeout", "shielded"]), max_size=8),
    st.integers(0, 8).map(lambda seconds: seconds + 0.5),  # never on the stroke of a step
    st.lists(st.sampled_from([0.25, 1.0, 2.0]), max_size=4),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whenever_the_cancel_comes_cleanup_runs_in_full_or_to_its_deadline(steps, when, cleanup):
    """Whatever the producer is doing at that moment, each step of its cleanup that ends
    within the five seconds is taken, and it is reported as overrun only past them."""

    async def main() -> None:
        done: list[float] = []
        told: list[float] = []

        async def produce() -> None:
            try:
                for step in steps:
                    if step == "checkpoint":
                        await trio.lowlevel.checkpoint()
                    elif step == "sleep":
                        await trio.sleep(1)
                    else:
                        with trio.CancelScope(shield=step == "shielded"):
                            await trio.sleep(1)
                await trio.sleep_forever()
            finally:
                told.append(trio.current_time())
                for seconds in cleanup:
                    await trio.sleep(seconds)
                    done.append(seconds)

        async with trio.open_nursery() as nursery:
            run = Run(nursery, produce())
            await trio.sleep(when)
            await run.cancel()
        now, due = 0.0, when
        for step in steps:
            if step == "shielded":
                due = max(due, now + 1) if now <= due else due
            elif now == due:
                break  # the first await behind the shield
            now += 0 if step == "checkpoint" else 1
        assert told == [due]
        assert run.ended == told[0] + min(sum(cleanup), CLEANUP)
        assert bool(run.overrun) is (sum(cleanup) >= CLEANUP)
        assert done == cleanup or sum(cleanup) >= CLEANUP

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
