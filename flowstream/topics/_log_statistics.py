"""What happened between this process and its log, for one topic or for all, for metrics and tests.

Each topic has `LogCounts`, which count up. They count for the whole log, too.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class LogStatistics:
    """A moment of one topic in a log, or of all topics of a log, as this process sees them."""

    appends: int
    """Appends that the log has committed; one may have many events."""
    appended: int
    """Their events."""
    duplicates: int
    """Events that were there already, by their idempotency key."""
    retries: int
    """Appends that were repeated, because the log was away."""
    refused: int
    """Appends that failed: the log was full, or refused them."""
    unsure: int
    """Events whose caller was told that they may be in the log (`LogUnavailableError.maybe`)."""
    lost: int
    """Events of `publish_soon` that are not in the log."""
    fitting_hints: int
    """Hints that followed on what the process had, so that nothing had to be read."""
    other_hints: int
    """Hints that did not, or that were known: something was to be read, or came twice."""
    reads: int
    """Pages that followers have read to catch up with the log."""
    trimmed_seams: int
    """Places where events were no longer kept when this process came to read them."""
    lost_seams: int
    """Places where an epoch ended: the log has lost events, or the topic was deleted."""
    unreadable: int
    """Events that this release can't read."""
    window_hits: int
    """Streams that came back, and found what they lacked in this process."""
    window_misses: int
    """Streams that came back, and had to read the log."""
    queued: int
    """Events that wait for the next append now."""
    followed: int
    """Topics of clients that this process follows now."""
    pages_read: int
    """Pages of the past that were read from the log for clients; of the whole log only."""
    pages_shared: int
    """How often such a page was there already; of the whole log only."""
    control_sent: int
    """Messages to all workers that this one has sent; of the whole log only."""
    control_heard: int
    """Messages to all workers that this one has heard; of the whole log only."""


# Those that are not counted up, but are as they are at the moment.
_OF_THE_MOMENT = (
    "queued",
    "followed",
    "pages_read",
    "pages_shared",
    "control_sent",
    "control_heard",
)
_COUNTED = [one.name for one in fields(LogStatistics) if one.name not in _OF_THE_MOMENT]


class LogCounts:
    """Counters, by the names in `LogStatistics`: ``counts["retries"]``.

    Args:
        whole: counts, too, what is counted here; None if this is the whole.
    """

    __slots__ = (*_COUNTED, "_whole")  # a topic has one: a dict takes five times the memory

    def __init__(self, whole: LogCounts | None = None) -> None:
        self._whole = whole
        for name in _COUNTED:
            setattr(self, name, 0)

    def __getitem__(self, name: str) -> int:
        """Return how many there were of one kind."""
        count: int = getattr(self, name)
        return count

    def add(self, **counts: int) -> None:
        """Count so many of each."""
        for name, count in counts.items():
            setattr(self, name, self[name] + count)
        if self._whole is not None:
            self._whole.add(**counts)

    def statistics(self, **more: int) -> LogStatistics:
        """Return them as they are now, with `more` that others count."""
        counted = {name: self[name] for name in _COUNTED}
        return LogStatistics(**counted, **{name: more.get(name, 0) for name in _OF_THE_MOMENT})
