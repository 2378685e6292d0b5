"""What ``flowstream log`` does to a log on Postgres, as the role of the URL. It blocks.

Any role that may use the log may look into it, trim topics and begin epochs. Its owner alone may
verify it, since that reads tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg.errors import InsufficientPrivilege

from flowstream._errors import LogUnavailableError
from flowstream.demo._progress_bar import progress
from flowstream.logs._topic_summary import TopicSummary
from flowstream.logs.postgres import _postgres_inspection as inspection
from flowstream.logs.postgres import _postgres_verification as verification
from flowstream.logs.postgres._operator_session import operate
from flowstream.logs.postgres._postgres_dsn import PostgresDSN


def summaries(log: PostgresDSN, topic: str | None) -> list[TopicSummary]:
    """Return what each topic has, those deleted left out; or the one of this name."""
    with operate(log) as session:
        return inspection.summaries(session, topic)


def verify_log(log: PostgresDSN) -> tuple[int, list[str]]:
    """Return how many topics there are, and what is wrong, as sentences."""
    with operate(log) as session:
        try:
            topics = verification.count_topics(session)
            with progress(f"verifying {topics:,} topics", topics) as shown:
                return topics, list(verification.verify(session, shown))
        except InsufficientPrivilege:
            owner = verification.owner_of_the_log(session)
            raise LogUnavailableError(
                f"the role {session.role} may not read the tables of the log, and verify does: "
                f"use a URL of the role {owner}, which owns the schema, or of a superuser"
            ) from None


def trim_topic(log: PostgresDSN, topic: str, changes: Mapping[str, Any]) -> int | None:
    """Have a topic keep no more than this; return how many events went; None if it is not there.

    Args:
        log: the log.
        topic: its name.
        changes: other bounds than those of its `Replay`.
    """
    with operate(log) as session:
        return inspection.trim(session, topic, changes)


def begin_epochs(log: PostgresDSN) -> None:
    """Have every topic begin a new epoch."""
    with operate(log) as session:
        inspection.begin_epochs(session)
