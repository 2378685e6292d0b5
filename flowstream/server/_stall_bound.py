"""How long a write may make no progress, and which setting says so.

The server has a bound for all connections, ``write_timeout``. If the app has set
``Limits.stall_timeout`` for a stream, that bound holds instead while the stream runs, be it longer
or shorter. Waiting code asks for the bound again and again, so the server's own bound holds again
as soon as the stream has ended.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from flowstream.asgi._carrier import Carried


class StallBound(NamedTuple):
    """A bound, and the setting that it comes from."""

    seconds: float
    name: str

    def __str__(self) -> str:
        return f"{self.name} {self.seconds:g} s"


def stall_bound(carried: Iterable[Carried], write_timeout: float, *, shared: bool) -> StallBound:
    """Return the longest bound that one of these streams has set, or else the server's.

    Args:
        carried: the streams of one response, or of several.
        write_timeout: the server's own bound.
        shared: whether other responses share the connection. The server's bound holds for them, so
            the result is never shorter.
    """
    own = StallBound(write_timeout, "write_timeout")
    set_ones = [
        StallBound(seconds, "stall_timeout")
        for stream in carried
        if (seconds := stream.stall_timeout) is not None
    ]
    return max([own, *set_ones] if shared else set_ones, default=own)
