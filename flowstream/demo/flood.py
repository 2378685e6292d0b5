"""The flood: more events than a slow client can take, numbered so that no loss can hide.

Each event has its number, from 1. So a client can check what flowstream promises: the events that
it received and those announced as missed add up to the last number. An event may be padded, because
the buffers of the kernel and of the client first take what the client does not read, 2 MB and more
in a browser. Only then does the server notice.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from flowstream import (
    Block,
    Conflate,
    Disconnect,
    DropNewest,
    DropOldest,
    Event,
    Limits,
    Sample,
)
from flowstream.abc import Policy

from . import _query
from ._rate import Rate

POLICIES: dict[str, Policy] = {
    "block": Block(),
    "drop_oldest": DropOldest(),
    "drop_newest": DropNewest(),
    "sample_every": Sample(every=10),
    "sample_interval": Sample(interval=0.5),
    "conflate": Conflate(),
    "disconnect": Disconnect(),
}
"""The policies by their names in a query."""

KEYS = 8
"""Keys of the events, in turn. `Conflate` keeps the newest event of each key."""


@dataclass(frozen=True, slots=True)
class Flood:
    """The query of one client of the flood."""

    policy: str
    """One of `POLICIES`."""
    buffer: int
    """Items its buffer holds."""
    rate: float | None
    """Events a second; None for as many as the policy admits."""
    pad: int
    """Bytes of padding in an event."""
    limits: Limits
    """When the client is given up."""

    @classmethod
    def parse(cls, arguments: _query.Arguments) -> Flood:
        """Read a query.

        Raises:
            BadParameterError: a parameter is unknown or wrong.
        """
        _query.known(arguments, ("policy", "buffer", "rate", "pad", "stall", "client"))
        rate = _query.number(
            arguments, "rate", 200, low=0, high=100_000, unit="events a second (0: no limit)"
        )
        stall = _query.number(arguments, "stall", 30, low=1, high=3600, unit="seconds")
        return cls(
            policy=_query.choice(arguments, "policy", "block", POLICIES),
            buffer=_query.whole(arguments, "buffer", 64, low=1, high=10_000, unit="items"),
            rate=rate or None,
            pad=_query.whole(arguments, "pad", 0, low=0, high=65_536, unit="bytes"),
            limits=Limits(stall_timeout=stall),
        )

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield numbered events for ever."""
        pace = Rate(self.rate)
        padding = "." * self.pad
        n = 0
        while True:
            await pace.wait()
            n += 1
            yield numbered(n, padding)


def numbered(n: int, padding: str) -> Event:
    """Return event number `n`: its number, its key, its time, and the padding."""
    key = str(n % KEYS)
    return Event({"n": n, "key": key, "at": time.time(), "pad": padding}, key=key)
