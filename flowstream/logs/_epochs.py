"""Epochs: stretches of a topic in which nothing that was acknowledged can have been lost.

Numbers go on across epochs. A topic remembers its last 8, each with its first number. So a position
of an older epoch can still be found: it is cut to where the next epoch began, and what the reader
had beyond that is what was lost.

::

    e1  1 2 3 … 94 95 96 97 98 99 100      96 to 100 were lost with the machine
    e2                96 97 98             a reader at (e1, 100) goes on with (e2, 96)

Later epochs sort behind earlier ones (`flowstream/ids/_event_id.py`).
"""

from __future__ import annotations

from functools import lru_cache

from flowstream.abc import Position
from flowstream.ids._event_id import new_epoch

Epochs = tuple[Position, ...]

# As many as survive seven restarts between two visits of a client.
EPOCHS_KEPT = 8


def begin_epoch(epochs: Epochs, number: int) -> Epochs:
    """Return `epochs` with a new one that begins behind `number`."""
    return (*epochs, (new_epoch(epochs[-1][0]), number + 1))[-EPOCHS_KEPT:]


def locate(epochs: Epochs, number: int, after: Position) -> int | None:
    """Return the number to read behind, or None if the topic knows no such position.

    Args:
        epochs: those of the topic.
        number: that of its newest event.
        after: what a reader came with.
    """
    for place, (epoch, first) in enumerate(epochs):
        if epoch == after[0]:
            last = epochs[place + 1][1] - 1 if place + 1 < len(epochs) else None
            if after[1] < first - 1 or (last is None and after[1] > number):
                return None
            return after[1] if last is None else min(after[1], last)
    return None


def is_evidence(epochs: Epochs, number: int, after: Position) -> bool:
    """Return whether a reader that surely had `after` shows that the log has lost events.

    An epoch that sorts before the newest may have been forgotten, which proves nothing.
    """
    epoch, _ = epochs[-1]
    return after[0] > epoch or (after[0] == epoch and after[1] > number)


def epoch_at(epochs: Epochs, number: int) -> str:
    """Return the epoch of an event that has `number`."""
    epoch, first = epochs[-1]
    if number >= first:  # nearly always
        return epoch
    return next(epoch for epoch, first in reversed(epochs) if number >= first)


def can_be_stored(epoch: str) -> bool:
    """Return whether a server can be asked for an epoch; a client's may be any text."""
    return epoch.isascii() and "\0" not in epoch


def epochs_to_text(epochs: Epochs) -> str:
    """Return `epochs` as they are stored."""
    return ",".join(f"{epoch}:{first}" for epoch, first in epochs)


@lru_cache(maxsize=1024)
def epochs_from_text(text: str) -> Epochs:
    """Return what `epochs_to_text` was given."""
    pairs = (pair.partition(":") for pair in text.split(","))
    return tuple((epoch, int(first)) for epoch, _, first in pairs)
