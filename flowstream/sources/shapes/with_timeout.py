"""with_timeout: let a source fail that is silent for too long.

It times only the producer. While an item waits for a slow client, the clock stands still; for slow
clients there is `Limits.stall_timeout`.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import trio

from flowstream._clock import clock
from flowstream._errors import UpstreamError
from flowstream.buffer._outlet import Outlet
from flowstream.limits import check_positive
from flowstream.sources._nurseries import run_together
from flowstream.sources._relay import Relay
from flowstream.sources._source import Source
from flowstream.sources._source_like import SourceLike
from flowstream.sources.shapes._wrapper import Wrapper, wrap

__all__ = ["with_timeout"]


def with_timeout(
    source: SourceLike, *, first: float | None = None, between: float | None = None
) -> Source:
    """Return `source`, which fails if it is silent for too long.

    **Emits** each item as it comes. **Ends** with `source`, or when the time is up: then `source`
    is cancelled, and the failure is raised when it has cleaned up. With ``prime=`` a timeout before
    the first item is answered with 504. Later it is a ``failed`` event.

    Args:
        source: what `stream` takes, except a topic or a run.
        first: seconds until the first item, or the end; None, the default, for no bound.
        between: seconds from one item to the next, or to the end; None for no bound.

    Raises:
        SourceError: `source` is not a source of one client.
        TypeError, ValueError: a number is not more than 0, or neither is given.
        UpstreamError: in the stream: code ``timeout``, status 504, retryable.
    """
    if first is None and between is None:
        raise TypeError("with_timeout() needs first=, between= or both")
    for name, seconds in (("first", first), ("between", between)):
        if seconds is not None:
            check_positive(name, seconds, unit="seconds")
    return wrap(source, "with_timeout", lambda inner: _Timed(inner, first, between))


class _Timed(Wrapper):
    def __init__(self, inner: Source, first: float | None, between: float | None) -> None:
        super().__init__(inner, alike=True)
        self._first = math.inf if first is None else first
        self._between = math.inf if between is None else between

    async def run(self, out: Outlet) -> None:
        """Run the inner source, and cancel it if it is silent for too long.

        Raises:
            UpstreamError: it was silent for too long.
        """
        watch = _Watch(self._first, self._between)

        async def send(item: Any) -> None:
            watch.stop()
            try:
                await out.send(item)
            finally:
                watch.go_on()

        def send_nowait(item: Any) -> None:
            out.send_nowait(item)
            watch.stop()
            watch.go_on()

        relay = Relay(send, out.statistics, send_nowait, out.reject)
        await run_together([partial(self._inner.run, relay)], beside=watch.run)


class _Watch:
    """Measures for how long the producer has been silent.

    It runs in a task of its own, which sleeps; each item costs a look at the clock. (Turned down: a
    cancel scope whose deadline moves with each item. If the client leaves, and the deadline passes
    while the producer cleans up, the scope would look as if the time had been up first.)
    """

    def __init__(self, first: float, between: float) -> None:
        self._between = between
        self._allowed = first
        self._since = clock.current_time()
        self._sending = 0  # tasks of the producer that are in `send`
        self._looks_at = math.inf  # when the task looks at the clock next
        self._moved = trio.Event()

    def stop(self) -> None:
        """Stop the clock: an item is on its way."""
        self._sending += 1

    def go_on(self) -> None:
        """Start the clock again from 0, unless another item is on its way."""
        self._sending -= 1
        self._allowed, self._since = self._between, clock.current_time()
        if not self._sending and self._since + self._between < self._looks_at:
            self._moved.set()

    async def run(self) -> None:
        """**Wait** until the producer has been silent for too long.

        Raises:
            UpstreamError: it has been.
        """
        while True:
            due = math.inf if self._sending else self._since + self._allowed
            if due <= clock.current_time():
                # If the client has left at the same time, that ends the stream.
                await trio.lowlevel.checkpoint_if_cancelled()
                message = f"Nothing has come for {self._allowed:g} s."
                raise UpstreamError("timeout", message, status=504)
            self._looks_at, self._moved = due, trio.Event()
            with trio.move_on_at(due):
                await self._moved.wait()
