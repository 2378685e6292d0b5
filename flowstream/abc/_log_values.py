"""What a log takes and gives: positions, heads, records, leases. They are plain values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

Position: TypeAlias = tuple[str, int]
"""A place in a topic: an epoch, and the number of the last event before it. What follows a
position is what comes after that event; number 0 is before all events."""


class Head(NamedTuple):
    """How far a topic has come. Its own position is its last epoch with `number`."""

    epochs: tuple[Position, ...]
    """The last epochs, 8 at the most, the oldest first; each with its first number."""
    number: int
    """The number of the newest event; 0 if there was none yet."""
    first: int
    """The number of the oldest event that can be read; `number` + 1 if there is none."""


class Record(NamedTuple):
    """One event as the log has it."""

    epoch: str
    """The epoch that it was published in."""
    number: int
    """One more than the event before it."""
    data: bytes
    """What was appended."""
    age: float = 0.0
    """Seconds since it was appended, on the log's clock, when it was read. In a hint it may be 0.
    Whoever keeps a record adds the time that has gone by since, and serves nothing that is older
    than `Replay.seconds`."""


class LogEntry(NamedTuple):
    """One event to append."""

    data: bytes
    """The event, encoded; at most 64 MiB in one call of `Log.append`."""
    key: str | None = None
    """The log keeps the newest event of each key for `Log.latest`. None: it is not kept there."""
    idempotency_key: str | None = None
    """A second event with the same one is not appended. None: the log does not look."""
    idempotency_seconds: float = 300.0
    """Seconds for which the log remembers `idempotency_key`, counted from its first event."""


class Appended(NamedTuple):
    """Where one entry is in the log."""

    epoch: str
    """Its epoch."""
    number: int
    """Its number."""
    duplicate: bool
    """Whether the entry was not appended, since an event with its idempotency key is there."""


class LatestPage(NamedTuple):
    """Some of the newest events by key."""

    head: Head
    """The topic when the page was read. That of the first page is the position to go on from."""
    records: dict[str, Record]
    """The newest event of each key."""
    cursor: str | None
    """What to call `Log.latest` with for the next page; None if this is the last one."""


class Lease(NamedTuple):
    """Who may append to a topic, and until when."""

    owner: str
    """Who claimed it."""
    token: int
    """The fencing token: what `Log.append` takes as `fence`. It grows with every claim of any topic
    in the log, and is never given twice."""
    seconds: float
    """Until it lapses, on the log's clock; 0 or less if it has. Of an ended lease: until it is
    forgotten."""
    ended: bool
    """Whether `Log.end` was called: the entry that ended it is the topic's last event."""


Hint: TypeAlias = Callable[[str, int, Sequence[Record]], None]
"""Hears of news: the topic, the number that the records follow on, the records."""
Stale: TypeAlias = Callable[[str | None], None]
"""Hears that hints of a topic may have been lost, or of all topics for None: read its head."""

ParameterStyle: TypeAlias = Literal["format", "dollar", "named"]
"""How a database's driver writes parameters: ``%s``, ``$1`` or ``:name``."""


class OutboxStatement(NamedTuple):
    """A statement that publishes inside a transaction of the app."""

    sql: str
    """One ``select``, with a placeholder for each parameter."""
    parameters: tuple[Any, ...] | dict[str, Any]
    """Their values: a `dict` in the style ``named``, else a `tuple`."""
