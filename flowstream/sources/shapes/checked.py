"""checked: check that a source sends only the events that it may send.

``events=`` checks an item when it is written in the stream's format. The items of a run have no
format until somebody reads them, so it would depend on the readers whether a wrong item is found.
This wrapper checks each item where it is made.
"""

from __future__ import annotations

from typing import Any

from flowstream.buffer._outlet import Outlet
from flowstream.event_types import EventTypes
from flowstream.sources._relay import Relay
from flowstream.sources._source import Source
from flowstream.sources._source_like import SourceLike
from flowstream.sources.shapes._wrapper import Wrapper, wrap

__all__ = ["checked"]


def checked(source: SourceLike, events: EventTypes) -> Source:
    """Return `source`, which fails if it sends anything but `events`.

    **Emits** each item, unchanged. **Waits** where the stream does. **Ends** with `source`, or
    with the first item that is wrong: its ``send`` raises `EncodingError`.

    Args:
        source: what `stream` takes, except a topic or a run.
        events: what it may send.

    Raises:
        SourceError: `source` is not a source of one client.
        TypeError: `events` is not an `EventTypes`.
    """
    if not isinstance(events, EventTypes):
        raise TypeError(f"events must be an EventTypes(...), not a {type(events).__name__}")
    return wrap(source, "checked", lambda inner: _Checked(inner, events))


class _Checked(Wrapper):
    def __init__(self, inner: Source, events: EventTypes) -> None:
        super().__init__(inner, alike=True)
        self._events = events

    async def run(self, out: Outlet) -> None:
        """Run the inner source, and check each of its items."""
        check = self._events.check

        async def send(item: Any) -> None:
            await out.send(check(item))

        def send_nowait(item: Any) -> None:
            out.send_nowait(check(item))

        await self._inner.run(Relay(send, out.statistics, send_nowait, out.reject))
