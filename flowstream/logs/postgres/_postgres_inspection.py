"""What is in a log on Postgres, for somebody who operates it, and what is wrong with it.

One topic is looked at in one snapshot. What is wrong is said in sentences: somebody else has
written to the tables, or the server has lost something.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flowstream.limits import Replay
from flowstream.logs._epochs import epochs_from_text
from flowstream.logs._topic_summary import InspectedTopic, TopicSummary, check_epochs
from flowstream.logs.postgres._pq_connection import Row

# What belongs to a topic, by table.
_PARTS = {
    "event": "an event",
    "token": "a token",
    "key": "an idempotency key",
    "latest": "the newest event of a key",
}


def read_inspection(name: str, rows: Sequence[Row]) -> InspectedTopic | None:
    """Return what the function `inspect` returned; None if there is no such topic."""
    if not rows:
        return None
    epochs, number, first, kept, size, age, items, seconds, bytes_, deleted, *counted = rows[0]
    summary = TopicSummary(
        name,
        epochs_from_text(epochs),
        number,
        first,
        kept,
        size,
        None if age is None else max(0.0, age),
        Replay(items, seconds, bytes_),
        deleted,
    )
    return InspectedTopic(summary, tuple(_findings(summary, *counted)))


def read_strays(rows: Sequence[Row]) -> list[str]:
    """Return what the function `strays` returned, as sentences."""
    return [f"{_PARTS[table]} is of a topic that is not there ({n:,} times)" for table, n in rows]


def _findings(
    topic: TopicSummary,
    floor: int,
    size: int,
    stored: int,
    stored_size: int,
    newest: int,
    holes: int,
    back: int,
    ahead: int,
    differ: int,
    keys: int,
    keys_size: int,
    keys_stored: int,
    keys_stored_size: int,
    given: bool,
) -> Iterator[str]:
    yield from check_epochs(topic.epochs, topic.number)
    expected = topic.number - floor + 1
    if stored != expected:
        yield f"it keeps {stored:,} events from {floor} to {topic.number}, not {expected:,}"
    if newest > topic.number:
        yield f"it has an event {newest}, behind its newest one, which is {topic.number}"
    if holes:
        yield f"numbers are left out ({holes:,} times)"
    if back:
        yield f"an event is older than the one before it ({back:,} times)"
    if stored_size != size:
        yield f"its events have {stored_size:,} bytes, not {size:,}"
    if ahead:
        yield f"a token or a key is of an event behind its newest one ({ahead:,} times)"
    if differ:
        yield f"the newest event of a key is not the event of its number ({differ:,} times)"
    if (keys_stored, keys_stored_size) != (keys, keys_size):
        yield (
            f"it has {keys_stored:,} keys with {keys_stored_size:,} bytes, not {keys:,} with "
            f"{keys_size:,}"
        )
    if not given:
        yield "its lease has a token that was never given"
