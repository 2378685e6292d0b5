"""Tasks beside a source's own: for a source that waits for more than one thing at once.

Trio's nursery, with two differences. Cleanup in the source's own task is shielded as it is
outside of any nursery (see _shielding.py). And what fails comes out as itself and not in a
group, whichever task it is that fails: the stream is told of a cancellation only if it is one.
(A wrapper, which runs other sources in its tasks, has `run_together`.)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import outcome
import trio

from flowstream.sources._shielding import make_transparent
from flowstream.tasks._failure import first_of, split


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
