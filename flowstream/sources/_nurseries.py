"""Nurseries for sources: further tasks of one source, and several sources that run together.

Both are Trio's nursery, with differences that a stream's client can see:

* A failure is raised as itself and not in a group, whichever task fails. So the client gets its
  code and message, and is told of a cancellation only if it is one.
* Cleanup is shielded as it is outside of any nursery (see _shielding.py).

`run_with_tasks` is for a source that waits for more than one thing at once. `run_together` is
for a wrapper that runs other sources in its own tasks: each is cancelled only once, so that its
cleanup finishes, and a cancellation of the whole reaches all of them at once.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

import outcome
import trio

from flowstream.sources._shielding import make_transparent, run_sheltered
from flowstream.tasks._failure import first_of, split

logger = logging.getLogger("flowstream")

Work = Callable[[], Coroutine[Any, Any, None]]


async def run_with_tasks(body: Callable[[trio.Nursery], Awaitable[None]]) -> None:
    """Run `body` with a nursery, and cancel the nursery's tasks when `body` has ended.

    Raises:
        BaseException: what `body` raised; or the failure of a task, which cancels `body`.
    """
    # Carry what `body` raises past the nursery, which would put it into a group.
    result: outcome.Maybe[None] = outcome.Value(None)
    try:
        async with trio.open_nursery() as nursery:
            make_transparent(nursery)
            result = await outcome.acapture(body, nursery)
            nursery.cancel_scope.cancel()
    except BaseException as error:
        if isinstance(result, outcome.Error) and not isinstance(result.error, trio.Cancelled):
            result.unwrap()  # its context is the failure of a task
        _, failure = split(error)
        if failure is not None:
            # Don't raise the Cancelled of `body`: it belongs to this nursery, which has ended.
            raise first_of(failure) from None  # noqa: ASYNC104  # as said
        raise
    result.unwrap()


async def run_together(works: Iterable[Work], *, beside: Work | None = None) -> None:
    """Run all `works` at once, each cancelled once; **wait** until all have ended.

    Args:
        works: the functions to run.
        beside: a function that runs meanwhile. It is cancelled when all `works` have ended.

    Raises:
        BaseException: the first failure. It cancels the others, and is raised when they have
            cleaned up. A failure of one of these is logged.
    """
    together = _Together()
    async with trio.open_nursery() as nursery:
        together.scope = nursery.cancel_scope
        for work in works:
            together.running += 1
            nursery.start_soon(together.do, work)
        if beside is not None:
            nursery.start_soon(together.do_beside, beside)
    if together.failure is not None:
        raise together.failure
    if together.cancelled is not None:
        # This task is cancelled, too. Raise a new Cancelled, so that a `_Shelter` around sees it.
        await trio.lowlevel.checkpoint_if_cancelled()
        raise together.cancelled


class _Together:
    """The state of one `run_together`.

    Attributes:
        scope: the cancel scope around all works.
        running: how many works have not ended.
        failure: the first failure.
        cancelled: a Cancelled that a work has raised.
    """

    __slots__ = ("cancelled", "failure", "running", "scope")

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.running = 0
        self.failure: BaseException | None = None
        self.cancelled: BaseException | None = None

    async def do(self, work: Work) -> None:
        try:
            await run_sheltered(work())
        except BaseException as error:  # noqa: BLE001, ASYNC103  # raised by `run_together`
            self._note(error)
        self.running -= 1
        if not self.running:
            self.scope.cancel()  # ends `beside`

    async def do_beside(self, work: Work) -> None:
        try:
            await work()
        except BaseException as error:  # noqa: BLE001, ASYNC103  # raised by `run_together`
            self._note(error)

    def _note(self, error: BaseException) -> None:
        cancelled, rest = split(error)
        failure = error if cancelled is None and rest is None else rest
        if cancelled is not None and not self.scope.cancel_called:
            self.cancelled = cancelled
        if failure is None:
            return
        if self.failure is None:
            self.failure = failure
        else:
            logger.error("a source failed while it was cancelled for another", exc_info=failure)
        self.scope.cancel()
