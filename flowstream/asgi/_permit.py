"""Whether publishers may write to one stream's connection directly, and if not, why.

Three things decide: the app (``direct=``); the kind of stream (with a filter, a bound in bytes or a
format that keeps state, each event must go through the writer); and the middleware between the
stream and the server. `DirectWrite` checks once more while the response is sent.
"""

from __future__ import annotations

import logging
from typing import Any

from flowstream.abc import Encoder
from flowstream.asgi._between import is_known, name_unknown, tell
from flowstream.asgi._direct_write import DirectWrite, NotDirect
from flowstream.asgi.plan import Plan
from flowstream.asgi.receive import Send
from flowstream.sources._feed import Feed

logger = logging.getLogger("flowstream")


class Permit:
    """The permission to write to one stream's connection directly.

    Args:
        direct_write: how a publisher writes to that connection, if it can.
        app: the framework's app, if it is known; for the log.
    """

    __slots__ = ("_app", "_direct_write", "_parted", "_refused", "_told")

    def __init__(self, direct_write: DirectWrite, app: Any) -> None:
        self._direct_write = direct_write
        self._app = app
        self._parted = False
        self._refused: NotDirect | None = NotDirect.NOT_BEGUN
        self._told: NotDirect | None = NotDirect.NOT_BEGUN  # as the log has it

    def decide(
        self, plan: Plan, encoder: Encoder, send: Send, direct: bool | None, *, gzip: bool
    ) -> DirectWrite | None:
        """Return how publishers are to write; None if they are not to.

        Args:
            plan: what the stream is to be.
            encoder: the stream's own.
            send: what the stream was given.
            direct: what the app says of all its streams; what the plan says wins.
            gzip: the stream compresses what it sends.
        """
        self._refused = self._refusal(plan, encoder, send, direct, gzip)
        return None if self._refused is not None else self._direct_write

    def _refusal(
        self, plan: Plan, encoder: Encoder, send: Send, direct: bool | None, gzip: bool
    ) -> NotDirect | None:
        given = direct if plan.direct is None else plan.direct
        if not isinstance(plan.source, Feed):
            return NotDirect.NO_PUBLISHER
        if given is False:
            return NotDirect.SWITCHED_OFF
        if plan.where is not None:
            return NotDirect.FILTER
        if plan.limits.max_bytes is not None:
            return NotDirect.MAX_BYTES
        # What goes in front of the first item is perhaps known only when that is encoded.
        if encoder is not plan.encoder or encoder.header():
            return NotDirect.FORMAT
        if gzip:
            return NotDirect.OTHER_BODY
        if self._direct_write.why_not is not None:
            return self._direct_write.why_not
        if not given and not is_known(send, self._direct_write):
            tell(name_unknown(send, self._app))
            return NotDirect.BETWEEN
        return None

    def part(self) -> None:
        """Hear that the stream has nothing more to write: its end is no refusal from now on."""
        self._parted = True

    @property
    def why_not(self) -> NotDirect | None:
        """Why there are no direct writes, or None."""
        why_not = self._refused or self._direct_write.why_not
        return None if why_not is NotDirect.ENDED and self._parted else why_not

    def tell(self, path: str) -> None:
        """Write into the log whether there are direct writes, when that has changed."""
        why_not = self.why_not
        if why_not is self._told or why_not is NotDirect.ENDED:
            return
        self._told = why_not
        if why_not is None:
            logger.debug("stream %s: publishers write to its connection directly", path)
        else:
            logger.debug(
                "stream %s: publishers do not write to its connection directly: %s",
                path,
                why_not.value,
            )
