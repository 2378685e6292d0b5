"""One HTTP/2 stream in the place of a connection, for the response that it carries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import trio

from flowstream._closing import CloseReason
from flowstream.asgi._carrier import Carried, Carrier
from flowstream.asgi._direct_write import DirectWrite, NotDirect
from flowstream.asgi._request import Live
from flowstream.server._stall_bound import StallBound, stall_bound


class Link(Live):
    """One HTTP/2 stream, as the response on it sees it.

    Args:
        connection: carries all streams of the connection.
        reset: called to reset this stream.
        open_direct: returns new direct writes to this stream.
        has_body: whether a body may follow the request's headers.

    Attributes:
        reason: why the stream ended before the response did, or None.
        detail: the cause of that, for reports.
    """

    def __init__(
        self,
        connection: Carrier,
        reset: Callable[[], None],
        open_direct: Callable[[], DirectWrite],
        *,
        has_body: bool,
    ) -> None:
        self._connection = connection
        self._reset = reset
        self._has_body = has_body
        self._open_direct = open_direct
        self._direct_write: DirectWrite | None = None
        self._carried: tuple[Carried, ...] = ()
        self.reason: CloseReason | None = None
        self.detail = ""

    @property
    def nursery(self) -> trio.Nursery:
        """The nursery that outlives the connection: the worker's."""
        return self._connection.nursery

    @property
    def is_attached(self) -> bool:
        """Whether a response is attached, and told what happens to the stream."""
        return bool(self._carried)

    @property
    def write_timeout(self) -> float:
        """Seconds that a write may make no progress, unless a stream says otherwise."""
        return self._connection.write_timeout

    def stall_bound(self) -> StallBound:
        """Return how long a write of this stream may currently make no progress."""
        return stall_bound(self._carried, self.write_timeout, shared=False)

    def attach(self, stream: Carried) -> None:
        """From now on tell `stream` of a reset, the connection's end and a shutdown."""
        self._connection.attach(stream)
        self._carried += (stream,)
        if self.reason is not None:
            stream.abort(self.reason, self.detail)

    def detach(self, stream: Carried) -> None:
        """Tell `stream` nothing more."""
        self._connection.detach(stream)
        self._carried = tuple(other for other in self._carried if other is not stream)

    def abort(self, reason: CloseReason, detail: str = "") -> None:
        """Reset this stream; the connection's other streams go on."""
        if self.reason is None:
            self.end(reason, detail)
            self._reset()

    def may_bring_more(self, scope: Mapping[str, Any]) -> bool:
        """Return whether DATA may follow the request. END_STREAM decides, not the method."""
        return self._has_body

    def open_direct_write(self, scope: Mapping[str, Any]) -> DirectWrite:
        """Return the direct writes to the response on this stream."""
        if self.reason is not None or scope["method"] == "HEAD":
            return DirectWrite.impossible(NotDirect.ENDED)
        self._direct_write = self._open_direct()
        return self._direct_write

    def end(self, reason: CloseReason, detail: str = "") -> None:
        """Tell the response that the stream has ended."""
        if self.reason is None:
            self.reason, self.detail = reason, detail
        if self._direct_write is not None:
            self._direct_write.end()
        for stream in self._carried:
            self.detach(stream)
            stream.abort(self.reason, self.detail)
