"""Sync iterables: iterated in worker threads, in batches.

A hop to a thread and back costs some 100 µs, so a thread fetches what it can get in a few
milliseconds and comes back with all of it: rows that are there travel hundreds at a time,
a slow iterable's items one by one and at once. Between hops no thread is held, so a client
that reads slowly occupies none.

Successive batches may run in different threads; an iterable that is bound to one thread
must not mind (``sqlite3.connect(..., check_same_thread=False)``). They share one context,
so contextvars set in one batch are seen in the next.

`next()` cannot be interrupted. When the client goes while it runs, the stream waits for it
as long as cleanup may take, then leaves it; the thread closes the iterable itself when it
comes back.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import trio

from flowstream._outlet import Outlet
from flowstream.sources._source import Source

_BATCH_ITEMS = 256
_BATCH_SECONDS = 0.005

# Trio's own default limiter has 40 tokens, which an app's other threads also need: a limiter
# apart, so that 40 slow cursors don't keep the app from opening a file.
_TOTAL_THREADS = 40
_limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("flowstream threads")


def thread_limiter() -> trio.CapacityLimiter:
    """Return the limiter of the worker threads that iterate sync sources (40 at once).

    It belongs to the current Trio run. Set its ``total_tokens`` to change the bound.
    """
    try:
        return _limiter.get()
    except LookupError:
        limiter = trio.CapacityLimiter(_TOTAL_THREADS)
        _limiter.set(limiter)
        return limiter


class ThreadedIteration(Source):
    """A sync iterable or generator; or a generator function, called in the thread.

    Args:
        iterable: what is iterated; or, with `call`, what returns it.
        call: whether `iterable` is a function of no arguments.
    """

    def __init__(self, iterable: Any, *, call: bool = False) -> None:
        self._given = iterable
        self._call = call
        self._iterator: Iterator[Any] | None = None
        self._lock = threading.Lock()
        self._busy = False  # a thread is inside the iterator
        self._over: bool = False  # nobody wants more: whoever is last in closes the iterator

    async def run(self, out: Outlet) -> None:
        """Send each item, fetched in batches by a worker thread; then close the iterator."""
        context = contextvars.copy_context()
        limiter = thread_limiter()
        token = trio.lowlevel.current_trio_token()
        closed = trio.Event()

        def hop() -> _Batch:
            with self._lock:
                if self._over:  # cancelled before this thread got to run
                    return _Batch([])
                self._busy = True
            try:
                return self._fetch()
            finally:
                if self._leave():
                    self._close()
                    _tell(token, closed)

        try:
            last = False
            while not last:
                batch = await trio.to_thread.run_sync(
                    context.run, hop, limiter=limiter, abandon_on_cancel=True
                )
                for item in batch.items:
                    await out.send(item)
                if batch.error is not None:
                    raise batch.error
                last = batch.last
        finally:
            with self._lock:
                self._over = True
                busy = self._busy
            if busy:
                await closed.wait()  # noqa: ASYNC102  # see _shielding.py
            else:
                # A copy: the thread that has just come back may still be leaving the context.
                await trio.to_thread.run_sync(  # noqa: ASYNC102  # see _shielding.py
                    context.copy().run, self._close, limiter=limiter, abandon_on_cancel=True
                )

    async def discard(self) -> None:
        """Close what was handed over, if it can be closed."""
        if not self._call:
            self._iterator = self._given
            await trio.to_thread.run_sync(self._close, limiter=thread_limiter())

    def _fetch(self) -> _Batch:
        """Return the next items. Runs in a thread."""
        items: list[Any] = []
        try:
            if self._iterator is None:
                self._iterator = iter(self._given() if self._call else self._given)
            end = perf_counter() + _BATCH_SECONDS
            for item in self._iterator:
                items.append(item)
                if self._over or len(items) >= _BATCH_ITEMS or perf_counter() > end:
                    return _Batch(items)
        except Exception as error:  # noqa: BLE001  # raised by `run`, after the items
            # What came before the failure is delivered before it is told.
            return _Batch(items, error=error)
        return _Batch(items, last=True)

    def _leave(self) -> bool:
        """Note that the thread is out of the iterator; return whether it is to close it."""
        with self._lock:
            self._busy = False
            return self._over

    def _close(self) -> None:
        close = getattr(self._iterator, "close", None)
        if close is not None:
            close()


@dataclass(slots=True)
class _Batch:
    """What one hop to a thread brought back."""

    items: list[Any]
    last: bool = False
    error: Exception | None = None


def _tell(token: trio.lowlevel.TrioToken, event: trio.Event) -> None:
    # The Trio run may have ended while the thread was still in the iterator.
    with contextlib.suppress(trio.RunFinishedError):
        token.run_sync_soon(event.set)
