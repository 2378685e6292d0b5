"""Logs: what decides the order of a topic's events, and keeps them."""

from __future__ import annotations

import abc
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any

from flowstream.abc._log_values import (
    Appended,
    Head,
    Hint,
    LatestPage,
    Lease,
    LogEntry,
    OutboxStatement,
    ParameterStyle,
    Position,
    Record,
    Stale,
)
from flowstream.limits import Replay


class Log(abc.ABC):
    """Decides what was published to each topic, and in which order. It outlives its readers.

    A log keeps five promises:

    1. Within an epoch numbers grow by one. They go on across epochs.
    2. A number of an epoch never stands for two events. So if acknowledged events may have been
       lost, a new epoch begins.
    3. Events are committed in the order of their numbers: who sees one can read all before it.
    4. A process reads what it has appended itself.
    5. Heads and epochs outlive the events, for 7 days after the last one.

    Every method raises `flowstream.logs.LogUnavailableError` if the log can't be reached or read,
    and `RuntimeError` if the log is not open. A topic that was never appended to reads as empty:
    its position is the log's own epoch and number 0. Nothing but `append` makes a topic.

    A cancelled call leaves the log usable. A cancelled `append`, `claim` or `end` may have
    happened: call it again with the same arguments.

    A run is a topic with a *lease*: one owner at a time may append to it, and says so by its
    fencing token. `claim`, `beat`, `end` and `leases` are for runs. A log without them serves
    topics all the same. While a topic has a lease, nothing but `keep`, `trim` and `delete` removes
    its events. If a lease lapses and nobody ends it, both are forgotten 7 days later.
    """

    @abc.abstractmethod
    def run(self, hint: Hint, stale: Stale, *, task_status: Any = ...) -> Awaitable[None]:
        """Hold the log open until it is cancelled, or `aclose` is called.

        Start it with ``await nursery.start(log.run, hint, stale)``, which returns when the log is
        open. `flowstream.logs.open_log` does that.

        Args:
            hint: called in the event loop for committed events of watched topics. A hint may be
                lost, late or double.
            stale: called when hints may have been lost, also after a reconnect, and when a topic
                was deleted or has a new epoch.
            task_status: what `trio.Nursery.start` passes.
        """

    @abc.abstractmethod
    def append(
        self,
        topic: str,
        entries: Sequence[LogEntry],
        *,
        keep: Replay,
        token: str,
        fence: int | None = None,
    ) -> Awaitable[list[Appended]]:
        """Append all entries, adjacent, or none; **return** when they are committed.

        Args:
            topic: its name; the first append makes it.
            entries: what to append, in this order. If it is empty, nothing happens.
            keep: how much of its past the topic keeps from now on. `Replay.items` and
                `Replay.bytes` (of data) may be exceeded by a fifth. An event older than
                `Replay.seconds` is never read again, and is deleted within an hour.
            token: any text that no other append has. If it is that of one of the topic's last
                1,024 events' appends, nothing is appended, and the first result is returned.
            fence: the token of the topic's lease, which must not have ended. One that has lapsed
                will do, as long as nobody ended it. None: leases are not looked at.

        Raises:
            FencedError: the topic's lease is another one, or none, or has ended; nothing was
                appended.
            LogUnavailableError: if its ``maybe`` is true, the entries may have been appended.
            LogFullError: there is no room; nothing was appended.
            ValueError, TypeError: an argument can't be stored.
        """

    @abc.abstractmethod
    def read(
        self, topic: str, after: Position, limit: int, *, mine: bool = False
    ) -> Awaitable[tuple[Head, bool, list[Record]]]:
        """Return the head, whether `after` is known, and what follows it, oldest first.

        All three are of one moment. There may be fewer records than `limit` and than there are,
        since a page has at most about 1 MiB: read on until the number of the head. If the first
        record does not follow on `after`, those between are no longer kept. If it is of another
        epoch and its number is not above that of `after`, events after `after` were lost.

        Args:
            topic: its name.
            after: a position; one from a client may be anything.
            limit: most records to return, 1 or more.
            mine: `after` is what this process itself had from the log. If the log is behind it,
                it has lost events, and begins a new epoch.
        """

    @abc.abstractmethod
    def heads(self, topics: Iterable[str]) -> Awaitable[dict[str, Head]]:
        """Return the head of each topic, as the log has it; 512 of them in one round trip."""

    @abc.abstractmethod
    def watch(self, topics: Iterable[str]) -> Awaitable[None]:
        """Have hints of these topics from now on. Watch a topic first, then read it."""

    @abc.abstractmethod
    def unwatch(self, topics: Iterable[str]) -> Awaitable[None]:
        """Have no more hints of these topics."""

    @abc.abstractmethod
    def latest(self, topic: str, cursor: str | None = None) -> Awaitable[LatestPage]:
        """Return a page of the newest events by `LogEntry.key`, in the order of the keys.

        Go on with the page's `cursor`. Events after the first page's head may be in later pages:
        who reads on from that head gets them a second time, and misses none. The log keeps 10,000
        keys and 8 MiB a topic; the key that was written longest ago goes first.
        """

    @abc.abstractmethod
    def topics(
        self, prefix: str = "", cursor: str | None = None
    ) -> Awaitable[tuple[list[str], str | None]]:
        """Return names of topics that begin with `prefix`, sorted, and a cursor or None.

        A page has at most 1,000 names. Go on with the cursor until it is None.
        """

    @abc.abstractmethod
    def trim(self, topic: str, keep: Replay | None = None) -> Awaitable[int]:
        """Forget now what `keep` does not keep, exactly; return how many events that were.

        Args:
            topic: its name.
            keep: None for what the topic was last appended to with.
        """

    @abc.abstractmethod
    def delete(self, topic: str) -> Awaitable[None]:
        """Forget the topic's events, keys, epochs and lease. The next event has a new epoch."""

    @abc.abstractmethod
    def aclose(self) -> Awaitable[None]:
        """End `run`, and **wait** until it has returned. A log that is not open stays so."""

    def claim(
        self, topic: str, owner: str, *, seconds: float, instead: int | None = None
    ) -> Awaitable[Lease]:
        """Take the lease of a topic that has none, and return it, with a new fencing token.

        Events that are left over are deleted then, and the next event has a new epoch. If there is
        a lease, whether it lives, has lapsed or has ended, this changes nothing and returns it:
        compare `Lease.owner`. There are two exceptions. An owner who has the lease already, not
        ended, gets it renewed: a call that was cancelled can be made again. And `instead` takes it
        over.

        Args:
            topic: its name.
            owner: who asks, for instance one process. Any text that no other owner has.
            seconds: until the lease lapses, unless `beat` renews it.
            instead: a token. If the topic's lease has this one, and has lapsed or ended, `owner`
                gets a new lease in its place: one of all who try it at once. What an ended lease
                left is deleted, as above. What a lapsed one left stays, in the same epoch: the new
                owner goes on behind it.

        Raises:
            NotImplementedError: this log has no leases.
        """
        raise no_leases(self)

    def beat(
        self, owner: str, tokens: Mapping[str, int], *, seconds: float
    ) -> Awaitable[dict[str, Lease | None]]:
        """Renew leases; return the lease of each topic as it is now, None if it has none.

        A lease is renewed if it is still `owner`'s, with this token, and has not ended. One that
        has lapsed is renewed too, if nobody ended it. 512 take one round trip.

        Args:
            owner: who claimed them.
            tokens: the fencing token of each topic.
            seconds: until they lapse, from now.

        Raises:
            NotImplementedError: this log has no leases.
        """
        raise no_leases(self)

    def end(
        self,
        topic: str,
        fence: int,
        entry: LogEntry,
        *,
        keep: Replay,
        token: str,
        seconds: float,
        lapsed: bool = False,
    ) -> Awaitable[Lease | None]:
        """Append the topic's last event and mark its lease ended, in one commit.

        Returns the lease as it is now, None if there is none. If it has ended already, nothing
        changes. Hints go out as for `append`. After `seconds` lease and events are as if they had
        never been.

        Args:
            topic: its name.
            fence: the token of its lease.
            entry: the last event.
            keep: as for `append`.
            token: as for `append`.
            seconds: for how long lease and events are kept.
            lapsed: do it only if the lease has lapsed, on the log's clock; else change nothing.

        Raises:
            FencedError: the topic's lease has another token; nothing was appended.
            NotImplementedError: this log has no leases.
        """
        raise no_leases(self)

    def leases(self, topics: Iterable[str]) -> Awaitable[dict[str, Lease | None]]:
        """Return the lease of each topic, None if it has none; 512 of them in one round trip.

        Raises:
            NotImplementedError: this log has no leases.
        """
        raise no_leases(self)

    def outbox_statement(
        self,
        topic: str,
        entry: LogEntry,
        *,
        keep: Replay,
        notify: bool = True,
        style: ParameterStyle = "format",
    ) -> OutboxStatement:
        """Return the statement that appends `entry` when a transaction of the app commits.

        Args:
            topic: its name.
            entry: what to append.
            keep: as for `append`.
            notify: whether other processes are told at once. If not, they find it within 10 s.
            style: how the app's driver writes parameters.

        Raises:
            NotImplementedError: this log is not in a database of the app.
            TypeError, ValueError: an argument can't be stored.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no transactions of the app: put the topic in a "
            "PostgresLog, or write `await topic.publish(...)` behind the commit"
        )


def no_leases(log: Log) -> NotImplementedError:
    """Return the error for a call about leases, of a log that has none."""
    return NotImplementedError(
        f"{type(log).__name__} has no leases, so it can keep topics, but not runs: implement "
        "claim, beat, end and leases, or give Runs another log"
    )
