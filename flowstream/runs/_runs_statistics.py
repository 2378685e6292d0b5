"""A moment of all runs of a worker, for metrics and tests.

Runs in memory and in a log count the same; what only a log can have is 0 in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunsStatistics:
    """A moment of all runs."""

    running: int
    """Runs that are running or cleaning up."""
    limit: int
    """How many there may be."""
    kept: int
    """Runs that are over and that clients can still attach to."""
    attached: int
    """Streams and subscriptions of all of them."""
    started: int
    """Runs started so far."""
    ended: Mapping[str, int]
    """Runs that have ended so far, by reason."""
    lost: int
    """In a log: runs of this worker so far that it has lost, since it was cut off."""
    reaped: int
    """In a log: runs of other workers so far that this one has ended, since those were gone."""
    resumed: int
    """In a log: runs of other workers so far that this one has gone on with."""
