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

The children of a nursery that a producer function opens follow Trio's ordinary rules.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import outcome
import trio


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
    with trio.CancelScope() as cleanup:

        def shield() -> None:
            if scope.cancel_called and not cleanup.shield:
                cleanup.shield = True
                if trio.current_effective_deadline() == -math.inf:
                    # Behind the shield it is cancelled still: this Cancelled is that of a
                    # scope of its own, perhaps inside a shield of its own. Ours is to come.
                    cleanup.shield = False
                else:
                    cleanup.deadline = trio.current_time() + cleanup_timeout

        await _watch(coroutine, shield)
    return cleanup.cancelled_caught


@types.coroutine
def _watch(
    coroutine: Coroutine[Any, Any, None], on_cancelled: Callable[[], None]
) -> Generator[Any, Any, None]:
    """Await `coroutine`, calling `on_cancelled` before each Cancelled that goes into it."""
    thrown: BaseException | None = None
    value: Any = None
    while True:
        try:
            trap = coroutine.send(value) if thrown is None else coroutine.throw(thrown)
        except StopIteration:
            return
        try:
            value, thrown = (yield trap), None
        except BaseException as error:  # noqa: BLE001, ASYNC103  # passed on
            thrown = error
        else:
            if isinstance(value, outcome.Error) and isinstance(value.error, trio.Cancelled):
                on_cancelled()
