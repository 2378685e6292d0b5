"""One running stream: the tasks, and how it ends.

::

    source ──► pump ──► buffer ──► writer ──► send
                ▲                    ▲
       client gone: cancelled        │ heartbeats
                └───── watch ────────┘

Three tasks belong to a stream, in a nursery that its host opens: the pump runs the
producer, the watch looks at deadlines, and the host's own task is the writer. Whoever
hosts it (`StreamResponse` as an ASGI application, the Quart extension) also tells it when
the client has gone.

There are two ways to end it. `close` is graceful: the producer is cancelled, what is
queued is still written, and a last event says why. `abort` is for a client that is gone or
takes nothing: the producer is cancelled, the buffer dropped, the writer cancelled. In both
the first reason stands, and in both the one report is made when the producer has cleaned
up, even if the writer is still stuck in a ``send`` that the server does not let go of.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from typing import Literal

import trio

from flowstream._buffer import BufferStatistics, EventBuffer
from flowstream._closing import CloseReason, StreamReport
from flowstream._errors import EncodingError, PublicError
from flowstream._outlet import Outlet
from flowstream.asgi._deadlines import Activity, Deadlines, Due
from flowstream.asgi._writer import Writer, jittered
from flowstream.asgi.plan import Plan
from flowstream.asgi.receive import Send
from flowstream.limits import Buffer
from flowstream.sources._shielding import run_cancelled_once

logger = logging.getLogger("flowstream")

# Reasons that are nobody's fault are for those who ask; the others are worth a look.
_LEVELS = {
    CloseReason.ERROR: logging.ERROR,
    CloseReason.SLOW_CONSUMER: logging.WARNING,
    CloseReason.STALLED: logging.WARNING,
    CloseReason.MAX_BYTES: logging.WARNING,
}


@dataclass(frozen=True, slots=True)
class StreamStatistics:
    """A moment of one stream."""

    state: Literal["new", "open", "closed"]
    """``new`` before the response is called, ``closed`` once the report is made."""
    reason: CloseReason | None
    """Why it ended or is ending; None while it runs."""
    items: int
    """Events handed to the server; flowstream's own not counted."""
    bytes: int
    """Body bytes handed to the server."""
    dropped: int
    """Events dropped by the policy, or left over at the end."""
    gaps: int
    """Runs of dropped events that the writer has met."""
    heartbeats: int
    """Heartbeats written."""
    duration: float
    """Seconds since the response was called; in all, once it is closed."""
    longest_wait: float
    """Seconds of the longest write so far."""
    sending_for: float
    """Seconds that the write under way has lasted; 0.0 if there is none."""
    buffer: BufferStatistics
    """What is between the producer and the writer now."""


def new_statistics(bounds: Buffer) -> StreamStatistics:
    """Return the statistics of a stream that has not begun."""
    buffer = BufferStatistics(0, 0, bounds.items, bounds.bytes, 0, 0, 0)
    return StreamStatistics("new", None, 0, 0, 0, 0, 0, 0.0, 0.0, 0.0, buffer)


