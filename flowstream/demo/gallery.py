"""The gallery: every stream of the demo, running or lately ended, with its live statistics.

It keeps the responses and asks them for their statistics, so that the page shows what any app can
know of its own streams. Of an ended stream it keeps only the frozen statistics, which hold no
buffer.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

import trio

from flowstream import Event, StreamResponse, StreamStatistics

from .demo_feed import DemoFeed
from .system import resident_memory
from .unicode_table import cursors

ROOM = 64
"""Streams at a time. Clients that ask for more are told to wait."""

REMEMBERED = 32
"""Ended streams that are still shown."""

UNSTARTED = 10.0
"""Seconds after which a stream that was made but never started is forgotten."""

INTERVAL = 0.25
"""Seconds between two pictures of the gallery: often enough to look alive."""


Owed = Callable[[StreamStatistics], int]
"""Returns the bytes that an unbounded queue would hold for a client with these statistics."""


class NoRoomError(Exception):
    """There are `ROOM` streams already; the view answers 503."""


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One stream, and what the page shows of it besides its statistics."""

    number: int
    client: str
    path: str
    policy: str
    response: StreamResponse
    made: float
    owed: Owed | None
    """What an unbounded queue would hold for its client; None if that is not known."""


class Gallery:
    """Holds at most `room` running streams, and `remembered` ended ones."""

    def __init__(self, room: int = ROOM, remembered: int = REMEMBERED) -> None:
        self.feed: DemoFeed = DemoFeed()
        self._room = room
        self._numbers = itertools.count(1)
        self._exhibits: list[Exhibit] = []
        self._ended: deque[dict[str, Any]] = deque(maxlen=remembered)

    def check_room(self) -> None:
        """Raise `NoRoomError` if no stream may be added."""
        self._sweep()
        if len(self._exhibits) >= self._room:
            raise NoRoomError(f"{self._room} streams are open, which is all the demo has room for")

    def add(
        self,
        response: StreamResponse,
        *,
        client: str | None,
        path: str,
        policy: str,
        owed: Owed | None = None,
    ) -> StreamResponse:
        """Show `response` from now on, and return it.

        Args:
            response: the stream.
            client: the name that its client gave; None for a name of ours.
            path: where it is served.
            policy: the name of its policy.
            owed: returns what an unbounded queue would hold for it.

        Raises:
            NoRoomError: the gallery is full.
        """
        self.check_room()
        number = next(self._numbers)
        name = f"client-{number}" if client is None else client
        now = trio.current_time()
        self._exhibits.append(Exhibit(number, name, path, policy, response, now, owed))
        return response

    def picture(self) -> dict[str, Any]:
        """Return a picture of the gallery now, as JSON values."""
        self._sweep()
        counted = cursors.statistics()
        running = [_describe(exhibit) for exhibit in self._exhibits]
        return {
            "time": time.time(),
            "memory": resident_memory(),
            "published": self.feed.published,
            "cursors": {"open": counted.open, "opened": counted.opened},
            "room": self._room,
            "streams": running + list(self._ended),
        }

    async def pictures(self, interval: float = INTERVAL) -> AsyncGenerator[Event, None]:
        """Yield a picture every `interval` seconds, for ever."""
        while True:
            # One key for all, so that with `Conflate` a slow viewer sees only the newest picture.
            yield Event(self.picture(), key="picture")
            await trio.sleep(interval)

    def _sweep(self) -> None:
        kept = []
        for exhibit in self._exhibits:
            state = exhibit.response.statistics().state
            if state == "closed":
                self._ended.appendleft(_describe(exhibit))
            elif state != "new" or trio.current_time() - exhibit.made < UNSTARTED:
                kept.append(exhibit)
        self._exhibits = kept


def _describe(exhibit: Exhibit) -> dict[str, Any]:
    now = exhibit.response.statistics()
    return {
        "number": exhibit.number,
        "client": exhibit.client,
        "owed": exhibit.owed(now) if exhibit.owed is not None else 0,
        "path": exhibit.path,
        "policy": exhibit.policy,
        "state": now.state,
        "reason": now.reason,
        "items": now.items,
        "bytes": now.bytes,
        "dropped": now.dropped,
        "gaps": now.gaps,
        "heartbeats": now.heartbeats,
        "duration": round(now.duration, 3),
        "longest_wait": round(now.longest_wait, 3),
        "sending_for": round(now.sending_for, 3),
        "buffer": {
            "items": now.buffer.items,
            "bytes": now.buffer.bytes,
            "max_items": now.buffer.max_items,
            "max_bytes": now.buffer.max_bytes,
        },
    }
