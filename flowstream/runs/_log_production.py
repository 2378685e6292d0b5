"""The production of a run in a log: it may lose the run while it works.

Its worker was frozen or cut off for longer than the lease. Then the log refuses what it appends,
or the worker notices first that its beats fail. Either way the source is cancelled, and the
readers are told nothing from here: the log says how the run goes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from flowstream._closing import CloseReason
from flowstream._errors import FencedError, LogFullError, LogUnavailableError, PublicError
from flowstream.runs._production import Production, given_up, refusal
from flowstream.runs._run_end import RunEnd, owner_lost
from flowstream.runs._run_publisher import RunPublisher
from flowstream.sources import Source
from flowstream.topics._publish_arguments import fed


class LogProduction(Production):
    """Runs a source, and appends its items to a log.

    Args:
        finish: **waits** until the end is in the log; called with it when the source has ended,
            and not if the run is lost.
        patience: seconds that it may take.
        name, source, publisher, cleanup_timeout, ended: see `Production`.

    Attributes:
        is_lost: whether another worker may have the run.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        publisher: RunPublisher,
        cleanup_timeout: float,
        ended: Callable[[], None],
        finish: Callable[[RunEnd], Awaitable[None]],
        patience: float,
    ) -> None:
        super().__init__(name, source, publisher, cleanup_timeout, ended)
        self._run_publisher = publisher
        self._finish = finish
        self._patience = patience
        self.is_lost: bool = False

    def lose(self) -> None:
        """Cancel the source: another worker may have the run."""
        self.is_lost = True
        self.stop(CloseReason.ERROR, "the run's lease was lost")

    async def _tell(self) -> None:
        if self.reason is None:
            self.reason = CloseReason.COMPLETED
        if self.is_lost:
            self._run_publisher.follower.mark_stale()
            return
        patience = self._patience
        end = RunEnd(self.reason, self._error, self._detail)
        if self.reason is CloseReason.SHUTDOWN:
            # Clients of this worker come back to another one, and are told there.
            self._run_publisher.end_readers(end)
            end = owner_lost()
            patience = min(patience, self._cleanup_timeout)
        elif self.reason is CloseReason.CLIENT_DISCONNECTED:
            end = RunEnd(CloseReason.ERROR, given_up(), self._detail)
        elif self.reason is CloseReason.ERROR and end.error is None:
            error = PublicError("internal", "the stream failed")
            end = RunEnd(CloseReason.ERROR, error, self._detail)
        with trio.move_on_after(patience, shield=True):
            await self._finish(end)
        self._run_publisher.follower.mark_stale()

    async def _publish(self, item: Any) -> None:
        if self.reason is not None:
            await trio.lowlevel.checkpoint()  # raises Cancelled in the producer's own tasks
            raise refusal()
        try:
            await self._run_publisher.publish(fed(item))
        except LogFullError:
            raise
        except (FencedError, LogUnavailableError):  # it has waited for as long as the lease
            self.lose()
            await trio.lowlevel.checkpoint()  # noqa: ASYNC120  # raises Cancelled, and is meant to
            raise refusal() from None

    def _publish_nowait(self, item: Any) -> None:
        if self.reason is not None:
            raise refusal()
        self._run_publisher.publish_soon(fed(item))
