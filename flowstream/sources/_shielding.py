"""Run a producer so that its cleanup is not itself cancelled.

Under Trio a cancelled scope cancels every await inside it, those of a ``finally`` too, so
``finally: await connection.close()`` in an app's generator would never get anywhere. The
usual answer, a shield, has to be written by whoever writes the ``finally``; app authors
don't. So flowstream cancels a producer once: as the first Cancelled is about to be thrown
in, the scope around it is shielded and given a deadline, and what is awaited from then on
runs undisturbed until that deadline, when it is cancelled for good.

Raising a shield when the scope is cancelled would be wrong: a task that happens to be
runnable at that moment has not been told yet, and would run on behind the shield. The
moment that counts is the delivery, and it can be seen: Trio resumes a task by sending an
outcome into its coroutine, so a generator between the two sees each one pass. Those that
belong to a scope inside the producer, as every `trio.sleep` has one, are let through.
(Turned down: asking the task for its private abort function; a second task that watches.)

One delivery is made in another place. `trio.lowlevel.checkpoint`, which is what a task that
need not wait comes to, waits inside a cancelled scope of its own. A shield raised while
Cancelled is on its way out of there would make that scope swallow it; raised any later, it
would come too late for the first await of the cleanup. So a producer that is in a
checkpoint is given its Cancelled one step before that scope.

Inside a nursery that the producer opened Trio's ordinary rules apply, to its body and to
its children: a shield around it would have the nursery take the Cancelled for its own and
swallow it, and the code behind the nursery would run for a client that has gone. A wrapper
that runs a source in a task of a nursery of its own has that task sheltered in the same way,
by `run_sheltered`: whatever cancels it, the stream or the wrapper, does so once.
"""

from __future__ import annotations

import contextvars
import gc
import itertools
import math
import types
import weakref
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any

import outcome
import trio

from flowstream.limits import Limits


class _Cleanup:
    """How long a producer may clean up for, in all tasks that wrappers run parts of it in.

    Args:
        timeout: seconds.
        is_over: whether the producer as a whole was cancelled. Then its time runs out for all
            at once; who is cancelled by a wrapper alone has a time of its own.
    """

    def __init__(self, timeout: float, is_over: Callable[[], bool]) -> None:
        self.timeout = timeout
        self.is_over = is_over
        self._deadline = math.inf

    def deadline(self) -> float:
        """Return until when one may clean up who hears just now that it is cancelled."""
        deadline = trio.current_time() + self.timeout
        if not self.is_over():
            return deadline
        self._deadline = min(self._deadline, deadline)
        return self._deadline


# That of the producer which runs in this context. Where it was started by nobody, as in a test
# of a source alone, it has as long as a stream would give it.
_cleanup: contextvars.ContextVar[_Cleanup] = contextvars.ContextVar("flowstream cleanup")

# Nurseries of flowstream's own, which let no exception of their body pass through them.
_transparent: weakref.WeakSet[trio.Nursery] = weakref.WeakSet()


def make_transparent(nursery: trio.Nursery) -> None:
    """Have cleanup be shielded inside `nursery`, too: it has nothing to swallow."""
    _transparent.add(nursery)


async def run_cancelled_once(
    coroutine: Coroutine[Any, Any, None], scope: trio.CancelScope, cleanup_timeout: float
) -> bool:
    """Run `coroutine`; once `scope` is cancelled, cancel it once and shield its cleanup.

    Args:
        coroutine: what to run. No other cancellation than `scope`'s must reach it, so
            `scope` is to be shielded.
        scope: the cancel scope that this is called in.
        cleanup_timeout: seconds that it may go on for after it was cancelled.

    Returns:
        Whether the cleanup took longer, and was cancelled.
    """
    whole = _Cleanup(cleanup_timeout, lambda: scope.cancel_called)
    given = _cleanup.set(whole)
    try:
        return await _run_told_once(coroutine, whole.is_over, whole)
    finally:
        _cleanup.reset(given)


