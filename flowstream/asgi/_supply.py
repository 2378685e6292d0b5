"""Where a stream's events come from: a producer of its own, or a feed that it shares.

A `SourceSupply` runs a source in a task, for this client only. A `FeedSupply` has no task: the
publisher puts events into the buffer, or writes them to the client's connection directly. The
stream treats both alike: it starts its supply once, may stop it at any time, and is told when it
has ended.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Protocol

import trio

from flowstream._closing import CloseReason
from flowstream.abc import Encoder
from flowstream.asgi._writer import Writer
from flowstream.asgi.plan import Plan
from flowstream.buffer._buffer_outlet import BufferOutlet
from flowstream.buffer._event_buffer import EventBuffer
from flowstream.buffer._queue import Gap, Slice
from flowstream.framing import Framing
from flowstream.sources import Resumable, Source
from flowstream.sources._feed import Feed, FeedCursor, Terms
from flowstream.sources._running import run_to_end
from flowstream.tasks._failure import passes
from flowstream.tasks._flag import Flag
from flowstream.topics._subscription import SlowConsumerError

logger = logging.getLogger("flowstream")


class Consumer(Protocol):
    """The stream, as its supply knows it."""

    def close(self, reason: CloseReason, detail: str = "") -> None:
        """End gracefully."""

    def give_up(self, detail: str = "") -> None:
        """End at once: the client is too slow. `detail` says why; "" means the stream's policy."""

    def failed(self, error: BaseException, who: str) -> None:
        """No more events will come, because `who` failed with `error`."""

    def supply_ended(
        self,
        reason: CloseReason = CloseReason.COMPLETED,
        error: BaseException | None = None,
        detail: str = "",
    ) -> None:
        """No more events will come. If there is an `error`, it was logged elsewhere."""


class Supply(Protocol):
    """Where a stream's events come from."""

    ended: Flag
    """Set when no more events will come and their source is released."""

    started: bool
    has_task: bool
    """A task runs it, so `start` needs a nursery."""

    lacking: int | None
    """Events that were not pulled yet when it was stopped; None if that is not known."""

    @property
    def behind(self) -> bool:
        """Whether there are events to pull."""
        ...

    @property
    def waits(self) -> bool:
        """Whether `pull` would wait for something that the app makes."""
        ...

    async def prepare(self) -> None:
        """**Wait** until `pull` would not wait, or until the stream was told of a failure."""

    async def pull(self, limit: int) -> list[bytes | Gap | Slice]:
        """Return what to write next. Call it while `behind` is true and nothing is queued."""
        ...

    def tally(self) -> None:
        """Count what was written directly. Call this before you read the counts."""

    def start(self, nursery: trio.Nursery | None) -> None:
        """Begin to fill the buffer."""

    def connect(self, writer: Writer, direct: Callable[[bytes], bool] | None) -> None:
        """The response has begun; `direct` writes to its connection, past `writer`."""

    async def run_up(self) -> None:
        """**Wait** until a task that has just started waits for the first time."""

    def stop(self) -> None:
        """Fill the buffer no more."""

    async def discard(self) -> None:
        """Release a source that was never started."""


