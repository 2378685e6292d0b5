"""batched: send several items as one, for clients that redraw, or where each event has a cost.

A batch is sent when it is full, or when its first item has waited long enough. A separate task
watches that time, because the producer may be waiting for something. While a batch waits for a slow
client, the next one fills up; then the producer waits. So at most two batches are held.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import trio

from flowstream._clock import clock
from flowstream._event import Event
from flowstream.buffer._outlet import Outlet
from flowstream.limits import check_count, check_positive
from flowstream.sources._nurseries import run_together
from flowstream.sources._relay import Relay
from flowstream.sources._source import Source
from flowstream.sources._source_like import SourceLike
from flowstream.sources.shapes._wrapper import Wrapper, wrap
from flowstream.tasks._failure import passes

__all__ = ["batched"]

_BURST_ITEMS = 64


def batched(source: SourceLike, max_items: int, max_wait: float | None) -> Source:
    """Return `source` with its items in lists.

    A batch of plain values is a plain list. A batch with events in it is an `Event`. Its data is
    the list of their data, and its id is the last one, so that a client resumes after the batch.
    It has their type, the last retry, and their key if all have the same. It is essential if one
    of them is. An event of another type begins a new batch.

    **Emits** a list when it is full, when its first item came `max_wait` seconds ago, when
    `source` ends, and before it fails. **Waits** where the stream does. **Ends** with `source`, and
    raises what `source` raises, unchanged.

    Args:
        source: what `stream` takes, except a topic or a run.
        max_items: most items in a list, 1 or more.
        max_wait: seconds that an item waits for others; None for as long as it takes.

    Raises:
        SourceError: `source` is not a source of one client.
        TypeError, ValueError: a number is out of range.
    """
    check_count("max_items", max_items, unit="items")
    if max_wait is not None:
        check_positive("max_wait", max_wait, unit="seconds")
    return wrap(source, "batched", lambda inner: _Batched(inner, max_items, max_wait))


class _Batched(Wrapper):
    def __init__(self, inner: Source, max_items: int, max_wait: float | None) -> None:
        super().__init__(inner, alike=False)
        self._max_items = max_items
        self._max_wait = max_wait

    async def run(self, out: Outlet) -> None:
        """Run the inner source, and send its items in lists."""
        batcher = _Batcher(out, self._max_items)
        relay = Relay(batcher.add, out.statistics, batcher.add_nowait, out.reject)
        work = partial(self._run, relay, batcher)
        late = None if self._max_wait is None else partial(batcher.flush_late, self._max_wait)
        await run_together([work], beside=late)

    async def _run(self, relay: Relay, batcher: _Batcher) -> None:
        failure: BaseException | None = None
        try:
            await self._inner.run(relay)
        except BaseException as error:  # noqa: ASYNC103  # see `passes`
            if passes(error):
                raise
            failure = error  # raised below
        # Deliver the items before a failure before the failure is raised.
        try:
            await batcher.flush()
        except Exception as error:
            if failure is None:
                raise
            failure.add_note(f"the items before it could not be sent either: {error!r}")
        if failure is not None:
            raise failure


class _Batcher:
    """Collects items, and sends them as one."""

    def __init__(self, out: Outlet, max_items: int) -> None:
        self._out = out
        self._max_items = max_items
        self._items: list[Any] = []
        self._type: str | None = None
        self._number = 0  # the number of the batch that is being filled
        self._since = 0.0  # when that batch was begun
        self._begun = trio.Event()
        self._sending = trio.StrictFIFOLock()

    async def add(self, item: Any) -> None:
        """Add one item. **Wait** until there is room, and until a batch that is full is sent."""
        while self._is_closed_to(item):
            await self.flush(self._number)
        self._append(item)
        if len(self._items) == self._max_items:
            await self.flush(self._number)
        elif not len(self._items) % _BURST_ITEMS:
            await trio.lowlevel.checkpoint()  # as any outlet does for a producer that never waits

    def add_nowait(self, item: Any) -> None:
        """Add one item, or raise `trio.WouldBlock`."""
        if self._is_closed_to(item):
            raise trio.WouldBlock
        if len(self._items) + 1 == self._max_items:
            if self._sending.locked():
                raise trio.WouldBlock
            self._out.send_nowait(_batch([*self._items, item]))
            self._take()
        else:
            self._append(item)

    async def flush(self, number: int | None = None) -> None:
        """Send the current batch after the one being sent; only batch `number`, if given."""
        async with self._sending:
            if self._items and number in (None, self._number):
                await self._out.send(_batch(self._take()))

    async def flush_late(self, max_wait: float) -> None:
        """Send each batch that was begun `max_wait` seconds ago and is not sent yet."""
        while True:
            await self._begun.wait()
            number = self._number
            await trio.sleep_until(self._since + max_wait)
            await self.flush(number)

    def _is_closed_to(self, item: Any) -> bool:
        full = len(self._items) >= self._max_items
        return full or (bool(self._items) and _type_of(item) != self._type)

    def _append(self, item: Any) -> None:
        if not self._items:
            self._type, self._since = _type_of(item), clock.current_time()
            self._begun.set()
        self._items.append(item)

    def _take(self) -> list[Any]:
        items, self._items = self._items, []
        self._number += 1
        self._begun = trio.Event()
        return items


def _type_of(item: Any) -> str | None:
    return item.type if isinstance(item, Event) else None


def _batch(items: list[Any]) -> Any:
    events = [item for item in items if isinstance(item, Event)]
    if not events:
        return items
    keys = [item.key if isinstance(item, Event) else None for item in items]
    return Event(
        [item.data if isinstance(item, Event) else item for item in items],
        id=_last(events, lambda event: event.id),
        type=events[0].type,
        key=keys[0] if all(key == keys[0] for key in keys) else None,
        essential=any(event.essential for event in events),
        retry=_last(events, lambda event: event.retry),
    )


def _last(events: list[Event], get: Callable[[Event], Any]) -> Any:
    return next((found for event in reversed(events) if (found := get(event)) is not None), None)