class Stream:
    """A stream at work for one client.

    Args:
        plan: what it is to be.
        path: the request's path, for the log; never the query, which may hold a token.

    Attributes:
        reason: why it ended or is ending, or None.
    """

    def __init__(self, plan: Plan, path: str) -> None:
        self._plan = plan
        self._path = path
        self._start = trio.current_time()
        self._end: float | None = None
        self._epoch = secrets.token_hex(4)
        self._encoder = plan.encoder.start()
        self._buffer = EventBuffer(plan.buffer, plan.policy)
        self._outlet = Outlet(
            self._buffer,
            self._encoder,
            epoch=self._epoch,
            timeout=plan.policy.timeout,
            keyed=plan.policy.keyed,
            give_up=self._give_up,
        )
        self._writer: Writer | None = None
        self._pump_scope = trio.CancelScope(shield=True)
        self._writer_scope = trio.CancelScope()
        self._pump_started = False
        self._pump_ended = trio.Event()
        self._error: BaseException | None = None
        self._raised = False  # the error was raised to the framework, which answers for it
        self.reason: CloseReason | None = None

    # -- what the host calls, in this order ------------------------------------------------

    def begin(self, nursery: trio.Nursery) -> None:
        """Start the producer and the watch over it in `nursery`, the host's own."""
        self._pump_started = True
        nursery.start_soon(self._pump, name=f"flowstream producer of {self._path}")
        nursery.start_soon(self._watch, name=f"flowstream watch of {self._path}")

    async def prime(self, seconds: float) -> None:
        """Wait for the first item, for the end of the source, or for `seconds`.

        Raises:
            Exception: what the producer raised before its first item, unchanged.
        """
        with trio.move_on_after(seconds):
            if not self._buffer.queue.offered and not self._buffer.finished:
                await self._buffer.filled.wait()
        if self._error is not None and not self._buffer.queue.offered:
            await self._pump_ended.wait()
            self._raised = True
            raise self._error

    async def deliver(self, send: Send, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Write the response, from the status line to the last byte."""
        if self._aborted:
            return
        self._writer = writer = Writer(
            send,
            self._buffer,
            self._encoder,
            controls=self._plan.controls,
            max_bytes=self._plan.limits.max_bytes,
        )
        with self._writer_scope:
            try:
                await send({"type": "http.response.start", "status": status, "headers": headers})
                await writer.open(self._plan.retry)
                if not await writer.run():
                    self.close(CloseReason.MAX_BYTES)
                    self._buffer.abandon()
                await self._part(writer, send)
            except OSError:
                # Servers differ in whether a send to a closed connection fails or is
                # swallowed (ASGI 3.0 allows both); it says the same thing.
                self.abort(CloseReason.CLIENT_DISCONNECTED)

    async def finish(self) -> None:
        """Wait until the producer has cleaned up, then make the report.

        Whatever state the stream is in: a host calls this in a ``finally``.
        """
        if self.reason is None:
            self.abort(CloseReason.CANCELLED)
        if self._pump_started:
            with trio.CancelScope(shield=True):
                await self._pump_ended.wait()  # bounded by cleanup_timeout
        self._report()

    # -- how it ends -----------------------------------------------------------------------

    def close(self, reason: CloseReason, error: BaseException | None = None) -> None:
        """End it gracefully: cancel the producer, write what is queued, say why."""
        if self.reason is None:
            self.reason = reason
            self._error = error
        self._outlet.close()
        self._buffer.finish()
        self._pump_scope.cancel()

    def abort(self, reason: CloseReason) -> None:
        """End it at once: cancel the producer and the writer, drop what is queued."""
        if self.reason is None:
            self.reason = reason
        self._outlet.close()
        self._buffer.abandon()
        self._pump_scope.cancel()
        self._writer_scope.cancel()
        if self._pump_ended.is_set():
            self._report()

    async def refuse(self) -> None:
        """End it before it begins: the source is released, the report made."""
        self.reason = CloseReason.REFUSED
        with trio.move_on_after(self._plan.limits.cleanup_timeout, shield=True):
            try:
                await self._plan.source.discard()
            except Exception:
                logger.exception("the source of %s failed while it was closed", self._path)
        self._report()

    def statistics(self) -> StreamStatistics:
        """Return what the stream has done so far, and how full its buffer is."""
        writer, now = self._writer, trio.current_time() if self._end is None else self._end
        buffer = self._buffer.statistics()
        since = None if writer is None else writer.sending_since
        sending_for = 0.0 if since is None or self._end is not None else now - since
        return StreamStatistics(
            state="open" if self._end is None else "closed",
            reason=self.reason,
            items=writer.items if writer else 0,
            bytes=writer.bytes if writer else 0,
            dropped=buffer.dropped + (writer.cut if writer else 0),
            gaps=buffer.gaps,
            heartbeats=writer.heartbeats if writer else 0,
            duration=now - self._start,
            longest_wait=max(writer.longest_wait, sending_for) if writer else 0.0,
            sending_for=sending_for,
            buffer=buffer,
        )

    # -- the tasks -------------------------------------------------------------------------

    async def _pump(self) -> None:
        """Run the producer to its end, whatever it does, and tell the stream how it ended."""
        timeout = self._plan.limits.cleanup_timeout
        try:
            with self._pump_scope:
                overrun = await run_cancelled_once(self._produce(), self._pump_scope, timeout)
                if overrun:
                    logger.warning(
                        "the producer of %s was cancelled again: its cleanup took longer than "
                        "cleanup_timeout=%s seconds",
                        self._path,
                        timeout,
                    )
        finally:
            self._outlet.close()
            self._buffer.finish()
            self._pump_ended.set()
            if self._aborted:
                self._report()

    async def _produce(self) -> None:
        try:
            await self._plan.source.run(self._outlet)
        except BaseException as error:
            cancelled, failure = _split(error)
            if failure is not None:
                self._failed(failure)
            if cancelled is not None:
                raise cancelled from None
            if failure is None:
                raise

    def _failed(self, error: Exception) -> None:
        if self.reason is not None:
            if not isinstance(error, trio.BrokenResourceError):
                logger.error(
                    "the producer of %s failed while it was ended (%s)",
                    self._path,
                    self.reason,
                    exc_info=error,
                )
            return
        self.reason = CloseReason.ERROR
        self._error = error

    async def _watch(self) -> None:
        """Look at the deadlines, each when it comes due."""
        beats = bool(self._encoder.heartbeat()) and self._plan.controls
        heartbeat = self._plan.heartbeat if beats else None
        deadlines = Deadlines(self._plan.limits, heartbeat, self._start)
        try:
            while True:
                now, writer = trio.current_time(), self._writer
                activity = Activity(
                    None if writer is None else writer.sending_since,
                    now if writer is None else writer.last_write,
                )
                due, again = deadlines.check(now, activity)
                if due is Due.HEARTBEAT and writer is not None:
                    writer.beat()
                elif due is Due.MAX_DURATION:
                    self.close(CloseReason.MAX_DURATION)
                elif due is Due.STALLED:
                    self.abort(CloseReason.STALLED)
                    return
                await trio.sleep_until(again)
        finally:
            # Cancelled from outside, while the writer may be stuck in a shielded send and
            # the producer is shielded by us: nobody else would tell them.
            if self._end is None:
                self.abort(CloseReason.CANCELLED)

    # -- the end ---------------------------------------------------------------------------

    @property
    def _aborted(self) -> bool:
        return self._writer_scope.cancel_called

    def _give_up(self) -> None:
        self.abort(CloseReason.SLOW_CONSUMER)

    async def _part(self, writer: Writer, send: Send) -> None:
        """Say why the stream ends, and end the body if what was sent is whole."""
        await self._pump_ended.wait()  # its failure decides what is said
        reason = CloseReason.COMPLETED if self.reason is None else self.reason
        if reason is CloseReason.COMPLETED or reason is CloseReason.STOPPED:
            await writer.say("end", {"reason": reason.value}, id=f"{self._epoch}.end")
        elif reason is CloseReason.MAX_DURATION or reason is CloseReason.SHUTDOWN:
            retry = jittered(self._plan.retry)
            await writer.say("reconnect", {"reason": reason.value}, retry=retry)
        else:
            code, message, retryable = _public(reason, self._error)
            id = None if retryable else f"{self._epoch}.failed"
            await writer.say("failed", {"code": code, "message": message}, id=id)
        if self._plan.controls or reason is CloseReason.COMPLETED:
            # Otherwise the application returns without the final chunk, which HTTP/1.1
            # servers answer by closing the connection: the client sees that it is cut.
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        if self.reason is None:
            self.reason = reason

    def _report(self) -> None:
        """Make the one report: to the log, and to `on_close`."""
        if self._end is not None:
            return
        statistics = self.statistics()
        self._end = self._start + statistics.duration
        assert self.reason is not None
        first = None if self._writer is None else self._writer.first_item
        report = StreamReport(
            reason=self.reason,
            items=statistics.items,
            bytes=statistics.bytes,
            dropped=statistics.dropped,
            gaps=statistics.gaps,
            duration=statistics.duration,
            first_byte=None if first is None else first - self._start,
            longest_wait=statistics.longest_wait,
            error=self._error,
        )
        _log(report, self._path, with_error=not self._raised)
        if self._plan.on_close is not None:
            try:
                self._plan.on_close(report)
            except Exception:
                logger.exception("on_close of %s failed", self._path)


def _split(error: BaseException) -> tuple[BaseException | None, Exception | None]:
    """Split what a producer raised into its cancellation and its failure.

    A producer's nursery may raise both in one group. What is neither (KeyboardInterrupt,
    SystemExit) is left where it is, and both parts are None.
    """
    if isinstance(error, trio.Cancelled):
        return error, None
    if isinstance(error, Exception):
        return None, error
    if isinstance(error, BaseExceptionGroup):
        cancelled, rest = error.split(trio.Cancelled)
        if rest is None:
            return cancelled, None
        if isinstance(rest, Exception):
            return cancelled, rest
    return None, None


def _public(reason: CloseReason, error: BaseException | None) -> tuple[str, str, bool]:
    """Return the code and message that the client may see, and whether it may try again."""
    if isinstance(error, PublicError):
        return error.code, error.message, error.retryable
    if isinstance(error, EncodingError):
        return "encoding", "an item could not be written in this format", False
    if reason is CloseReason.MAX_BYTES:
        return reason.value, "the stream reached its limit in bytes", False
    return "internal", "the stream failed", False


def _log(report: StreamReport, path: str, *, with_error: bool) -> None:
    """Write the one line that each stream leaves in the log."""
    level = _LEVELS.get(report.reason, logging.INFO) if with_error else logging.INFO
    extra = {
        "reason": report.reason.value,
        "path": path,
        "items": report.items,
        "bytes": report.bytes,
        "dropped": report.dropped,
        "gaps": report.gaps,
        "duration": report.duration,
        "first_byte": report.first_byte,
        "longest_wait": report.longest_wait,
    }
    logger.log(
        level,
        "stream %s %s: %d items, %d bytes, %d dropped in %d gaps, %.3f s",
        path,
        report.reason.value,
        report.items,
        report.bytes,
        report.dropped,
        report.gaps,
        report.duration,
        exc_info=report.error if with_error else None,
        extra=extra,
    )
