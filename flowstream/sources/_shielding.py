"""Run a producer so that its cleanup is not itself cancelled.

Under Trio a cancelled scope cancels every await inside it, those of a ``finally`` too, so
``finally: await connection.close()`` in an app's generator would fail at once. The usual answer is
a shield inside the ``finally``, but app authors seldom write one. So flowstream cancels a producer
once: when the first Cancelled is about to be thrown in, it shields the scope around the producer
and gives it a deadline. What the producer awaits from then on runs undisturbed until that
deadline, when it is cancelled for good.

It would be wrong to shield as soon as the scope is cancelled: a task that is runnable at that
moment has not got its Cancelled yet, and would run on inside the shield. The shield must come when
the Cancelled is delivered. That can be seen: Trio resumes a task by sending an outcome into its
coroutine, so a generator between the two sees each outcome. A Cancelled that belongs to a scope
inside the producer, such as the one of `trio.sleep`, is let through.
(Turned down: asking the task for its private abort function; a second task that watches.)

In one place the Cancelled is delivered earlier. `trio.lowlevel.checkpoint`, which a task calls that
need not wait, waits inside a cancelled scope of its own. If the shield were raised while a
Cancelled leaves it, that scope would swallow the Cancelled. So a producer that is in a checkpoint
gets its Cancelled one step before that scope.

_await_chain.py reads from the interpreter whether the producer is in a checkpoint. If it can't
tell, the shield is raised later: this Cancelled passes, and the shield is there before the next
await, which is the first one of the cleanup. That is right, with one exception: the Cancelled came
from a scope inside a shield of the producer's own, and that scope was cancelled before the await
began. Then the producer goes on, and is cancelled for good at the deadline.

Inside a nursery that the producer opened, Trio's ordinary rules hold for its body and its children.
With a shield around it, the nursery would take the Cancelled for its own and swallow it, and the
code after the nursery would run for a client that has left. A wrapper may run a source in a task of
its own nursery. It shelters that task in the same way, with `run_sheltered`: the task is cancelled
only once, whether the stream or the wrapper does it.
"""

from __future__ import annotations

import contextvars
import math
import types
import weakref
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import outcome
import trio

from flowstream._clock import clock
from flowstream.limits import Limits
from flowstream.sources import _await_chain


class _Cleanup:
    """How long a producer may clean up, counting all tasks in which wrappers run parts of it.

    Args:
        timeout: seconds.
        is_over: returns whether the producer as a whole was cancelled. Then all its tasks have the
            same deadline. A task that only a wrapper cancelled has its own.
    """

    def __init__(self, timeout: float, is_over: Callable[[], bool]) -> None:
        self.timeout = timeout
        self.is_over = is_over
        self._deadline = math.inf

    def deadline(self) -> float:
        """Return the deadline for the cleanup of a task that is cancelled now."""
        deadline = clock.current_time() + self.timeout
        if not self.is_over():
            return deadline
        self._deadline = min(self._deadline, deadline)
        return self._deadline


# The `_Cleanup` of the producer that runs in this context. Without one, as in a test of a source
# alone, cleanup has as long as a stream would give it.
_cleanup: contextvars.ContextVar[_Cleanup] = contextvars.ContextVar("flowstream cleanup")

# Nurseries of flowstream, whose body never raises through them.
_transparent: weakref.WeakSet[trio.Nursery] = weakref.WeakSet()


def make_transparent(nursery: trio.Nursery) -> None:
    """Shield cleanup inside `nursery`, too, since it has no Cancelled to swallow."""
    _transparent.add(nursery)


