"""What may be published: arguments are checked before anything happens, over any log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flowstream._event import Event, copied
from flowstream.ids._event_id import is_ours

MOST_EVENTS = 1024
"""Most events of one `publish_many`: as many as the history holds for sure until they are
delivered."""

MOST_BYTES = 1 << 20
"""Bytes of them, unless the replay has room for more."""


def check_many(events: Sequence[Event]) -> None:
    """Check how many events are published at once.

    Raises:
        ValueError: they are too many.
    """
    if len(events) > MOST_EVENTS:
        raise ValueError(
            f"publish_many takes at most {MOST_EVENTS:,} events, not {len(events):,}: call it once "
            f"for each {MOST_EVENTS:,}"
        )


def fed(item: Any) -> Event:
    """Return the event for an item of a source, to be published; the item stays unchanged.

    If it comes from another topic or run, its id says where it is there. So it gets a new one.

    Args:
        item: what the source gave: an `Event`, or the data of one.
    """
    if not isinstance(item, Event):
        return Event(item)
    return copied(item, id=None if item.id is not None and is_ours(item.id) else item.id)
