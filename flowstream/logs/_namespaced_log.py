"""A part of a log: all names of topics in it begin with the same prefix.

Staging and production, or two apps, share one file or one broker, and neither sees the topics of
the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import trio

from flowstream.abc import (
    Appended,
    Head,
    Hint,
    LatestPage,
    Lease,
    Log,
    LogEntry,
    OutboxStatement,
    ParameterStyle,
    Position,
    Record,
    Stale,
)
from flowstream.limits import Replay
from flowstream.logs._append_arguments import check_topic, check_topics

# Characters of a namespace; they count for the length of a topic's name.
NAMESPACE_CHARACTERS = 64

_NAMESPACE = re.compile(rf"[A-Za-z0-9_.-]{{1,{NAMESPACE_CHARACTERS}}}")


class NamespacedLog(Log):
    """The topics of a log whose names begin with a namespace, without that.

    In the log the topic ``prices`` is called ``staging/prices``.

    Args:
        inner: the log.
        namespace: letters, digits, ``-``, ``_`` and ``.``, up to 64.

    Raises:
        TypeError, ValueError: `namespace` is something else.

    Attributes:
        inner: the log.
    """

    def __init__(self, inner: Log, namespace: str) -> None:
        check_namespace(namespace)
        self.inner = inner
        self._prefix = f"{namespace}/"

    async def run(  # noqa: ASYNC114, ASYNC128  # the log inside has started
        self, hint: Hint, stale: Stale, *, task_status: Any = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Hold the log open: see `flowstream.abc.Log.run`."""

        def hear(topic: str, before: int, records: Sequence[Record]) -> None:
            if topic.startswith(self._prefix):
                hint(self._ours(topic), before, records)

        def hear_stale(topic: str | None) -> None:
            if topic is None:
                stale(None)
            elif topic.startswith(self._prefix):
                stale(self._ours(topic))

        await self.inner.run(hear, hear_stale, task_status=task_status)

    async def append(
        self,
        topic: str,
        entries: Sequence[LogEntry],
        *,
        keep: Replay,
        token: str,
        fence: int | None = None,
    ) -> list[Appended]:
        """Append all entries or none: see `flowstream.abc.Log.append`."""
        full = self._full(topic)
        if fence is None:  # an older log may not know the argument
            return await self.inner.append(full, entries, keep=keep, token=token)
        return await self.inner.append(full, entries, keep=keep, token=token, fence=fence)

    async def read(
        self, topic: str, after: Position, limit: int, *, mine: bool = False
    ) -> tuple[Head, bool, list[Record]]:
        """Return what follows `after`: see `flowstream.abc.Log.read`."""
        return await self.inner.read(self._full(topic), after, limit, mine=mine)

    async def heads(self, topics: Iterable[str]) -> dict[str, Head]:
        """Return each topic's head: see `flowstream.abc.Log.heads`."""
        heads = await self.inner.heads(self._all_full(topics))
        return {self._ours(name): head for name, head in heads.items()}

    async def watch(self, topics: Iterable[str]) -> None:
        """Have hints of these topics: see `flowstream.abc.Log.watch`."""
        await self.inner.watch(self._all_full(topics))

    async def unwatch(self, topics: Iterable[str]) -> None:
        """Have no more hints of these topics."""
        await self.inner.unwatch(self._all_full(topics))

    async def latest(self, topic: str, cursor: str | None = None) -> LatestPage:
        """Return the newest events by key: see `flowstream.abc.Log.latest`."""
        return await self.inner.latest(self._full(topic), cursor)

    async def topics(
        self, prefix: str = "", cursor: str | None = None
    ) -> tuple[list[str], str | None]:
        """Return names of topics: see `flowstream.abc.Log.topics`."""
        names, cursor = await self.inner.topics(self._prefix + prefix, cursor)
        return [self._ours(name) for name in names], cursor

    async def trim(self, topic: str, keep: Replay | None = None) -> int:
        """Forget what is not kept: see `flowstream.abc.Log.trim`."""
        return await self.inner.trim(self._full(topic), keep)

    async def delete(self, topic: str) -> None:
        """Forget the topic: see `flowstream.abc.Log.delete`."""
        await self.inner.delete(self._full(topic))

    async def claim(
        self, topic: str, owner: str, *, seconds: float, instead: int | None = None
    ) -> Lease:
        """Take the topic's lease, if it has none: see `flowstream.abc.Log.claim`."""
        return await self.inner.claim(self._full(topic), owner, seconds=seconds, instead=instead)

    async def beat(
        self, owner: str, tokens: Mapping[str, int], *, seconds: float
    ) -> dict[str, Lease | None]:
        """Renew leases: see `flowstream.abc.Log.beat`."""
        full = {self._full(topic): token for topic, token in tokens.items()}
        leases = await self.inner.beat(owner, full, seconds=seconds)
        return {self._ours(name): lease for name, lease in leases.items()}

    async def end(
        self,
        topic: str,
        fence: int,
        entry: LogEntry,
        *,
        keep: Replay,
        token: str,
        seconds: float,
        lapsed: bool = False,
    ) -> Lease | None:
        """Append the last event and end the lease: see `flowstream.abc.Log.end`."""
        return await self.inner.end(
            self._full(topic),
            fence,
            entry,
            keep=keep,
            token=token,
            seconds=seconds,
            lapsed=lapsed,
        )

    async def leases(self, topics: Iterable[str]) -> dict[str, Lease | None]:
        """Return each topic's lease: see `flowstream.abc.Log.leases`."""
        leases = await self.inner.leases(self._all_full(topics))
        return {self._ours(name): lease for name, lease in leases.items()}

    def outbox_statement(
        self,
        topic: str,
        entry: LogEntry,
        *,
        keep: Replay,
        notify: bool = True,
        style: ParameterStyle = "format",
    ) -> OutboxStatement:
        """Return the statement for a transaction: see `flowstream.abc.Log.outbox_statement`."""
        full = self._full(topic)
        return self.inner.outbox_statement(full, entry, keep=keep, notify=notify, style=style)

    async def aclose(self) -> None:
        """End `run`, and wait until it has returned."""
        await self.inner.aclose()

    def _full(self, topic: str) -> str:
        check_topic(topic)
        return self._prefix + topic

    def _all_full(self, topics: Iterable[str]) -> list[str]:
        return [self._prefix + topic for topic in check_topics(topics)]

    def _ours(self, topic: str) -> str:
        return topic.removeprefix(self._prefix)


def check_namespace(namespace: str) -> None:
    """Raise unless `namespace` can be one."""
    if not isinstance(namespace, str):
        raise TypeError(f"namespace must be a str, not {type(namespace).__name__}")
    if not _NAMESPACE.fullmatch(namespace):
        raise ValueError(
            f"namespace must have up to {NAMESPACE_CHARACTERS} letters, digits, -, _ and ., such "
            f"as 'staging', not {namespace[:100]!r}"
        )
