"""What is in a log on Postgres, for somebody who operates it, and what is done to it.

Each function calls functions of the schema, so any role that may use the log may do this. What is
read of up to 512 topics is of one moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowstream.limits import Replay
from flowstream.logs._epochs import epochs_from_text
from flowstream.logs._topic_summary import TopicSummary
from flowstream.logs.postgres._operator_session import OperatorSession, names_of_topics

# Topics that are looked at with one statement.
_BATCH_TOPICS = 512
_INSPECT = "select * from flowstream.inspect(%s::text[])"
_KNOWN = "select from flowstream.ids(array[%s::text])"
_TRIM = "select flowstream.trim(%s::text, %s::int8, %s::float8, %s::int8)"


def summaries(session: OperatorSession, topic: str | None) -> list[TopicSummary]:
    """Return what each topic has, those deleted left out; or the one of this name."""
    if topic is not None:
        return [_summary(*row) for row in session.ask(_INSPECT, [topic])]
    found: list[TopicSummary] = []
    for names in names_of_topics(session, _BATCH_TOPICS):
        found += [_summary(*row) for row in session.ask(_INSPECT, names)]
    return found


def trim(session: OperatorSession, topic: str, changes: Mapping[str, Any]) -> int | None:
    """Have a topic keep no more than this; return how many events went; None if it is not there.

    Args:
        session: with the log.
        topic: its name.
        changes: other bounds than those of its `Replay`.
    """
    if not session.ask(_KNOWN, topic):
        return None
    bounds = [changes.get(name) for name in ("items", "seconds", "bytes")]
    [(count,)] = session.ask(_TRIM, topic, *bounds)
    return int(count)


def begin_epochs(session: OperatorSession) -> None:
    """Have every topic begin a new epoch."""
    session.ask("select flowstream.new_epoch()")


def _summary(
    name: str,
    epochs: str,
    head: int,
    first: int,
    kept: int,
    size: int,
    age: float | None,
    items: int,
    seconds: float,
    most_bytes: int,
    deleted: bool,
) -> TopicSummary:
    keep = Replay(items, seconds, max(1, most_bytes))
    return TopicSummary(name, epochs_from_text(epochs), head, first, kept, size, age, keep, deleted)
