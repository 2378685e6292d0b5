"""What is in a log in Valkey, for somebody who operates it, and whether it is as a log leaves it.

One topic is looked at in one step of the server. A topic is read whole, which takes the server some
milliseconds for each 8 MiB. What is wrong is said in sentences: somebody else has written to the
keys, or the server has deleted some of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flowstream.limits import Replay
from flowstream.logs._epochs import epochs_from_text
from flowstream.logs._topic_summary import TopicSummary, check_epochs
from flowstream.logs.valkey._valkey_values import MICROSECONDS


@dataclass(frozen=True, slots=True)
class InspectedTopic:
    """A topic, and what is wrong with it."""

    summary: TopicSummary
    findings: tuple[str, ...]


def read_inspection(name: str, reply: Any) -> InspectedTopic | None:
    """Return what the script `inspect` returned; None if there is no such topic."""
    if not reply:
        return None
    now, text, number, first, kept, kept_size, newest, keep, deleted, *stored = reply
    epochs = epochs_from_text(text.decode())
    age = None if not newest else max(0.0, (int(now) - int(newest)) / MICROSECONDS)
    summary = TopicSummary(
        name, epochs, number, first, kept, kept_size, age, _read_keep(keep), bool(deleted)
    )
    return InspectedTopic(summary, tuple(_findings(summary, *stored)))


def _findings(
    topic: TopicSummary, last: int, holes: int, stored: int, size: int, listed: int, due: int
) -> Iterator[str]:
    yield from check_epochs(topic.epochs, topic.number)
    if last and last != topic.number:
        yield f"its newest event in the stream is {last}, and should be {topic.number}"
    if holes:
        yield f"numbers are left out in its stream ({holes:,} times)"
    if stored and stored != size:
        yield f"its events have {stored:,} bytes, not {size:,}"
    if bool(listed) == topic.deleted:
        yield "it was deleted, and is listed" if topic.deleted else "it is not listed"
    if not due:
        yield "it is not among the topics that are looked at for what is over its time"


def _read_keep(text: bytes) -> Replay:
    items, size, age = map(int, text.split())
    return Replay(items, age / MICROSECONDS if age else math.inf, max(1, size))
