"""The interfaces that flowstream calls and that an app may implement.

`Encoder`, `Judge`, `Policy` and `Instrument` have a few methods without `await`. They take values
and return values. flowstream calls them in the event loop, so they must not block. A `Log` waits
for a disk or a server: write its methods with ``async def``.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from flowstream._closing import StreamReport
from flowstream._live_stream import LiveStream
from flowstream.limits import Replay

__all__ = [
    "Appended",
    "Encoder",
    "Head",
    "Hint",
    "Instrument",
    "Judge",
    "LatestPage",
    "Log",
    "LogEntry",
    "Policy",
    "Position",
    "Record",
    "Stale",
    "Verdict",
]


class Encoder(abc.ABC):
    """Turns events into bytes of one wire format.

    Any number of streams may share one encoder. Two encoders that write the same bytes are equal,
    and have the same hash. An encoder that remembers something about a stream keeps it in the
    object that `start` returns. flowstream calls `encode` in the producer's task, in the order of
    production. `encode` must not remember an item, because the item may never be sent. The writer
    calls the other methods.
    """

    media_type: str = "application/octet-stream"
    """The value of ``Content-Type``."""

    headers: tuple[tuple[str, str], ...] = ()
    """Further response headers that the format needs. Headers of the app replace them."""

    in_band: bool = False
    """Whether the format can carry flowstream's own events (gap, failed, end, ...).

    If not, a stream that ends early is cut without its final chunk, so that half of it
    never looks complete.
    """

    verbatim: bool = False
    """Whether the body is exactly the bytes of the items, so that both have the same length."""

    automatic_ids: bool = False
    """Whether events without an id are given one (``epoch.seq``)."""

    def start(self) -> Encoder:
        """Return the encoder for one stream: itself, if it remembers nothing."""
        return self

    @abc.abstractmethod
    def encode(
        self,
        data: Any,
        *,
        id: str | None = None,
        type: str | None = None,
        key: object = None,
        retry: int | None = None,
    ) -> bytes:
        """Return the bytes of one event, complete in themselves.

        Raises:
            TypeError, ValueError: the format cannot carry `data`. The stream then fails with
                `flowstream.EncodingError`, which names the type of `data`.
        """

    def join(self, items: Iterable[bytes]) -> bytes:
        """Join items that `encode` returned into the bytes to send.

        The writer calls this for the items that it really sends, in order. Some items never get
        here: a policy dropped them, or the producer stopped waiting to send them. So if the bytes
        of an item depend on what the client got before, add them here and not in `encode`.
        """
        return b"".join(items)

    def numbered(self, prefix: str) -> Callable[[Any, int], bytes]:
        """Return a function that encodes plain values, with `prefix` and a number as the id.

        If `automatic_ids` is true, each stream calls this once, and calls the function for every
        item that is not an `Event`. A format can prepare here what all items share.
        """
        return lambda data, number: self.encode(data, id=f"{prefix}{number}")

    def opening(self, retry: int | None) -> bytes:
        """Return bytes to send when the stream opens, before the first item."""
        return b""

    def header(self) -> bytes:
        """Return bytes that precede the first item. They are sent even if there is no item."""
        return b""

    def heartbeat(self) -> bytes:
        """Return bytes that mean nothing, and keep the connection alive; ``b""`` for none."""
        return b""

    def control(
        self, name: str, body: Any, *, id: str | None = None, retry: int | None = None
    ) -> bytes:
        """Return one of flowstream's own events. Called only if `in_band` is true.

        The bytes are sent unchanged. Only a ``snapshot`` goes through `join`, like an item.
        """
        return b""


class Verdict(enum.Enum):
    """What to do with an item that arrives at a full buffer."""

    WAIT = "wait"
    """The producer waits for room, at most `Policy.timeout` seconds."""
    EVICT_OLDEST = "evict_oldest"
    """Drop the oldest droppable items until the arriving one fits."""
    EVICT_NEWEST = "evict_newest"
    """Drop the newest droppable items until the arriving one fits."""
    REPLACE_NEWEST = "replace_newest"
    """Drop the newest droppable item, if there is one, even if there is room. Then drop the
    oldest ones until the arriving item fits."""
    DROP_ARRIVING = "drop_arriving"
    """Drop the arriving item."""
    DISCONNECT = "disconnect"
    """Disconnect the client, with reason `slow_consumer`."""


class Judge(abc.ABC):
    """A policy at work on one client's buffer."""

    behind: bool = False
    """While true, the buffer asks `arrive` about every item, not only when it is full."""

    @abc.abstractmethod
    def arrive(self, now: float, essential: bool) -> Verdict:
        """Decide on one arrival.

        Args:
            now: seconds on the clock that the stream runs on.
            essential: the item may not be dropped. If the verdict would drop it, or if nothing
                droppable is queued, the producer waits instead. The buffer asks about such
                an item only when it does not fit.
        """

    def drained(self, level: float) -> None:  # noqa: B027  # most judges do not need it
        """Called after the writer took from the buffer; `level` is how full it is, from 0 to 1."""


