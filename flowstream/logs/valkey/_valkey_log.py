"""A log in a Valkey or Redis server: any number of processes on any number of machines.

::

    append, claim, … ──► scripts ──► the server ──► channels ──► hints
    read, heads, …   ──► scripts ──► the server                   (a connection of their own)

Each call is one script, so the server alone decides on the order of events, on numbers and on
epochs. The server can lose what it acknowledged, when it crashes or fails over: so each new
connection has it say who it is, and topics begin a new epoch if it is another one than before. How
events and topics are stored stands in ``lua/topic.lua``.
"""

from __future__ import annotations

import ssl
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
    Position,
    Record,
    Stale,
)
from flowstream.limits import Replay, check_positive
from flowstream.logs._append_arguments import (
    PAGE_NAMES,
    batches,
    check_append,
    check_limit,
    check_topic,
    check_topics,
)
from flowstream.logs._append_results import results_from_text
from flowstream.logs._epochs import can_be_stored
from flowstream.logs._lease_rules import (
    check_beat,
    check_claim,
    check_fence,
    check_seconds,
    check_token,
    fenced,
)
from flowstream.logs._log_run import LogRun, not_open
from flowstream.logs.valkey import _valkey_values as values
from flowstream.logs.valkey._open_valkey import OpenValkey
from flowstream.logs.valkey._valkey_connection import ValkeyTimeouts
from flowstream.logs.valkey._valkey_inspection import InspectedTopic, read_inspection
from flowstream.logs.valkey._valkey_settings import ValkeySettings, written
from flowstream.logs.valkey._valkey_writer import WaitingAppend

_OPTIONS = ("never_rolls_back", "wait_replicas")