class SourceSupply:
    """A source that runs in a task, for one client.

    Args:
        source: what it runs.
        buffer: where its items go.
        encoder: the stream's own.
        plan: the stream's; its ``cleanup_timeout`` bounds how long the source may take to end once
            it is stopped.
        consumer: the stream.
        path: the request's, for the log.
    """

    behind = False
    waits = False
    lacking: int | None = 0
    has_task = True

    def __init__(
        self,
        source: Source,
        buffer: EventBuffer,
        encoder: Encoder,
        plan: Plan,
        consumer: Consumer,
        path: str,
    ) -> None:
        self._source = source
        self._buffer = buffer
        self._consumer = consumer
        self._path = path
        self._cleanup_timeout = plan.limits.cleanup_timeout
        self._context = plan.context
        self._scope = trio.CancelScope(shield=True)
        self._outlet = BufferOutlet(
            buffer,
            encoder,
            timeout=plan.policy.timeout,
            keyed=plan.policy.keyed,
            give_up=consumer.give_up,
        )
        self.started = False
        self.ended = Flag()

    def start(self, nursery: trio.Nursery | None) -> None:
        """Run the source in `nursery`, in a copy of the context that the stream was made in."""
        assert nursery is not None
        self.started = True
        name = f"flowstream producer of {self._path}"
        # Not in the host's context: a span that the view had open is no longer open there.
        self._context.run(partial(nursery.start_soon, self._run, name=name))

    def connect(self, writer: Writer, direct: Callable[[bytes], bool] | None) -> None:
        """Do nothing: a producer's items go through the buffer."""

    async def run_up(self) -> None:
        """**Wait** up to two passes of the event loop, until the source has made its first item.

        Two, because in the first pass the event loop may run the two tasks in either order.
        """
        buffer = self._buffer
        for _ in range(2):
            if not (buffer.queue.offered or buffer.finished):
                await trio.lowlevel.checkpoint()

    def stop(self) -> None:
        """Cancel the source. It may clean up."""
        self._outlet.close()
        self._scope.cancel()

    async def prepare(self) -> None:
        """Do nothing: a producer is never behind."""

    async def pull(self, limit: int) -> list[bytes | Gap | Slice]:
        """Return nothing: a producer is never behind."""
        return []

    def tally(self) -> None:
        """Do nothing: a producer writes nothing directly."""

    async def discard(self) -> None:
        """Release what the source holds."""
        with trio.move_on_after(self._cleanup_timeout, shield=True):
            try:
                await self._source.discard()
            except BaseException as error:  # noqa: ASYNC103  # see `passes`
                if passes(error):
                    raise
                logger.exception("the source of %s failed while it was closed", self._path)

    async def _run(self) -> None:
        """Run the producer to its end, and tell the stream how it ended."""
        try:
            await run_to_end(
                self._source,
                self._outlet,
                self._scope,
                self._cleanup_timeout,
                name=f"the producer of {self._path}",
                failed=self._failed,
            )
        finally:
            self._outlet.close()
            self.ended.set()
            self._consumer.supply_ended()

    def _failed(self, failure: BaseException) -> None:
        if isinstance(failure, SlowConsumerError):
            self._consumer.give_up("the subscription's own policy")
        else:
            self._consumer.failed(failure, "producer")


