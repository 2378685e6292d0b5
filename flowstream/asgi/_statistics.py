"""What can be asked of a stream at any time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flowstream._closing import CloseReason
from flowstream.asgi._direct_write import NotDirect
from flowstream.buffer._event_buffer import BufferStatistics
from flowstream.limits import Buffer


@dataclass(frozen=True, slots=True)
class StreamStatistics:
    """A moment of one stream."""

    state: Literal["new", "open", "closed"]
    """``new`` before the response is called, ``closed`` once the report is made."""
    reason: CloseReason | None
    """Why it ended or is ending; None while it runs."""
    items: int
    """Events handed to the server; flowstream's own not counted."""
    bytes: int
    """Body bytes handed to the server."""
    dropped: int
    """Events dropped by the policy, or left over at the end."""
    gaps: int
    """Runs of dropped events that the writer has met."""
    heartbeats: int
    """Heartbeats written."""
    duration: float
    """Seconds since the response was called; in all, once it is closed."""
    longest_wait: float
    """Seconds of the longest write so far."""
    sending_for: float
    """Seconds that the write under way has lasted; 0.0 if there is none."""
    buffer: BufferStatistics
    """What is between the producer and the writer now."""
    direct_items: int
    """Those of `items` that a publisher wrote to the client's connection directly."""
    why_not_direct: str | None
    """Why publishers do not write to the client's connection directly, in one of a few
    sentences; None if they do, whenever its writer waits."""


def new_statistics(bounds: Buffer) -> StreamStatistics:
    """Return the statistics of a stream that has not begun."""
    buffer = BufferStatistics(0, 0, bounds.items, bounds.bytes, 0, 0, 0)
    return StreamStatistics(
        state="new",
        reason=None,
        items=0,
        bytes=0,
        dropped=0,
        gaps=0,
        heartbeats=0,
        duration=0.0,
        longest_wait=0.0,
        sending_for=0.0,
        buffer=buffer,
        direct_items=0,
        why_not_direct=NotDirect.NOT_BEGUN.value,
    )
