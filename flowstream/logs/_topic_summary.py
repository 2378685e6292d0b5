"""What an operator is shown of a topic in a log, and what is checked alike in all logs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from flowstream.limits import Replay
from flowstream.logs._epochs import EPOCHS_KEPT, Epochs

# What belongs to a topic, by its table in SQLite and in Postgres.
PARTS = {
    "event": "an event",
    "token": "a token",
    "key": "an idempotency key",
    "latest": "the newest event of a key",
}


@dataclass(frozen=True, slots=True)
class TopicSummary:
    """What a topic has: see `flowstream.abc.Head` for the first three."""

    name: str
    epochs: Epochs
    number: int
    first: int
    kept: int
    """Events that can be read."""
    size: int
    """Their bytes."""
    age: float | None
    """Seconds since the newest of them; None if there is none."""
    keep: Replay
    deleted: bool


def check_epochs(epochs: Epochs, number: int) -> Iterator[str]:
    """Yield what is wrong with the epochs of a topic, as sentences.

    Args:
        epochs: those of the topic.
        number: that of its newest event.
    """
    names = [name for name, _ in epochs]
    firsts = [first for _, first in epochs]
    if names != sorted(set(names)) or len(names) > EPOCHS_KEPT:
        yield f"its epochs are not in order: {', '.join(names)}"
    if firsts != sorted(firsts) or firsts[0] < 1 or firsts[-1] > number + 1:
        yield f"its epochs begin at {firsts}, and its newest event has the number {number}"
