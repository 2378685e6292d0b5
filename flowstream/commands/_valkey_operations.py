"""What ``flowstream log`` does to a log in Valkey or Redis: it opens the log, as an app does.

Each function opens the log for itself, and **returns** when it is closed again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import trio

from flowstream.logs import open_log
from flowstream.logs._topic_summary import TopicSummary
from flowstream.logs.valkey._valkey_inspection import InspectedTopic
from flowstream.logs.valkey._valkey_log import ValkeyLog


def try_to_open(log: ValkeyLog) -> None:
    """Open it; raise if it can't be used."""
    trio.run(_open, log)


def summaries(log: ValkeyLog, topic: str | None) -> list[TopicSummary]:
    """Return what each topic has, those deleted left out; or the one of this name."""
    return [one.summary for one in trio.run(_inspect, log, topic)]


def verify_log(log: ValkeyLog) -> tuple[int, list[str]]:
    """Return how many topics there are, and what is wrong, as sentences."""
    topics = trio.run(_inspect, log, None)
    findings = [
        f"the topic {one.summary.name!r}: {finding}" for one in topics for finding in one.findings
    ]
    return len(topics), findings


def trim_topic(log: ValkeyLog, topic: str, changes: Mapping[str, Any]) -> int | None:
    """Have a topic keep no more than this; return how many events went; None if it is not there.

    Args:
        log: the log.
        topic: its name.
        changes: other bounds than those of its `Replay`.
    """
    return trio.run(_trim, log, topic, changes)


def begin_epochs(log: ValkeyLog) -> None:
    """Have every topic begin a new epoch."""
    trio.run(_begin_epochs, log)


async def _open(log: ValkeyLog) -> None:
    async with open_log(log):
        pass


async def _inspect(log: ValkeyLog, topic: str | None) -> list[InspectedTopic]:
    async with open_log(log):
        names = [topic] if topic is not None else await _all_names(log)
        found = [await log._inspect(name) for name in names]
        return [one for one in found if one is not None]


async def _all_names(log: ValkeyLog) -> list[str]:
    names, cursor = await log.topics()
    while cursor is not None:
        more, cursor = await log.topics("", cursor)
        names += more
    return names


async def _trim(log: ValkeyLog, topic: str, changes: Mapping[str, Any]) -> int | None:
    async with open_log(log):
        found = await log._inspect(topic)
        if found is None:
            return None
        return await log.trim(topic, dataclasses.replace(found.summary.keep, **changes))


async def _begin_epochs(log: ValkeyLog) -> None:
    async with open_log(log):
        await log.new_epoch()
