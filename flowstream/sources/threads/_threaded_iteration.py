"""Sync iterables: iterated in worker threads, in batches.

A hop to a thread and back costs some 100 µs. So a thread fetches as many items as it can get in a
few milliseconds, and comes back with all of them: ready rows travel hundreds at a time. After that
time the fetched items are sent even if the thread still waits in `next()`. So a slow iterable's
items leave at once, also the last of a burst. Between hops no thread is held, so a client that
reads slowly occupies none.

Successive batches may run in different threads, so an iterable must not depend on one thread
(``sqlite3.connect(..., check_same_thread=False)``). The batches share one context, so a contextvar
that is set in one batch is seen in the next. The iterable is closed in that context, too: what was
set in a context can't be reset in a copy of it.

`next()` can't be interrupted. When the client leaves while it runs, the stream waits as long as
cleanup may take, and then goes on without the thread, which closes the iterable when it comes back.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import outcome
import trio

from flowstream.buffer._outlet import Outlet
from flowstream.sources._nurseries import run_with_tasks
from flowstream.sources._source import Source
from flowstream.sources.threads._pools import Pool, pools

_BATCH_ITEMS = 256
_BATCH_SECONDS = 0.005


class ThreadedIteration(Source):
    """A sync iterable or generator; or a generator function, called in the thread.

    Args:
        iterable: the iterable; with `call` a function that returns it.
        call: whether `iterable` is a function without arguments.
        batch: the most items that are fetched at once; fewer if they are large.
        pool: its threads iterate and close the iterable; by default that for an app's iterables.
    """

    def __init__(
        self,
        iterable: Any,
        *,
        call: bool = False,
        batch: int = _BATCH_ITEMS,
        pool: Pool | None = None,
    ) -> None:
        self._pool = pool
        self._batch = batch
        self._given = iterable
        self._call = call
        self._iterator: Any = None if call else iterable
        self._started = False
        self._lock = threading.Lock()
        self._busy = False  # a thread is inside the iterator
        self._over: bool = False  # no more items are wanted: the last user closes the iterator

    async def run(self, out: Outlet) -> None:
        """Send each item, fetched in batches by a worker thread; then close the iterator."""
        await run_with_tasks(partial(self._iterate, out))

    async def discard(self) -> None:
        """Close the iterable, if it can be closed."""
        if not self._call:
            await self._closing_pool().run_surely(self._close)

    def _closing_pool(self) -> Pool:
        """Return the pool that closes it, which never waits for threads stuck in iterables."""
        return pools().closing if self._pool is None else self._pool

    async def _iterate(self, out: Outlet, nursery: trio.Nursery) -> None:
        context = contextvars.copy_context()
        token = trio.lowlevel.current_trio_token()
        closing = _Closing()
        batch = _Batch()
        pool = pools().iterables if self._pool is None else self._pool
        try:
            while not batch.last:
                batch = _Batch()

                def hop(batch: _Batch = batch) -> None:
                    with self._lock:
                        if self._over:  # cancelled before this thread got to run
                            return
                        self._busy = True
                    context.run(self._fetch, batch)
                    # Outside of the context: another thread may enter it from here on.
                    if self._leave():
                        closing.result = outcome.capture(context.run, self._close)
                        _tell(token, closing.done)

                nursery.start_soon(_in_thread, pool, hop, batch)
                await batch.ready.wait()
                await batch.send_to(out)
                await batch.returned.wait()
                await batch.send_to(out)
                if batch.error is not None:
                    raise batch.error
        finally:
            batch.scope.cancel()
            with self._lock:
                self._over = True
                busy = self._busy
            if busy:
                await closing.done.wait()  # noqa: ASYNC102  # see _shielding.py
                closing.result.unwrap()
            elif self._iterator is not None:
                await self._closing_pool().run_surely(  # noqa: ASYNC102  # see _shielding.py
                    partial(context.run, self._close)
                )

    def _fetch(self, batch: _Batch) -> None:
        """Add the next items to `batch`. Runs in a thread."""
        try:
            if not self._started:
                self._started = True
                self._iterator = iter(self._given() if self._call else self._given)
            for item in self._iterator:
                batch.items.append(item)
                if batch.late or self._over or len(batch.items) >= self._batch:
                    return
            batch.last = True
        except BaseException as error:  # noqa: BLE001, ASYNC103  # raised later
            # Items from before the failure are delivered first.
            batch.error = error

    def _leave(self) -> bool:
        """Note that the thread has left the iterator; return whether it must close it."""
        with self._lock:
            self._busy = False
            return self._over

    def _close(self) -> None:
        close = getattr(self._iterator, "close", None)
        if close is not None:
            close()


class _Batch:
    """The items of one hop to a thread. Some may be sent while the thread is still away.

    Attributes:
        items: the items that were fetched and not sent yet.
        last: whether the iterator has ended.
        error: the iterator's failure, or None.
        late: whether the thread should come back with the next item; set by the event loop.
        ready: set when it is late, or the thread has come back.
        returned: set when the thread has come back.
        scope: cancel it to go on without the thread. It is shielded: a cancelled stream first gets
            ready to clean up, and then cancels it.
    """

    __slots__ = ("error", "items", "last", "late", "ready", "returned", "scope")

    def __init__(self) -> None:
        self.items: deque[Any] = deque()
        self.last = False
        self.error: BaseException | None = None
        self.late = False
        self.ready = trio.Event()
        self.returned = trio.Event()
        self.scope = trio.CancelScope(shield=True)

    async def become_late(self) -> None:
        """After a few milliseconds send the items that are there, and call the thread back."""
        await trio.sleep(_BATCH_SECONDS)
        self.late = True
        self.ready.set()

    async def send_to(self, out: Outlet) -> None:
        """Send the items that are there. The thread may be adding more."""
        while self.items:
            await out.send(self.items.popleft())


class _Closing:
    """How a thread closed the iterator that it was in when no more items were wanted."""

    __slots__ = ("done", "result")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.result: outcome.Maybe[None] = outcome.Value(None)


async def _in_thread(pool: Pool, hop: Callable[[], None], batch: _Batch) -> None:
    with batch.scope:
        # The timer is here and not in the sending task: a timeout there that ends just as the
        # stream is cancelled would hide the cancellation (see _shielding.py).
        async with trio.open_nursery() as timer:
            # A batch's time begins when it has a thread.
            await pool.run(hop, granted=lambda: timer.start_soon(batch.become_late))
            timer.cancel_scope.cancel()
        batch.returned.set()
        batch.ready.set()


def _tell(token: trio.lowlevel.TrioToken, event: trio.Event) -> None:
    # The Trio run may have ended while the thread was still in the iterator.
    with contextlib.suppress(trio.RunFinishedError):
        token.run_sync_soon(event.set)
