"""progress: send how far a source is, as events between its items.

It looks at the clock when an item passes. While no item passes there is nothing new to report, and
the stream's heartbeats show that it is alive. So it needs no task and no timer, and its events are
in the right order.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Hashable
from typing import Any

import msgspec

from flowstream._clock import clock
from flowstream._event import Event
from flowstream.buffer._outlet import Outlet
from flowstream.limits import check_positive
from flowstream.sources._relay import Relay
from flowstream.sources._source import Source
from flowstream.sources._source_like import SourceLike
from flowstream.sources.shapes._wrapper import Wrapper, wrap

__all__ = ["Progress", "progress"]


class Progress(msgspec.Struct, frozen=True, tag_field="type", tag="progress"):
    """How far a source is. `EventTypes` takes it like a type of the app's own."""

    items: int
    """Items sent."""
    seconds: float
    """Seconds since the first item was asked for."""
    rate: float | None
    """Items per second, on average; None before the first."""
    total: float | None
    """Items in all; None if that is not known."""
    fraction: float | None
    """The part of `total` that is sent, from 0 to 1."""
    seconds_left: float | None
    """Seconds until the last item, at this rate."""


def progress(
    source: SourceLike,
    *,
    every: float = 1.0,
    total: float | None = None,
    key: Hashable = "progress",
    tell: Callable[[Progress], object] | None = None,
) -> Source:
    """Return `source` with events of type ``progress`` between its items.

    Their data is a `Progress`: the number of items sent, the seconds it took, and what follows
    from these and from `total`. All have `key`, so that `Conflate` keeps the newest for a slow
    client. If the app gives ids, each has the id of the item before it, so that a client that
    resumes there misses nothing.

    **Emits** each item. After an item, it emits a progress event if the last one was `every`
    seconds ago or more. At the end it emits a last one, which is essential; before a failure it
    emits none. **Waits** where the stream does. **Ends** with `source`, and raises what `source`
    raises.

    Args:
        source: what `stream` takes, except a topic or a run.
        every: least seconds between progress events; 1 by default.
        total: how many items there will be, if that is known.
        key: the key of its events, for `Conflate`. Two `progress` in one stream need two keys.
        tell: a function that gets each `Progress`; then no progress events are sent. Use it for
            a table or raw bytes, which have no room for events. It must not wait;
            ``topic.publish_nowait`` is one.

    Raises:
        SourceError: `source` is not a source of one client.
        TypeError, ValueError: `every` is not more than 0, `total` is negative or not finite, or
            `key` is not hashable.
    """
    check_positive("every", every, unit="seconds")
    if total is not None:
        if isinstance(total, bool) or not isinstance(total, (int, float)):
            raise TypeError(f"total must be a number of items, not {type(total).__name__}")
        if not 0 <= total < math.inf:
            raise ValueError(f"total must be 0 or more items, and finite, not {total!r}")
    hash(key)
    if tell is not None and (not callable(tell) or inspect.iscoroutinefunction(tell)):
        raise TypeError("tell must be a plain function of a Progress: nobody would await it")
    return wrap(source, "progress", lambda inner: _Progress(inner, every, total, key, tell))


class _Progress(Wrapper):
    def __init__(
        self,
        inner: Source,
        every: float,
        total: float | None,
        key: Hashable,
        tell: Callable[[Progress], object] | None,
    ) -> None:
        super().__init__(inner, alike=tell is not None)
        self.typed = tell is None or inner.typed
        self._tell = tell
        self._every = every
        self._total = total
        self._key = key

    async def run(self, out: Outlet) -> None:
        """Run the inner source, and send its progress."""
        meter = _Meter(self._total, self._key)
        every = self._every

        async def tell_how_far(*, essential: bool = False) -> None:
            event = meter.event(essential=essential)
            if self._tell is None:
                await out.send(event)
            else:
                self._tell(event.data)

        async def send(item: Any) -> None:
            await out.send(item)
            meter.count(item)
            if meter.is_due(every):
                await tell_how_far()

        def send_nowait(item: Any) -> None:
            out.send_nowait(item)
            meter.count(item)  # reported after the next item that can wait

        await self._inner.run(Relay(send, out.statistics, send_nowait, out.reject))
        await tell_how_far(essential=True)


class _Meter:
    """Counts what has passed, and remembers when that was last reported."""

    def __init__(self, total: float | None, key: Hashable) -> None:
        self._total = total
        self._key = key
        self._start = self._told = clock.current_time()
        self._items = 0
        self._id: str | None = None

    def count(self, item: Any) -> None:
        """Count one item."""
        self._items += 1
        if isinstance(item, Event) and item.id is not None:
            self._id = item.id

    def is_due(self, every: float) -> bool:
        """Return whether it is time for a report."""
        return clock.current_time() - self._told >= every

    def event(self, *, essential: bool = False) -> Event:
        """Return the report of this moment."""
        self._told = now = clock.current_time()
        items, total, seconds = self._items, self._total, now - self._start
        rate = items / seconds if seconds else None
        left = None if total is None else max(total - items, 0)
        body = Progress(
            items=items,
            seconds=round(seconds, 3),
            rate=_rounded(rate),
            total=total,
            fraction=None if total is None else _fraction(items, total),
            seconds_left=_rounded(left / rate) if rate and left is not None else None,
        )
        return Event(body, id=self._id, type="progress", key=self._key, essential=essential)


def _fraction(items: int, total: float) -> float:
    return round(items / total, 4) if items < total else 1.0


def _rounded(value: float | None) -> float | None:
    """Round to four digits, because a client shows the number."""
    if value is None or not value:
        return value
    return round(value, max(3 - math.floor(math.log10(abs(value))), 0))
