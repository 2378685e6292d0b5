"""Conveyor: carries what a thread makes into Trio, while the thread goes on with the next.

For a producer that is busy for milliseconds with each item, in one thread from its first item
to its last. (`ThreadedIteration` hops to a thread and back for each batch, so that no thread
is held by a slow client; a model that computes would stand still meanwhile, and belongs to
one answer anyhow.) The thread is not one of a limiter's: its owner says how many there are.

The thread is ahead of the outlet by a bounded number of items, and waits when it is. It hears
of the end of its stream between two items; what it does in between cannot be interrupted. A
stream waits for that as long as cleanup may take, and then leaves the thread to itself.
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
        ahead: items that the thread may be ahead of the outlet.
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
        """Whether nobody wants more."""
        return self._over

    def put(self, item: Any) -> bool:
        """Hand over an item; **waits** while the thread is as far ahead as it may be.

        Returns:
            Whether more is wanted. If not, the item was not handed over.
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
            work: what calls `put`; to return soon once that has returned false.
            then: called in Trio when the thread is out of `work`, be it long after `stop`
                was cancelled. Not called if the Trio run is over by then.
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
        """Send each item to `out`; **ends** when the thread has."""
        async for item in self._receive:
            await out.send(item)
            self._room.release()

    async def stop(self) -> None:
        """Tell the thread that no more is wanted, and wait until it has ended.

        Raises:
            BaseException: what it raised.
        """
        self._over = True
        self._room.release()
        await self._ended.wait()
        self._result.unwrap()

    def _arrive(self, item: Any) -> None:
        if not self._over:
            self._send.send_nowait(item)  # `_room` has kept a place for it

    def _end(self, result: outcome.Outcome[None], then: Callable[[], None]) -> None:
        self._result = result
        self._send.close()
        self._ended.set()
        then()
