"""How a stream is doing: its statistics, and a read-only view of it.

The statistics are frozen values. The view is for lists and instruments: it returns the statistics,
and changes nothing. It knows only the path of the request, without the query, because the rest of
what a client sent may be secret.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Literal, Protocol

from flowstream._closing import CloseReason


@dataclass(frozen=True, slots=True)
class BufferStatistics:
    """One client's buffer at one moment."""

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
    """Items that the policy dropped, or that were left over at the end."""
    gaps: int
    """Runs of dropped items that the writer has met."""


@dataclass(frozen=True, slots=True)
class StreamStatistics:
    """One stream at one moment."""

    state: Literal["new", "open", "closed"]
    """``new`` before the response is called, ``closed`` once the report is made."""
    reason: CloseReason | None
    """Why it ended or is ending; None while it runs."""
    items: int
    """Events handed to the server, without flowstream's own."""
    bytes: int
    """Body bytes handed to the server."""
    dropped: int
    """Events that the policy dropped, or that were left over at the end."""
    gaps: int
    """Runs of dropped events that the writer has met."""
    heartbeats: int
    """Heartbeats written."""
    duration: float
    """Seconds since the response was called; once the stream is closed, until its end."""
    longest_wait: float
    """Seconds of the longest write so far."""
    sending_for: float
    """Seconds that the current write has lasted; 0.0 if there is none."""
    buffer: BufferStatistics
    """The buffer between the producer and the writer."""
    direct_items: int
    """The part of `items` that publishers wrote to the client's connection directly."""
    sliced_items: int
    """The part of `items` that the client was given in slices, many events as one piece, while it
    caught up with a topic or a run."""
    why_not_direct: str | None
    """Why publishers do not write to the client's connection directly: one of a fixed set of
    sentences. None if they do so whenever the writer waits."""


class Measured(Protocol):
    """A stream, as its view knows it."""

    def statistics(self) -> StreamStatistics:
        """Return what the stream has done so far."""
        ...


class LiveStream:
    """A read-only view of one stream, which says how the stream is doing.

    `flowstream.live_streams` returns views, and instruments (`flowstream.abc.Instrument`) get them.
    A stream always has the same view, so a view may be a key. After the stream has ended, its view
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

        Clients choose it, so do not make it the label of a metric: each path would be a series.
        """
        return self._path

    @property
    def since(self) -> datetime.datetime:
        """When the stream began, in UTC."""
        return datetime.datetime.fromtimestamp(self._since, datetime.UTC)

    def statistics(self) -> StreamStatistics:
        """Return what the stream has done so far, and how full its buffer is.

        Call it in the thread of the event loop, while the stream runs.
        """
        asked = self._asked
        return asked if isinstance(asked, StreamStatistics) else asked.statistics()

    def _end(self, final: StreamStatistics) -> None:
        """Keep the last statistics, and let go of the stream, which has ended."""
        self._asked = final

    def __repr__(self) -> str:
        return f"<LiveStream {self._path} since {self.since.isoformat(timespec='seconds')}>"
