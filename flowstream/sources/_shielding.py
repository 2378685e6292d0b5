"""Run a producer so that its cleanup is not itself cancelled.

Under Trio a cancelled scope cancels every await inside it, those of a ``finally`` too, so
``finally: await connection.close()`` in an app's generator would fail at once. The usual answer is
a shield inside the ``finally``, but app authors seldom write one. So flowstream cancels a producer
once: when the first Cancelled is about to be thrown in, it shields the scope around the producer
and gives it a deadline. What the producer awaits from then on runs undisturbed until that
deadline, when it is cancelled for good.

To shield already when the scope is cancelled would be wrong: a task that is runnable at that moment
has not been told yet, and would run on behind the shield. The shield must come when the Cancelled
is delivered, and that can be seen: Trio resumes a task by sending an outcome into its coroutine, so
a generator between the two sees each one pass. A Cancelled that belongs to a scope inside the
producer, such as that of `trio.sleep`, is let through.
(Turned down: asking the task for its private abort function; a second task that watches.)

One delivery is made in another place. `trio.lowlevel.checkpoint`, which is what a task that
need not wait comes to, waits inside a cancelled scope of its own. A shield raised while
Cancelled is on its way out of there would make that scope swallow it. So a producer that is in
a checkpoint is given its Cancelled one step before that scope.

Whether it is in a checkpoint is read from the interpreter, in _await_chain.py. Where that can't
be told, the shield is raised later: this Cancelled passes through, and the shield is there
before the next await begins, which is the first of the cleanup. That is right unless the
Cancelled was that of a scope behind a shield of the producer's own, which had been cancelled
before the await began. Then the producer goes on, and is cancelled for good at the deadline.

Inside a nursery that the producer opened Trio's ordinary rules apply, to its body and to
its children: a shield around it would have the nursery take the Cancelled for its own and
swallow it, and the code behind the nursery would run for a client that has gone. A wrapper
that runs a source in a task of a nursery of its own has that task sheltered in the same way,
by `run_sheltered`: whatever cancels it, the stream or the wrapper, does so once.
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
        deadline = clock.current_time() + self.timeout
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
    _await_chain.warn_if_unreadable()
    with trio.CancelScope() as scope:
        await _watch(coroutine, _Shelter(coroutine, scope, may_be_cancelled, whole))
    return scope.cancelled_caught


class _Shelter:
    """The scope around a producer, which is shielded once the producer is told.

    Args:
        coroutine: the producer.
        scope: the scope.
        may_be_cancelled: whether what is around the scope is cancelled, so far as is known.
        whole: how long it may clean up for.
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
        self._passing = False  # a Cancelled that may be ours is on its way out of a scope
        self._begun_cancelled = False  # the await that it is in

    def is_due(self) -> bool:
        """Return whether the producer is to be told, at the await that it is in."""
        if self._told or not self._may_be_cancelled():
            return False
        # Seen from here: behind a shield of the producer's own it is not told yet.
        return _is_cancelled() and not self._is_in_nursery()

    def must_be_told_now(self) -> bool:
        """Return whether it must be told here, since a scope of Trio's own comes next."""
        return self.is_due() and bool(_await_chain.is_in_checkpoint(self._coroutine))

    def on_cancelled(self) -> None:
        """Raise the shield, if the Cancelled that is about to be thrown in is ours."""
        if not self.is_due():
            return
        self._scope.shield = True
        # Behind the shield it is cancelled still: this Cancelled is that of a scope of its own,
        # perhaps inside a shield of its own. Behind ours that scope takes it, and sees nothing
        # of another. Ours is to come.
        if not _is_cancelled():
            self._tell()
        elif self._begun_cancelled and _await_chain.is_in_checkpoint(self._coroutine) is None:
            self._scope.shield = False
            self._passing = True

    def on_await(self) -> None:
        """Raise the shield if that had to wait; lower it if it was raised for another scope."""
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
    """Await `coroutine`; tell `shelter` of each await, and of each Cancelled before it goes in."""
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
