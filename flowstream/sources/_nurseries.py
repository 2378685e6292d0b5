"""Nurseries for sources: tasks beside a source's own, and sources run together.

Both are Trio's nursery, with differences that a stream's client can see:

* A failure comes out as itself and not in a group, whichever task it is that fails. The client
  is told its code and message, and is told of a cancellation only if it is one.
* Cleanup is shielded as it is outside of any nursery (see _shielding.py).

`run_with_tasks` is for a source that waits for more than one thing at once. `run_together` is
for a wrapper that runs other sources in tasks of its own: each is cancelled once, so that its
cleanup comes to its end, and what cancels the whole reaches each of them at once.
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
    """Run `body` with a nursery, whose tasks are cancelled when it has ended.

    Raises:
        BaseException: what `body` raised; or what failed in a task, for which `body` was
            cancelled.
    """
    # What `body` raises is carried past the nursery, which would make a group of it.
    result: outcome.Maybe[None] = outcome.Value(None)
    try:
        async with trio.open_nursery() as nursery:
            make_transparent(nursery)
            result = await outcome.acapture(body, nursery)
            nursery.cancel_scope.cancel()
    except BaseException as error:
        if isinstance(result, outcome.Error) and not isinstance(result.error, trio.Cancelled):
            result.unwrap()  # with what failed in a task for its context
        _, failure = split(error)
        if failure is not None:
            # Not the Cancelled of `body`: that is this nursery's, and nobody else would take it.
            raise first_of(failure) from None  # noqa: ASYNC104  # as said
        raise
    result.unwrap()


async def run_together(works: Iterable[Work], *, beside: Work | None = None) -> None:
    """Run all `works` at once, each cancelled once; **wait** until all have ended.

    Args:
        works: what is to be done.
        beside: what goes on meanwhile, and is cancelled when all `works` have ended.

    Raises:
        BaseException: what the first of them raised, when the others, cancelled because of
            it, have cleaned up. What one of these raises then is logged.
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
        # It is for this task, too; raised anew, so that what is around sees it delivered.
        await trio.lowlevel.checkpoint_if_cancelled()
        raise together.cancelled


class _Together:
    """How it went so far.

    Attributes:
        scope: around all of it.
        running: how many works have not ended.
        failure: the first one.
        cancelled: a Cancelled that came out of a work.
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
            self.scope.cancel()  # what goes on beside

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
