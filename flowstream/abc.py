"""The interfaces that flowstream calls and that an app may implement for itself.

Each is a handful of methods without `await`: they are given values, return values, and
are called from the event loop, so they must not block.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["Encoder", "Judge", "Policy", "Verdict"]


class Encoder(abc.ABC):
    """Turns events into bytes of one wire format.

    An encoder is a value that may be shared by any number of streams, and compares and
    hashes by what it would write; what it remembers of one stream lives in the object that
    `start` returns. `encode` is called in the
    producer's task and in the order of production, and remembers nothing that matters if an
    item is not sent; the other methods are called by the writer.
    """

    media_type: str = "application/octet-stream"
    """The value of ``Content-Type``."""

    headers: tuple[tuple[str, str], ...] = ()
    """Further response headers that the format needs; an app's own take their place."""

    in_band: bool = False
    """Whether the format can carry flowstream's own events (gap, failed, end, ...).

    Where it is false a stream that ends early is cut without its final chunk, so that half
    of it never looks whole.
    """

    verbatim: bool = False
    """Whether a stream has the bytes of its items and no others, so that their length is its."""

    automatic_ids: bool = False
    """Whether events without an id are given one (``epoch.seq``)."""

    def start(self) -> Encoder:
        """Return the encoder for one stream; itself, where nothing is remembered."""
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
            TypeError, ValueError: the format cannot carry this; the stream then fails
                with `flowstream.EncodingError`, which names the item's type.
        """

    def join(self, items: Iterable[bytes]) -> bytes:
        """Return what is sent for items that `encode` returned, in the order they are sent in.

        Called by the writer, for what it really sends. What `encode` returned may never come
        here: a policy drops it, or a producer gives up waiting to send it. So a format in which
        an item depends on what the client was given before adds that here and not in `encode`.
        """
        return b"".join(items)

    def numbered(self, prefix: str) -> Callable[[Any, int], bytes]:
        """Return a function that encodes plain values, with `prefix` and a number for id.

        Asked for once a stream, where `automatic_ids` is true, and called for every item
        that is no `Event`: a format may do here what it can do once.
        """
        return lambda data, number: self.encode(data, id=f"{prefix}{number}")

    def opening(self, retry: int | None) -> bytes:
        """Return what is sent at once when the stream opens, before there is an item."""
        return b""

    def header(self) -> bytes:
        """Return what goes in front of the first item, or stands alone if there is none."""
        return b""

    def heartbeat(self) -> bytes:
        """Return bytes that keep a connection alive and mean nothing; none if there are none."""
        return b""

    def control(
        self, name: str, body: Any, *, id: str | None = None, retry: int | None = None
    ) -> bytes:
        """Return one of flowstream's own events; called only where `in_band` is true.

        It is sent as it is, but for a ``snapshot``, which is an item to `join`.
        """
        return b""


class Verdict(enum.Enum):
    """What is to happen to an item that arrives at a full buffer."""

    WAIT = "wait"
    """The producer waits for room, for `Policy.timeout` seconds at the most."""
    EVICT_OLDEST = "evict_oldest"
    """The oldest droppable items go until the arriving one fits."""
    EVICT_NEWEST = "evict_newest"
    """The newest droppable items go until the arriving one fits."""
    REPLACE_NEWEST = "replace_newest"
    """The newest droppable item goes, if there is one, whether there is room or not; then
    the oldest ones until the arriving item fits."""
    DROP_ARRIVING = "drop_arriving"
    """The arriving item goes."""
    DISCONNECT = "disconnect"
    """The client goes, with reason `slow_consumer`."""


class Judge(abc.ABC):
    """A policy at work on one client's buffer."""

    behind: bool = False
    """While true, `arrive` is asked about every arrival, not only at a full buffer."""

    @abc.abstractmethod
    def arrive(self, now: float, essential: bool) -> Verdict:
        """Decide on one arrival.

        Args:
            now: seconds on the clock that the stream runs on.
            essential: the item may not be dropped. A verdict that would drop it, or that
                finds nothing droppable to evict, makes the producer wait instead. It is
                asked about only when it does not fit.
        """

    def drained(self, level: float) -> None:  # noqa: B027  # most judges need not hear
        """Hear how full the buffer is, from 0 to 1, after the writer took from it."""


class Policy(abc.ABC):
    """What happens when a client's buffer is full.

    A policy is a value that may be shared by any number of streams. To make one's own,
    derive from this class and return a `Judge` from `start`; nothing else is needed.
    """

    timeout: float | None = None
    """Seconds that a producer waits under `Verdict.WAIT` before the client is given up;
    None for as long as the client lives."""

    max_age: float | None = None
    """Seconds after which a queued item is dropped instead of written; None for never."""

    keyed: bool = False
    """Whether an arriving item takes the place of the queued one with the same key."""

    rereads: bool = False
    """Whether a topic's client without room reads from the topic's replay what it lacks, when
    it has room again. Then `Judge.arrive` is not asked about it."""

    @abc.abstractmethod
    def start(self) -> Judge:
        """Return the judge for one client's buffer."""
