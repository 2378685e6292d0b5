"""A production: the task that runs a source and publishes its items.

It is to a run what a `SourceSupply` is to a stream of one client: a task that runs the source, that
can be told to stop, and that says how it ended. It belongs to the app and not to a request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import trio

from flowstream._closing import CloseReason
from flowstream._errors import PublicError
from flowstream._live_stream import BufferStatistics
from flowstream.sources import Source
from flowstream.sources._relay import Relay
from flowstream.sources._running import run_to_end
from flowstream.tasks._failure import is_refusal, kind_of, public
from flowstream.topics._publish_arguments import fed
from flowstream.topics._publisher import Publisher

logger = logging.getLogger("flowstream")


class Production:
    """Runs a source, and publishes its items.

    Args:
        name: its name in the log.
        source: the source. It runs once.
        publisher: where its items go.
        cleanup_timeout: seconds that it may take to end when it is told to.
        ended: called when it has ended and its readers are told.

    Attributes:
        reason: why it has ended or is ending; None while it goes on.
        over: set when it has ended.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        publisher: Publisher,
        cleanup_timeout: float,
        ended: Callable[[], None],
    ) -> None:
        self.name = name
        self._source: Source | None = source
        self._publisher = publisher
        self._cleanup_timeout = cleanup_timeout
        self._ended = ended
        self._scope = trio.CancelScope(shield=True)
        self._error: PublicError | None = None
        self._detail = ""  # for the readers' reports
        self.reason: CloseReason | None = None
        self.over = trio.Event()

    def stop(self, reason: CloseReason, detail: str) -> None:
        """Cancel the source, which may clean up. Does nothing if it has ended.

        Args:
            reason: why.
            detail: the cause, for the readers' reports.
        """
        if self.reason is None:
            self.reason, self._detail = reason, detail
            self._scope.cancel()

    def shut_down(self) -> None:
        """Stop, because the app shuts down."""
        self.stop(CloseReason.SHUTDOWN, "the run ended with its app")

    async def run(self) -> None:
        """Run the source to its end, whatever it does, then tell its readers."""
        # Free what the source holds: the run may be kept for long.
        source, self._source = self._source, None
        assert source is not None
        try:
            await run_to_end(
                source,
                Relay(self._publish, self._statistics, self._publish_nowait),
                self._scope,
                self._cleanup_timeout,
                name=self.name,
                failed=self._failed,
            )
        except BaseException:
            if self.reason is None:
                self.reason = CloseReason.ERROR  # this ends the program, and nothing is complete
            raise
        finally:
            del source
            try:
                await self._tell()  # noqa: ASYNC102  # shields itself
            finally:
                self.over.set()
                self._ended()

    async def _tell(self) -> None:
        """Tell the readers how it ended. Wait, within bounds, for those that must lose nothing."""
        if self.reason is None:
            self.reason = CloseReason.COMPLETED
        told = self.reason
        if told is CloseReason.CLIENT_DISCONNECTED:
            # A reader that came at the last moment is connected, and may come again.
            told, self._error = CloseReason.ERROR, given_up()
        with trio.move_on_after(self._cleanup_timeout, shield=True):
            await self._publisher.finish(told, self._error, self._detail)

    def _failed(self, error: BaseException) -> None:
        if self.reason is None:
            self.reason = CloseReason.ERROR
            logger.error("%s failed", self.name, exc_info=error)
            # What clients may know of the failure. It is the error of each reader's stream.
            self._detail = f"run: {kind_of(error)}"
            code, message, retryable = public(CloseReason.ERROR, error)
            self._error = PublicError(code, message, retryable=retryable)
        elif not is_refusal(error):
            logger.error(
                "%s failed while it was ended (%s)", self.name, self.reason, exc_info=error
            )

    async def _publish(self, item: Any) -> None:
        if self.reason is not None:
            await trio.lowlevel.checkpoint()  # raises Cancelled in the producer's own tasks
            raise refusal()
        await self._publisher.publish(fed(item))

    def _publish_nowait(self, item: Any) -> None:
        if self.reason is not None:
            raise refusal()
        self._publisher.publish_nowait(fed(item))

    def _statistics(self) -> BufferStatistics:
        """Return how full the replay is, since the producer fills that."""
        publisher = self._publisher
        dropped = publisher.published - publisher.history.items
        return publisher.statistics(publisher.published, dropped=dropped)


def refusal() -> trio.BrokenResourceError:
    """Return the error for a producer that goes on after the end."""
    return trio.BrokenResourceError("the run is over")


def given_up() -> PublicError:
    """Return what a client is told that came as the run was given up."""
    return PublicError("given_up", "This was given up: nobody attended it.", retryable=True)
