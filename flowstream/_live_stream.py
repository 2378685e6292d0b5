"""How a stream is doing: its statistics, and the view of it that anybody may have.

The values are frozen. The view is what lists and instruments get: it can be asked how the stream
does, and can do nothing to it. Of the request it knows the path alone, without the query: what else
a client has sent may be secret.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Literal, Protocol

from flowstream._closing import CloseReason


@dataclass(frozen=True, slots=True)
class BufferStatistics:
    """A moment of one client's buffer."""

    items: int
    """Items queued now."""
    bytes: int
    """Bytes queued now, after encoding."""
    max_items: int
    """The bound in items."""
    max_bytes: int
    """The bound in bytes."""
    offered: int
    """Items offered since the start."""
    dropped: int
    """Items that the policy dropped, or that were left at the end."""
    gaps: int
    """Runs of dropped items that the writer has met."""


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


class Measured(Protocol):
    """What a view asks."""

    def statistics(self) -> StreamStatistics:
        """Return what it has done so far."""
        ...


class LiveStream:
    """A view of one stream: how it is doing, and nothing that changes it.

    `flowstream.live_streams` and instruments (`flowstream.abc.Instrument`) give them. A stream has
    one view, the same each time, so it may be a key. One that is kept after the stream has ended
    holds the last statistics, and nothing else of the stream.
    """

    __slots__ = ("_asked", "_path", "_since")

    def __init__(self, asked: Measured, path: str, since: float) -> None:
        self._asked: Measured | StreamStatistics = asked
        self._path = path
        self._since = since

    @property
    def path(self) -> str:
        """The path of the request, on one line and without its query.

        Clients choose it: as a label of a metric it makes a series for each.
        """
        return self._path

    @property
    def since(self) -> datetime.datetime:
        """When it began, in UTC."""
        return datetime.datetime.fromtimestamp(self._since, datetime.UTC)

    def statistics(self) -> StreamStatistics:
        """Return what the stream has done so far, and how full its buffer is.

        Call it in the thread of the event loop, while the stream runs.
        """
        asked = self._asked
        return asked if isinstance(asked, StreamStatistics) else asked.statistics()

    def _end(self, final: StreamStatistics) -> None:
        """Let go of the stream, which has ended."""
        self._asked = final

    def __repr__(self) -> str:
        return f"<LiveStream {self._path} since {self.since.isoformat(timespec='seconds')}>"