class ValkeyLog(Log):
    """A log in a Valkey or Redis server, for any number of processes and machines.

    It needs Valkey, or Redis 6.2 or newer, with ``maxmemory-policy noeviction``; no Cluster. What
    survives a crash of the server is what its settings say (``appendonly yes``, ``appendfsync``).
    When it may have lost events, topics begin a new epoch, and clients are told of a gap.

    Args:
        url: where the server is: ``valkey://user:password@host:6379/0``, ``redis://`` is the same,
            ``valkeys://`` and ``rediss://`` have TLS, ``valkey://host1,host2/0`` names several, and
            ``valkey+sentinel://host1,host2/service/0`` sentinels. `wait_replicas` and
            `never_rolls_back` may stand behind ``?``, too.
        wait_replicas: how many replicas must have an event before `append` returns. With fewer in
            time it raises, and the event may appear.
        never_rolls_back: promise that the server loses nothing that it acknowledged, whatever
            happens: ``appendfsync always`` and no failover. Then a restart begins no new epoch. If
            the promise is wrong, two events can get one id.
        patience: seconds that a call waits while there is no connection.
        ssl_context: what to verify the servers with, instead of the files in the URL.
        sentinel_ssl_context: the same for sentinels.
        timeouts: how long to wait for the server in its several states.

    Attributes:
        where: the addresses of the servers and the database's number, for messages.

    Raises:
        TypeError, ValueError: an argument is none of these; the message has no secret in it.
        MissingExtraError: the package hiredis is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        wait_replicas: int | None = None,
        never_rolls_back: bool | None = None,
        patience: float = 5.0,
        ssl_context: ssl.SSLContext | None = None,
        sentinel_ssl_context: ssl.SSLContext | None = None,
        timeouts: ValkeyTimeouts | None = None,
    ) -> None:
        settings = ValkeySettings.from_url(
            url,
            ssl_context=ssl_context,
            sentinel_ssl_context=sentinel_ssl_context,
            options=_OPTIONS,
        )
        if timeouts is not None and not isinstance(timeouts, ValkeyTimeouts):
            raise TypeError(f"timeouts must be ValkeyTimeouts(), not {type(timeouts).__name__}")
        check_positive("patience", patience, unit="seconds")
        servers = ", ".join(map(written, settings.addresses))
        self.where: str = f"{servers} (database {settings.database})"
        self._settings = settings
        self._patience = patience
        self._replicas = _replicas(wait_replicas, settings.options.get("wait_replicas"))
        self._trusted = _trusted(never_rolls_back, settings.options.get("never_rolls_back"))
        self._timeouts = timeouts
        self._open: OpenValkey | None = None
        self._running = LogRun()

    async def run(  # noqa: ASYNC114  # `open_log` starts it
        self, hint: Hint, stale: Stale, *, task_status: Any = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Hold the log open: see `flowstream.abc.Log.run`.

        Raises:
            LogUnavailableError: no server can be used; the message says why.
        """
        with self._running.hold():
            opened = OpenValkey(
                self._settings,
                patience=self._patience,
                never_rolls_back=self._trusted,
                replicas=self._replicas,
                timeouts=self._timeouts,
                hint=hint,
                stale=stale,
            )
            async with trio.open_nursery() as nursery:
                await nursery.start(opened.run)
                self._open = opened
                try:
                    task_status.started()
                    await trio.sleep_forever()
                finally:
                    self._open = None

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
        opened = self._opened()
        size = check_append(topic, entries, keep, token)
        if fence is not None:
            check_token("fence", fence)
        if not entries:
            if fence is not None:
                check_fence(topic, (await self.leases([topic]))[topic], fence)
            await trio.lowlevel.checkpoint()
            return []
        words = [
            topic,
            token,
            values.keep_to_text(keep),
            "" if fence is None else fence,
            *values.entry_words(entries),
        ]
        places = await opened.appends.append(WaitingAppend(words, len(entries), size))
        if places == b"FENCED":
            raise fenced(topic)
        return results_from_text(places.decode())

    async def read(
        self, topic: str, after: Position, limit: int, *, mine: bool = False
    ) -> tuple[Head, bool, list[Record]]:
        """Return what follows `after`: see `flowstream.abc.Log.read`."""
        opened = self._opened()
        check_topic(topic)
        check_limit(limit)
        epoch, number = after
        if not can_be_stored(epoch):
            epoch, mine = "-", False  # no epoch of ours
        number = max(-1, min(number, values.MOST))
        words = (topic, epoch, number, limit, "1" if mine else "0")
        return values.read_page(await opened.read("read", *words))

    async def heads(self, topics: Iterable[str]) -> dict[str, Head]:
        """Return each topic's head: see `flowstream.abc.Log.heads`."""
        opened = self._opened()
        names = check_topics(topics)
        heads: dict[str, Head] = {}
        for some in batches(names):
            reply = await opened.read("heads", *some)
            heads.update(zip(some, (values.read_head(*one) for one in reply), strict=True))
        await trio.lowlevel.checkpoint()
        return heads

    async def watch(self, topics: Iterable[str]) -> None:
        """Have hints of these topics: see `flowstream.abc.Log.watch`."""
        await self._opened().watch(check_topics(topics))

    async def unwatch(self, topics: Iterable[str]) -> None:
        """Have no more hints of these topics."""
        await self._opened().unwatch(check_topics(topics))

    async def latest(self, topic: str, cursor: str | None = None) -> LatestPage:
        """Return the newest events by key: see `flowstream.abc.Log.latest`."""
        opened = self._opened()
        check_topic(topic)
        return values.read_latest(await opened.read("latest", topic, cursor or ""))

    async def topics(
        self, prefix: str = "", cursor: str | None = None
    ) -> tuple[list[str], str | None]:
        """Return names of topics: see `flowstream.abc.Log.topics`."""
        opened = self._opened()
        begin = b"(" + cursor.encode() if cursor else b"[" + prefix.encode() if prefix else b"-"
        end = b"(" + prefix.encode() + b"\xff" if prefix else b"+"  # no UTF-8 has this byte
        found = await opened.read("names", begin, end, PAGE_NAMES + 1)
        names = [name.decode() for name in found]
        page = names[:PAGE_NAMES]
        return page, page[-1] if len(names) > PAGE_NAMES else None

    async def trim(self, topic: str, keep: Replay | None = None) -> int:
        """Forget what is not kept: see `flowstream.abc.Log.trim`."""
        opened = self._opened()
        check_topic(topic)
        wanted = "" if keep is None else values.keep_to_text(keep)
        trimmed, more = 0, 1
        while more:
            count, more = await opened.write("trim", topic, wanted)
            trimmed += count
        return trimmed

    async def delete(self, topic: str) -> None:
        """Forget the topic: see `flowstream.abc.Log.delete`."""
        opened = self._opened()
        check_topic(topic)
        # A second call would delete what was published since the first.
        await opened.write("delete", topic, again=False)

    async def claim(
        self, topic: str, owner: str, *, seconds: float, instead: int | None = None
    ) -> Lease:
        """Take the topic's lease, if it has none: see `flowstream.abc.Log.claim`."""
        opened = self._opened()
        check_claim(topic, owner, seconds, instead)
        reply = await opened.write(
            "claim",
            topic,
            owner,
            values.microseconds(seconds),
            "" if instead is None else instead,
        )
        lease = values.read_lease(reply)
        assert lease is not None
        return lease

    async def beat(
        self, owner: str, tokens: Mapping[str, int], *, seconds: float
    ) -> dict[str, Lease | None]:
        """Renew leases: see `flowstream.abc.Log.beat`."""
        opened = self._opened()
        check_beat(owner, tokens, seconds)
        leases: dict[str, Lease | None] = {}
        for some in batches(list(tokens)):
            words = [word for name in some for word in (name, tokens[name])]
            reply = await opened.write("beat", owner, values.microseconds(seconds), *words)
            leases.update(zip(some, map(values.read_lease, reply), strict=True))
        await trio.lowlevel.checkpoint()
        return leases

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
        opened = self._opened()
        check_append(topic, [entry], keep, token)
        check_token("fence", fence)
        check_seconds(seconds)
        reply = await opened.write(
            "end",
            topic,
            token,
            values.keep_to_text(keep),
            fence,
            values.microseconds(seconds),
            "1" if lapsed else "0",
            *values.entry_words([entry]),
        )
        if reply == b"FENCED":
            raise fenced(topic)
        return values.read_lease(reply)

    async def leases(self, topics: Iterable[str]) -> dict[str, Lease | None]:
        """Return each topic's lease: see `flowstream.abc.Log.leases`."""
        opened = self._opened()
        leases: dict[str, Lease | None] = {}
        for some in batches(check_topics(topics)):
            reply = await opened.read("leases", *some)
            leases.update(zip(some, map(values.read_lease, reply), strict=True))
        await trio.lowlevel.checkpoint()
        return leases

    async def new_epoch(self) -> None:
        """Have every topic begin a new epoch, for a server that was restored from a copy.

        Clients that had events which the copy has not are then told that they missed some.

        Raises:
            LogUnavailableError: the server is away.
        """
        await self._opened().write("adopt", "1")

    async def _inspect(self, topic: str) -> InspectedTopic | None:
        """Return what a topic has, and what is wrong with it; None if there is none.

        This is for operators: the server reads the whole topic in one step.

        Raises:
            LogUnavailableError: the server is away.
        """
        opened = self._opened()
        check_topic(topic)
        return read_inspection(topic, await opened.read("inspect", topic))

    async def aclose(self) -> None:
        """End `run`, and wait until it has returned."""
        await self._running.close()

    def _opened(self) -> OpenValkey:
        if self._open is None:
            raise not_open()
        return self._open


def _replicas(given: int | None, text: str | None) -> int:
    if given is None:
        if text is None:
            return 0
        if not (text.isascii() and text.isdecimal()):
            raise ValueError("wait_replicas in the URL is a number of replicas, such as 1")
        return int(text)
    if isinstance(given, bool) or not isinstance(given, int):
        raise TypeError(f"wait_replicas must be an int, not {type(given).__name__}")
    if given < 0:
        raise ValueError(f"wait_replicas must be at least 0, not {given}")
    return given


def _trusted(given: bool | None, text: str | None) -> bool:
    if given is None:
        if text not in (None, "true", "false"):
            raise ValueError("never_rolls_back in the URL is true or false")
        return text == "true"
    if not isinstance(given, bool):
        raise TypeError(f"never_rolls_back must be a bool, not {type(given).__name__}")
    return given
