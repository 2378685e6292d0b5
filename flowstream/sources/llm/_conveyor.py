"""Conveyor: carries a thread's items into Trio, while the thread makes the next one.

It is for a producer that takes milliseconds for each item, in one thread from its first item to
its last. (`ThreadedIteration` hops to a thread and back for each batch, so that a slow client holds
no thread. A model would stand still meanwhile, and it makes only one answer at a time anyway.) No
limiter counts the thread: its owner decides how many there are.

The thread may be ahead of the outlet by a bounded number of items, and then waits. It notices the
end of its stream between two items; in between it can't be interrupted. A stream waits for the
thread as long as cleanup may take, and then goes on without it.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import Any

import outcome
import trio

from flowstream.buffer._outlet import Outlet


class Conveyor:
    """Carries items out of one thread; `start`, then `carry`, then `stop`.

    Args:
        ahead: how many items the thread may be ahead of the outlet.
    """

    def __init__(self, ahead: int) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._send, self._receive = trio.open_memory_channel[Any](ahead)
        self._room = threading.Semaphore(ahead)
        self._over = False
        self._ended = trio.Event()
        self._result: outcome.Outcome[None] = outcome.Value(None)

    # -- in the thread ----------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether no more items are wanted."""
        return self._over

    def put(self, item: Any) -> bool:
        """Pass on an item; **wait** while the thread is too far ahead.

        Returns:
            Whether more items are wanted. If not, this one was dropped.
        """
        self._room.acquire()
        if not self._over:
            try:
                self._token.run_sync_soon(self._arrive, item)
            except trio.RunFinishedError:
                self._over = True
        return not self._over

    # -- in Trio ----------------------------------------------------------------------------

    def start(self, work: Callable[[], None], *, then: Callable[[], None]) -> None:
        """Run `work` in a thread, in a copy of this task's context.

        Args:
            work: calls `put`, and returns soon after `put` has returned False.
            then: called in Trio when `work` has returned, perhaps long after `stop` was cancelled.
                Not called if the Trio run has ended by then.
        """
        context = contextvars.copy_context()

        def ended(result: outcome.Outcome[None]) -> None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._end, result, then)

        try:
            trio.lowlevel.start_thread_soon(lambda: context.run(work), ended, "flowstream conveyor")
        except BaseException:
            then()
            raise

    async def carry(self, out: Outlet) -> None:
        """Send each item to `out`; **ends** when the thread has ended."""
        async for item in self._receive:
            await out.send(item)
            self._room.release()

    async def stop(self) -> None:
        """Tell the thread that no more items are wanted, and **wait** until it has ended.

        Raises:
            BaseException: what the thread raised.
        """
        self._over = True
        self._room.release()
        await self._ended.wait()
        self._result.unwrap()

    def _arrive(self, item: Any) -> None:
        if not self._over:
            self._send.send_nowait(item)  # `_room` has reserved a place

    def _end(self, result: outcome.Outcome[None], then: Callable[[], None]) -> None:
        self._result = result
        self._send.close()
        self._ended.set()
        then()
