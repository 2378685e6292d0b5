"""The interfaces that flowstream calls and that an app may implement.

Each has a few methods without `await`. They take values and return values. flowstream calls them in
the event loop, so they must not block.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Callable, Iterable
from typing import Any

from flowstream._closing import StreamReport
from flowstream._live_stream import LiveStream

__all__ = ["Encoder", "Instrument", "Judge", "Policy", "Verdict"]


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