class Policy(abc.ABC):
    """What happens when a client's buffer is full.

    Any number of streams may share one policy. To write your own, derive from this class and
    return a `Judge` from `start`; nothing else is needed.
    """

    timeout: float | None = None
    """Seconds that a producer waits under `Verdict.WAIT` before the client is disconnected;
    None for as long as the client lives."""

    max_age: float | None = None
    """Seconds after which a queued item is dropped instead of written; None for never."""

    keyed: bool = False
    """Whether an arriving item takes the place of the queued one with the same key."""

    rereads: bool = False
    """Whether a topic's client whose buffer is full reads the rest from the topic's replay, when
    it has room again. Then `Judge.arrive` is not called."""

    @abc.abstractmethod
    def start(self) -> Judge:
        """Return the judge for one client's buffer."""


class Instrument:
    """Is told when streams of a Trio run start and end: `flowstream.add_instrument`.

    Derive from it and write the methods you want; those here do nothing. The event loop calls them
    with the context variables of the view, so they must not block. If one raises, the error is
    logged, the instrument is told nothing more, and the stream goes on unharmed.
    """

    def stream_started(self, stream: LiveStream) -> None:
        """Called when a stream was made for a request, before its first byte goes out.

        A stream that is refused at once, for instance for a HEAD, starts and ends, too.
        """

    def stream_ended(self, stream: LiveStream, report: StreamReport) -> None:
        """Called once when a stream has ended, after its line in the log.

        Args:
            stream: the view that `stream_started` was given.
            report: what the stream did, and why it ended.
        """


Position: TypeAlias = tuple[str, int]
"""A place in a topic: an epoch, and the number of the last event before it. What follows a
position is what comes after that event; number 0 is before all events."""


class Head(NamedTuple):
    """How far a topic has come. Its own position is its last epoch with `number`."""

    epochs: tuple[Position, ...]
    """The last epochs, 8 at the most, the oldest first; each with its first number."""
    number: int
    """The number of the newest event; 0 if there was none yet."""
    first: int
    """The number of the oldest event that can be read; `number` + 1 if there is none."""


class Record(NamedTuple):
    """One event as the log has it."""

    epoch: str
    """The epoch that it was published in."""
    number: int
    """One more than the event before it."""
    data: bytes
    """What was appended."""
    age: float = 0.0
    """Seconds since it was appended, on the log's clock, when it was read. In a hint it may be 0.
    Whoever keeps a record adds the time that has gone by since, and serves nothing that is older
    than `Replay.seconds`."""


class LogEntry(NamedTuple):
    """One event to append."""

    data: bytes
    """The event, encoded; at most 64 MiB in one call of `Log.append`."""
    key: str | None = None
    """The log keeps the newest event of each key for `Log.latest`. None: it is not kept there."""
    idempotency_key: str | None = None
    """A second event with the same one is not appended. None: the log does not look."""
    idempotency_seconds: float = 300.0
    """Seconds for which the log remembers `idempotency_key`, counted from its first event."""


class Appended(NamedTuple):
    """Where one entry is in the log."""

    epoch: str
    """Its epoch."""
    number: int
    """Its number."""
    duplicate: bool
    """Whether the entry was not appended, since an event with its idempotency key is there."""


class LatestPage(NamedTuple):
    """Some of the newest events by key."""

    head: Head
    """The topic when the page was read. That of the first page is the position to go on from."""
    records: dict[str, Record]
    """The newest event of each key."""
    cursor: str | None
    """What to call `Log.latest` with for the next page; None if this is the last one."""


Hint: TypeAlias = Callable[[str, int, Sequence[Record]], None]
"""Hears of news: the topic, the number that the records follow on, the records."""
Stale: TypeAlias = Callable[[str | None], None]
"""Hears that hints of a topic may have been lost, or of all topics for None: read its head."""


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

    A cancelled call leaves the log usable. A cancelled `append` may have happened: call it again
    with the same token.
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
        self, topic: str, entries: Sequence[LogEntry], *, keep: Replay, token: str
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

        Raises:
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
        """Forget the topic's events, keys and epochs. What is appended next has a new epoch."""

    @abc.abstractmethod
    def aclose(self) -> Awaitable[None]:
        """End `run`, and **wait** until it has returned. A log that is not open stays so."""
