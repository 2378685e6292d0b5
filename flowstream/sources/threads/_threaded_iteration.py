"""Sync iterables: iterated in worker threads, in batches.

A hop to a thread and back costs some 100 µs, so a thread fetches what it can get in a few
milliseconds and comes back with all of it: rows that are there travel hundreds at a time.
What it has by then is sent even if it is held up in the next `next()`, so a slow iterable's
items leave at once, the last of a burst too. Between hops no thread is held, so a client
that reads slowly occupies none.

Successive batches may run in different threads; an iterable that is bound to one thread
must not mind (``sqlite3.connect(..., check_same_thread=False)``). They share one context,
so contextvars set in one batch are seen in the next. The iterable is closed in it, too:
what was set in a context cannot be reset in a copy of it.

`next()` cannot be interrupted. When the client goes while it runs, the stream waits for it
as long as cleanup may take, then leaves it; the thread closes the iterable itself when it
comes back.
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
        iterable: what is iterated; or, with `call`, what returns it.
        call: whether `iterable` is a function of no arguments.
        batch: items that are fetched at once, at the most; fewer where they are large.
        pool: whose threads iterate it and close it; by default those for an app's iterables.
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
        self._over: bool = False  # nobody wants more: whoever is last in closes the iterator

    async def run(self, out: Outlet) -> None:
        """Send each item, fetched in batches by a worker thread; then close the iterator."""
        await run_with_tasks(partial(self._iterate, out))

    async def discard(self) -> None:
        """Close what was handed over, if it can be closed."""
        if not self._call:
            await self._closing_pool().run_surely(self._close)

    def _closing_pool(self) -> Pool:
        """Return whose threads close it: not behind those that are stuck in others."""
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
                    # Out of the context: from here on another thread may enter it.
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
            # What came before the failure is delivered before it is told.
            batch.error = error

    def _leave(self) -> bool:
        """Note that the thread is out of the iterator; return whether it is to close it."""
        with self._lock:
            self._busy = False
            return self._over

    def _close(self) -> None:
        close = getattr(self._iterator, "close", None)
        if close is not None:
            close()


class _Batch:
    """What one hop to a thread brings back, some of it while the thread is still away.

    Attributes:
        items: what was fetched and not yet sent.
        last: the iterator has ended.
        error: or failed.
        late: the thread is to come back with the next item; set by the event loop.
        ready: it is late, or the thread has come back.
        returned: the thread has come back.
        scope: cancel it to leave the thread alone. Shielded, so that a cancelled stream does
            so when it is ready to clean up, and not the other way round.
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
        """Have what there is sent after a few milliseconds, and the thread called back."""
        await trio.sleep(_BATCH_SECONDS)
        self.late = True
        self.ready.set()

    async def send_to(self, out: Outlet) -> None:
        """Send what is there; the thread may be adding to it."""
        while self.items:
            await out.send(self.items.popleft())


class _Closing:
    """How the iterator was closed by a thread that was in it when it was over."""

    __slots__ = ("done", "result")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.result: outcome.Maybe[None] = outcome.Value(None)


async def _in_thread(pool: Pool, hop: Callable[[], None], batch: _Batch) -> None:
    with batch.scope:
        # The timer is here and not in the task that sends: a timeout of its own that ends as
        # the stream is cancelled would hide the one from the other (see _shielding.py).
        async with trio.open_nursery() as timer:
            # A batch is timed from when it has a thread.
            await pool.run(hop, granted=lambda: timer.start_soon(batch.become_late))
            timer.cancel_scope.cancel()
        batch.returned.set()
        batch.ready.set()


def _tell(token: trio.lowlevel.TrioToken, event: trio.Event) -> None:
    # The Trio run may have ended while the thread was still in the iterator.
    with contextlib.suppress(trio.RunFinishedError):
        token.run_sync_soon(event.set)
