"""Encoders: what turns events into the bytes of one wire format."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable
from typing import Any


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
