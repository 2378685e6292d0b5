"""What is done to the broker of a run. One fault is at work at a time."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from .broker import Broker
    from .run import Run

# Seconds after which a fault is one of the ledger itself. It is a bound, and no measure.
_LONGEST = 120.0


@asynccontextmanager
async def _breaking(run: Run, what: str) -> AsyncIterator[Broker]:
    """Give the broker to one fault, and note afterwards which epochs have begun.

    A fault that has begun is not cancelled: a broker in the middle of one may stay away.
    """
    async with run.broker.lock:
        with trio.fail_after(_LONGEST, shield=True):
            run.count(what)
            async with run.trouble():
                yield run.broker
            await run.note_epochs()


async def restart(run: Run, dice: random.Random) -> None:
    """Kill -9 it; sometimes four times, as soon as it is there again."""
    async with _breaking(run, "broker kills") as broker:
        for _ in range(4 if dice.random() < 0.25 else 1):
            await trio.to_thread.run_sync(broker.restart)
            await trio.sleep(0.25)


async def freeze(run: Run, dice: random.Random) -> None:
    """Freeze it for a while, sometimes for longer than publishers have patience."""
    async with _breaking(run, "broker freezes") as broker:
        try:
            await trio.to_thread.run_sync(broker.freeze)
            await trio.sleep(dice.uniform(0.5, 1.0) * run.plan.freeze)
        finally:
            await trio.to_thread.run_sync(broker.thaw)


async def lose_tail(run: Run, dice: random.Random) -> None:
    """Kill -9 it, and start it without the end of what it had. Workers live through it.

    All who publish have seen some of that end. Who comes new, or was frozen meanwhile, has seen
    nothing of it, can't tell that it is gone, and may be the first to publish.
    """
    seconds = dice.uniform(0.5, 2.0)

    async def wait() -> None:
        await trio.sleep(seconds)
        with trio.move_on_after(20):
            await run.until_each_has_published()

    async with _breaking(run, "lost tails") as broker, run.no_new_lives():
        epochs = run.truth.count_epochs()
        await trio.to_thread.run_sync(broker.lose_tail, dice, partial(trio.from_thread.run, wait))
        enough = run.truth.settled + 500  # a log that trusts its broker begins no epoch
        with trio.move_on_after(20):
            while run.truth.count_epochs() == epochs and run.truth.settled < enough:  # noqa: ASYNC110
                await trio.sleep(0.02)


async def lose_tail_unseen(run: Run, dice: random.Random) -> None:
    """Do so while no process is there, and say so with ``flowstream log new-epoch``."""

    def kill_all() -> None:
        trio.from_thread.run(run.cut_power)

    async with _breaking(run, "tails lost unseen") as broker:
        try:
            lose = partial(broker.lose_tail_unseen, _wait(dice, 0.5, 2.0), kill_all)
            await trio.to_thread.run_sync(lose)
        finally:
            run.restore_power()


async def flush(run: Run, dice: random.Random) -> None:
    """Have it forget everything."""
    async with _breaking(run, "flushes") as broker:
        await trio.to_thread.run_sync(broker.flush)


async def cut_sessions(run: Run, dice: random.Random) -> None:
    """Cut half of its connections."""
    async with _breaking(run, "cut sessions") as broker:
        await trio.to_thread.run_sync(broker.cut_sessions, dice)


async def refuse_writes(run: Run, dice: random.Random) -> None:
    """Have it refuse writes for a while."""
    async with _breaking(run, "refused writes") as broker:
        try:
            await trio.to_thread.run_sync(broker.refuse_writes)
            await trio.sleep(dice.uniform(0.3, 1.5))
        finally:
            await trio.to_thread.run_sync(broker.take_writes)


async def fail_over_in_step(run: Run, dice: random.Random) -> None:
    """Have the second server take over; it has all."""
    async with _breaking(run, "failovers in step") as broker:
        await trio.to_thread.run_sync(broker.fail_over_in_step, dice)


async def fail_over_behind(run: Run, dice: random.Random) -> None:
    """Have the second server take over; it lags, and the end is lost."""
    async with _breaking(run, "failovers that lose") as broker:
        await trio.to_thread.run_sync(broker.fail_over_behind, dice, _wait(dice, 0.3, 1.5))


async def split(run: Run, dice: random.Random) -> None:
    """Have both servers take writes for a while."""
    async with _breaking(run, "split brains") as broker:
        for topic in run.truth.topics.values():
            topic.splits = True
        await trio.to_thread.run_sync(broker.split, dice, _wait(dice, 0.5, 2.0))


def _wait(dice: random.Random, least: float, most: float) -> Callable[[], None]:
    """Return what lets the run go on for a while, for a thread."""
    return partial(trio.from_thread.run, trio.sleep, dice.uniform(least, most))


Fault = Callable[["Run", random.Random], Awaitable[None]]

BY_NAME: dict[str, Fault] = {
    "kill the broker": restart,
    "freeze the broker": freeze,
    "lose the tail": lose_tail,
    "lose the tail unseen": lose_tail_unseen,
    "flush the broker": flush,
    "cut sessions": cut_sessions,
    "refuse writes": refuse_writes,
    "fail over in step": fail_over_in_step,
    "fail over behind": fail_over_behind,
    "split the brain": split,
}
"""See `plan.FAULTS`."""