async def run_sheltered(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run `coroutine`; once whatever is around it is cancelled, shield its cleanup.

    For the first thing that a task of a nursery does. The cleanup has as long as that of the
    producer which the task belongs to: it is in the contextvars that the task inherited.
    """
    whole = _cleanup.get(None) or _Cleanup(Limits().cleanup_timeout, lambda: False)
    if await _run_told_once(coroutine, lambda: True, whole):
        await trio.lowlevel.checkpoint()  # the Cancelled that it did not get to


async def _run_told_once(
    coroutine: Coroutine[Any, Any, None],
    may_be_cancelled: Callable[[], bool],
    whole: _Cleanup,
) -> bool:
    task = trio.lowlevel.current_task()
    outside = set(task.child_nurseries)
    told = False
    with trio.CancelScope() as cleanup:

        def is_in_nursery() -> bool:
            opened = set(task.child_nurseries) - outside
            return any(nursery not in _transparent for nursery in opened)

        def is_due() -> bool:
            # Seen from here: behind a shield of the producer's own it is not told yet.
            due = not told and may_be_cancelled()
            return due and trio.current_effective_deadline() == -math.inf and not is_in_nursery()

        def shield() -> None:
            nonlocal told
            if is_due():
                cleanup.shield = True
                # Behind the shield it is cancelled still: this Cancelled is that of a scope
                # of its own, perhaps inside a shield of its own. Behind ours that scope
                # takes it, and sees nothing of another. Ours is to come.
                told = trio.current_effective_deadline() != -math.inf
                if told:
                    cleanup.deadline = whole.deadline()

        def unshield() -> None:
            if cleanup.shield and not told:
                cleanup.shield = False

        await _watch(coroutine, is_due, shield, unshield)
    return cleanup.cancelled_caught


@types.coroutine
def _watch(
    coroutine: Coroutine[Any, Any, None],
    is_due: Callable[[], bool],
    on_cancelled: Callable[[], None],
    on_await: Callable[[], None],
) -> Generator[Any, Any, None]:
    """Await `coroutine`, calling `on_cancelled` before each Cancelled that goes into it.

    And `on_await` before each of its awaits that come to the scheduler.
    """
    thrown: BaseException | None = None
    value: Any = None
    while True:
        try:
            trap = coroutine.send(value) if thrown is None else coroutine.throw(thrown)
        except StopIteration:
            return
        on_await()
        try:
            value, thrown = (yield trap), None
            if is_due() and _is_in_checkpoint(coroutine):
                yield from _be_cancelled().__await__()
        except BaseException as error:  # noqa: BLE001, ASYNC103  # passed on
            thrown = error
            if isinstance(error, trio.Cancelled):
                on_cancelled()
        else:
            if isinstance(value, outcome.Error) and isinstance(value.error, trio.Cancelled):
                on_cancelled()


async def _be_cancelled() -> None:
    await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.SUCCEEDED)


_CHECKPOINT = (
    trio.lowlevel.checkpoint.__code__,
    trio.lowlevel.cancel_shielded_checkpoint.__code__,
)


def _is_in_checkpoint(coroutine: Coroutine[Any, Any, None]) -> bool:
    """Return whether it is suspended in a `trio.lowlevel.checkpoint`, before its scope."""
    codes = (getattr(awaited, "cr_code", None) for awaited in _chain(coroutine))
    return _CHECKPOINT in itertools.pairwise(codes)


def _chain(awaited: Any) -> Iterator[Any]:
    """Give a suspended coroutine, what it awaits, what that awaits, and so on."""
    while awaited is not None:
        yield awaited
        for name in ("cr_await", "ag_await", "gi_yieldfrom"):
            if hasattr(awaited, name):
                awaited = getattr(awaited, name)
                break
        else:
            # A step of an async generator does not say which; the garbage collector knows.
            inner = gc.get_referents(awaited)
            awaited = next((one for one in inner if hasattr(one, "ag_await")), None)