async def run_cancelled_once(
    coroutine: Coroutine[Any, Any, None], scope: trio.CancelScope, cleanup_timeout: float
) -> bool:
    """Run `coroutine`; once `scope` is cancelled, cancel it once and shield its cleanup.

    Args:
        coroutine: the producer. Only the cancellation of `scope` must reach it, so shield `scope`.
        scope: the cancel scope that this is called in.
        cleanup_timeout: seconds that the coroutine may go on after it was cancelled.

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
    """Run `coroutine`; once a scope around it is cancelled, shield its cleanup.

    A task of a nursery calls this first. The cleanup has as long as the cleanup of the task's
    producer, which is in the contextvars that the task inherited.
    """
    whole = _cleanup.get(None) or _Cleanup(Limits().cleanup_timeout, lambda: False)
    if await _run_told_once(coroutine, lambda: True, whole):
        await trio.lowlevel.checkpoint()  # raises the Cancelled that the task has not got


async def _run_told_once(
    coroutine: Coroutine[Any, Any, None],
    may_be_cancelled: Callable[[], bool],
    whole: _Cleanup,
) -> bool:
    _await_chain.warn_if_unreadable()
    with trio.CancelScope() as scope:
        await _watch(coroutine, _Shelter(coroutine, scope, may_be_cancelled, whole))
    return scope.cancelled_caught


class _Shelter:
    """The scope around a producer. It is shielded when the producer gets its Cancelled.

    Args:
        coroutine: the producer.
        scope: the scope.
        may_be_cancelled: returns whether something around the scope may be cancelled.
        whole: how long the producer may clean up.
    """

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, None],
        scope: trio.CancelScope,
        may_be_cancelled: Callable[[], bool],
        whole: _Cleanup,
    ) -> None:
        self._coroutine = coroutine
        self._scope = scope
        self._may_be_cancelled = may_be_cancelled
        self._whole = whole
        self._task = trio.lowlevel.current_task()
        self._outside = set(self._task.child_nurseries)
        self._told = False
        self._passing = False  # a Cancelled that may be ours is leaving a scope
        self._begun_cancelled = False  # whether its current await began cancelled

    def is_due(self) -> bool:
        """Return whether the producer should get its Cancelled at its current await."""
        if self._told or not self._may_be_cancelled():
            return False
        # Inside a shield of the producer's own it is not cancelled yet.
        return _is_cancelled() and not self._is_in_nursery()

    def must_be_told_now(self) -> bool:
        """Return whether it must get its Cancelled now, before it enters a scope of Trio's."""
        return self.is_due() and bool(_await_chain.is_in_checkpoint(self._coroutine))

    def on_cancelled(self) -> None:
        """Raise the shield, if the Cancelled that will be thrown in next is ours."""
        if not self.is_due():
            return
        self._scope.shield = True
        # If it is still cancelled inside our shield, this Cancelled belongs to a scope of its own,
        # perhaps inside a shield of its own. That scope takes it, and ours is yet to come.
        if not _is_cancelled():
            self._tell()
        elif self._begun_cancelled and _await_chain.is_in_checkpoint(self._coroutine) is None:
            self._scope.shield = False
            self._passing = True

    def on_await(self) -> None:
        """Raise the shield if that had to wait. Lower it if it was raised for another scope."""
        if self._told:
            return
        if self._passing and self.is_due():
            self._scope.shield = True
            self._tell()
            return
        if self._scope.shield:
            self._scope.shield = False
        self._begun_cancelled = self._may_be_cancelled() and _is_cancelled()

    def _tell(self) -> None:
        self._told = True
        self._scope.deadline = self._whole.deadline()

    def _is_in_nursery(self) -> bool:
        opened = set(self._task.child_nurseries) - self._outside
        return any(nursery not in _transparent for nursery in opened)


def _is_cancelled() -> bool:
    return trio.current_effective_deadline() == -math.inf


@types.coroutine
def _watch(coroutine: Coroutine[Any, Any, None], shelter: _Shelter) -> Generator[Any, Any, None]:
    """Await `coroutine`; tell `shelter` of each await, and of each Cancelled that comes."""
    thrown: BaseException | None = None
    value: Any = None
    while True:
        try:
            trap = coroutine.send(value) if thrown is None else coroutine.throw(thrown)
        except StopIteration:
            return
        shelter.on_await()
        try:
            value, thrown = (yield trap), None
            if shelter.must_be_told_now():
                yield from _be_cancelled().__await__()
        except BaseException as error:  # noqa: BLE001, ASYNC103  # passed on
            thrown = error
            if isinstance(error, trio.Cancelled):
                shelter.on_cancelled()
        else:
            if isinstance(value, outcome.Error) and isinstance(value.error, trio.Cancelled):
                shelter.on_cancelled()


async def _be_cancelled() -> None:
    await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.SUCCEEDED)
