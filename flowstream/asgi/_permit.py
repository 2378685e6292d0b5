"""Decide whether publishers may write one stream's bytes past its writer; if not, say why.

The stream decides first: with a filter, a bound in bytes or a format that keeps state, each event
must go through the writer. Then its transport decides. It knows what stands between the stream and
its client, and its decision may change while the stream runs.
"""

from __future__ import annotations

import logging
from typing import Any

from flowstream.abc import Encoder
from flowstream.asgi._direct_write import NotDirect
from flowstream.asgi._transport import Transport
from flowstream.asgi.plan import Plan

logger = logging.getLogger("flowstream")


class Permit:
    """The permission to write one stream's bytes past its writer.

    Args:
        app: the framework's app, if it is known; for the log.
    """

    __slots__ = ("_app", "_parted", "_refused", "_told", "_transport")

    def __init__(self, app: Any) -> None:
        self._app = app
        self._transport: Transport | None = None
        self._parted = False
        self._refused: NotDirect | None = NotDirect.NOT_BEGUN
        self._told: NotDirect | None = NotDirect.NOT_BEGUN  # what was logged last

    def decide(self, plan: Plan, encoder: Encoder, transport: Transport) -> None:
        """Decide by the kind of stream. If that allows direct writes, let `transport` decide.

        Args:
            plan: what is delivered.
            encoder: the stream's own.
            transport: carries the stream's bytes.
        """
        self._transport = transport
        self._refused = _refusal(plan, encoder)
        if self._refused is None:
            transport.open_direct(plan.direct, self._app)

    def part(self) -> None:
        """The stream writes its last word: from now on, its end is no reason to report."""
        self._parted = True

    @property
    def why_not(self) -> NotDirect | None:
        """Why there are no direct writes, or None."""
        why_not = self._refused
        if why_not is None and self._transport is not None:
            why_not = self._transport.why_not_direct
        return None if why_not is NotDirect.ENDED and self._parted else why_not

    def tell(self, path: str) -> None:
        """Log whether there are direct writes, if that has changed."""
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


def _refusal(plan: Plan, encoder: Encoder) -> NotDirect | None:
    """Return why each event of such a stream must go through its writer; None if none must."""
    if not plan.is_feed:
        return NotDirect.NO_PUBLISHER
    if plan.direct is False:
        return NotDirect.SWITCHED_OFF
    if plan.where is not None:
        return NotDirect.FILTER
    if plan.limits.max_bytes is not None:
        return NotDirect.MAX_BYTES
    # The header in front of the first item may be known only when that item is encoded.
    if encoder is not plan.encoder or encoder.header():
        return NotDirect.FORMAT
    return None