class FeedSupply:
    """A stream's place in a feed, and the stream as the feed knows it.

    Attributes:
        buffer: where the feed puts events.
        framing: how bytes are framed for `direct`; None if there are no direct writes.
        direct: writes to the client's connection past the buffer; None if nothing may.
    """

    has_task = False

    __slots__ = (
        "_after",
        "_consumer",
        "_cursor",
        "_encoder",
        "_feed",
        "_plan",
        "_stopped",
        "_writer",
        "buffer",
        "direct",
        "ended",
        "framing",
        "lacking",
        "started",
    )

    def __init__(
        self,
        feed: Feed,
        buffer: EventBuffer,
        encoder: Encoder,
        plan: Plan,
        consumer: Consumer,
        after: str | None,
        framing: Framing | None,
    ) -> None:
        self._feed = feed
        self._plan = plan
        self._encoder = encoder
        self._consumer = consumer
        self._after = after
        self._cursor: FeedCursor | None = None
        self._writer: Writer | None = None
        self._stopped = False
        self.buffer = buffer
        self.framing = framing
        self.direct: Callable[[bytes], bool] | None = None
        self.lacking: int | None = 0
        self.started = False
        self.ended = Flag()

    @property
    def behind(self) -> bool:
        """Whether the client still lacks events that it missed."""
        cursor = self._cursor
        return cursor is not None and cursor.behind and not self._stopped

    @property
    def waits(self) -> bool:
        """Whether the client waits for a snapshot that the app makes."""
        return self._cursor is not None and self._cursor.waits

    def start(self, nursery: trio.Nursery | None) -> None:
        """Subscribe. No task runs in `nursery`."""
        self.started = True
        if not self._stopped:
            self._join()

    def _join(self) -> None:
        try:
            plan = self._plan
            terms = Terms(plan.policy, self._after, plan.where, plan.controls)
            cursor = self._feed.join(self, self._encoder, terms)
        except BaseException as error:  # noqa: ASYNC103  # see `passes`
            if passes(error):
                raise
            self.fail(error)
            return  # noqa: ASYNC104  # see `passes`
        self._cursor = cursor
        if self._stopped:
            cursor.leave()  # it was ended while it joined

    def connect(self, writer: Writer, direct: Callable[[bytes], bool] | None) -> None:
        """Let the feed write directly; `writer` counts that, too."""
        self._writer = writer
        self.direct = direct

    async def run_up(self) -> None:
        """Do nothing: there is no task."""

    def stop(self) -> None:
        """Leave the feed."""
        if self._cursor is not None and not self._stopped:
            self.lacking = self._cursor.lacks()
            self._cursor.leave()
        self._stopped = True
        self.ended.set()

    async def prepare(self) -> None:
        """Wait for the snapshot that the client will get."""
        assert self._cursor is not None
        try:
            await self._cursor.prepare()
        except BaseException as error:  # noqa: ASYNC103  # see `passes`
            if passes(error):
                raise
            self.fail(error)

    async def pull(self, limit: int) -> list[bytes | Gap | Slice]:
        """Return a part of what the client missed; nothing if that fails."""
        assert self._cursor is not None
        try:
            return await self._cursor.pull(limit)
        except BaseException as error:  # noqa: ASYNC103  # see `passes`
            if passes(error):
                raise
            self.fail(error)
            return []  # noqa: ASYNC104  # see `passes`

    def tally(self) -> None:
        """Count what the feed wrote directly since the last time."""
        if self._cursor is not None:
            self._cursor.tally()

    async def discard(self) -> None:
        """Do nothing: it holds nothing before it is started."""

    # -- what the feed calls ---------------------------------------------------------------

    def wrote(self, size: int, items: int, at: float) -> None:
        """Count what the feed wrote past the buffer."""
        assert self._writer is not None
        self._writer.wrote(size, items, at)

    def give_up(self) -> None:
        """End the stream: its client is too slow."""
        self._consumer.give_up()

    def fail(self, error: BaseException) -> None:
        """End the stream: the feed can't make its events."""
        self._consumer.failed(error, "topic")
        self._consumer.close(CloseReason.ERROR)

    def close(self, reason: CloseReason, detail: str = "") -> None:
        """End the stream."""
        self._consumer.close(reason, detail)

    def feed_ended(
        self,
        reason: CloseReason = CloseReason.COMPLETED,
        error: BaseException | None = None,
        detail: str = "",
    ) -> None:
        """End the stream once its client has everything."""
        if not self.ended.is_set():
            self.ended.set()
            self._consumer.supply_ended(reason, error, detail)


def open_supply(
    plan: Plan,
    buffer: EventBuffer,
    encoder: Encoder,
    consumer: Consumer,
    *,
    path: str,
    after: str | None,
    framing: Framing | None,
) -> Supply:
    """Return the supply for one stream, not started.

    Args:
        plan: what is delivered.
        buffer: the stream's own.
        encoder: the stream's own.
        consumer: the stream.
        path: the request's, for the log.
        after: the id of the event that the client saw last, or None.
        framing: how bytes are framed for direct writes; None if there are none.
    """
    if isinstance(plan.source, Feed):
        return FeedSupply(plan.source, buffer, encoder, plan, consumer, after, framing)
    source = plan.source.resumed(after) if isinstance(plan.source, Resumable) else plan.source
    return SourceSupply(source, buffer, encoder, plan, consumer, path)
