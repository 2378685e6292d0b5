"""Make a stream's statistics, which can be asked for at any time, and its report."""

from __future__ import annotations

from dataclasses import replace

from flowstream._clock import clock
from flowstream._closing import StreamReport
from flowstream._live_stream import BufferStatistics, StreamStatistics
from flowstream.asgi._direct_write import NotDirect
from flowstream.asgi._ending import Ending
from flowstream.asgi._permit import Permit
from flowstream.asgi._writer import Writer
from flowstream.buffer._event_buffer import EventBuffer
from flowstream.limits import Buffer


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
        sliced_items=0,
        why_not_direct=NotDirect.NOT_BEGUN.value,
    )


def measured(
    ending: Ending, writer: Writer | None, buffer: EventBuffer, permit: Permit, *, start: float
) -> StreamStatistics:
    """Return the present statistics of an open stream that began at `start`."""
    now = clock.current_time()
    queued, why_not = buffer.statistics(), permit.why_not
    since = None if writer is None else writer.sending_since
    sending_for = 0.0 if since is None else now - since
    return StreamStatistics(
        state="open",
        reason=ending.reason,
        items=writer.items if writer else 0,
        bytes=writer.bytes if writer else 0,
        dropped=queued.dropped,
        gaps=queued.gaps,
        heartbeats=writer.heartbeats if writer else 0,
        duration=now - start,
        longest_wait=max(writer.longest_wait, sending_for) if writer else 0.0,
        sending_for=sending_for,
        buffer=queued,
        direct_items=writer.direct_items if writer else 0,
        sliced_items=writer.sliced_items if writer else 0,
        why_not_direct=why_not.value if why_not else None,
    )


def closed(moment: StreamStatistics, writer: Writer | None) -> StreamStatistics:
    """Return the last statistics of a stream: `moment`, with unsent items counted as dropped."""
    unsent = 0 if writer is None else writer.unsent
    return replace(moment, state="closed", dropped=moment.dropped + unsent, sending_for=0.0)


def report_of(
    final: StreamStatistics, ending: Ending, writer: Writer | None, *, start: float
) -> StreamReport:
    """Return the report of a stream that began at `start` and ended as `ending` says."""
    assert ending.reason is not None
    first = None if writer is None else writer.first_item
    return StreamReport(
        reason=ending.reason,
        items=final.items,
        bytes=final.bytes,
        dropped=final.dropped,
        gaps=final.gaps,
        duration=final.duration,
        first_byte=None if first is None else first - start,
        longest_wait=final.longest_wait,
        error=ending.error,
        detail=ending.detail,
    )
