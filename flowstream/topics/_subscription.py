"""Subscription: a topic's events inside the program, for code that reads them itself.

`Topic.subscribe` returns a `SubscriptionManager`. Use it with ``async with`` to get the
subscription, or pass it to `sse()`, which then streams the topic with these arguments. It is a
source, so a shape such as `throttle` takes it, too.
"""

from __future__ import annotations

from typing import Any

from flowstream._closing import CloseReason
from flowstream._errors import FlowstreamError
from flowstream._event import Event, Where
from flowstream._live_stream import BufferStatistics
from flowstream.abc import Policy
from flowstream.buffer._event_buffer import EventBuffer
from flowstream.buffer._outlet import Outlet
from flowstream.buffer._queue import Gap
from flowstream.limits import Buffer
from flowstream.policies import Block
from flowstream.sources._feed import Feed, FeedCursor, Terms
from flowstream.sources._source import Source

# Bytes that are taken at a time, in the topic's encoding.
_TAKE_BYTES = 1 << 16


class SlowConsumerError(FlowstreamError):
    """A subscription was too slow to take its events, and its policy ended it."""


class _Receiver:
    """A subscription, as its topic sees it: its buffer, and how it ended.

    Attributes:
        framing, direct: None: there is no connection to write to.
        error: raised at once.
        last_error: raised when all events have been taken.
    """

    framing = None
    direct = None

    def __init__(self, bounds: Buffer, policy: Policy) -> None:
        self.buffer: EventBuffer = EventBuffer(bounds, policy)
        self.cursor: FeedCursor | None = None
        self.error: BaseException | None = None
        self.last_error: BaseException | None = None

    def wrote(self, size: int, items: int, at: float) -> None:
        """Not called: there is no connection to write to."""

    def give_up(self) -> None:
        """End the subscription: it is too slow."""
        self.fail(SlowConsumerError("the subscription's buffer was full"))

    def fail(self, error: BaseException) -> None:
        """End the subscription at once, with `error`."""
        if self.error is None:
            self.error = error
        self.leave()

    def feed_ended(
        self,
        reason: CloseReason = CloseReason.COMPLETED,
        error: BaseException | None = None,
        detail: str = "",
    ) -> None:
        """End the subscription when all events have been taken; with `error`, if there is one."""
        self.last_error = error
        self.buffer.finish()

    def close(self, reason: CloseReason, detail: str = "") -> None:
        """End the subscription at once."""
        self.leave()

    def leave(self) -> None:
        """Leave the topic, and drop the events that were not taken."""
        if self.cursor is not None:
            self.cursor.leave()
        self.buffer.abandon()


class Subscription:
    """A topic's events, one after the other: ``async for event in subscription``.

    Made by `Topic.subscribe`. **Ends** when the topic is closed and all events were taken.
    ``Event({"missed", "after", "before"}, type="gap")`` stands in the place of missed events.

    Raises:
        SlowConsumerError: at the next step, if its policy has ended it.
        Exception: what its ``where=`` raised; or, at the end, what a run failed with.
    """

    def __init__(self, receiver: _Receiver, cursor: FeedCursor) -> None:
        self._receiver = receiver
        self._cursor = cursor
        self._taken: list[Event] = []

    def __aiter__(self) -> Subscription:
        """Return itself."""
        return self

    async def __anext__(self) -> Event:
        """**Wait** for the next event, and return it."""
        receiver = self._receiver
        while not self._taken:
            if receiver.error is not None:
                raise receiver.error
            pieces: list[Any] = receiver.buffer.take(_TAKE_BYTES)
            if not pieces and self._cursor.behind:
                pieces = await self._cursor.pull(_TAKE_BYTES)
            elif not pieces:
                if receiver.buffer.finished:
                    if receiver.last_error is not None:
                        # All readers share the run's error: remove the traceback of other readers.
                        raise receiver.last_error.with_traceback(None)
                    raise StopAsyncIteration
                await receiver.buffer.filled.wait()
            self._taken = [_event(piece) for piece in reversed(pieces)]
        return self._taken.pop()

    def statistics(self) -> BufferStatistics:
        """Return how full its buffer is, and how many items were offered, dropped and so on."""
        return self._receiver.buffer.statistics()


class SubscriptionManager(Source):
    """Makes a subscription to a topic or run when it is entered; made by `Topic.subscribe`.

    ``async with topic.subscribe() as events`` takes it until the block ends;
    ``sse(topic.subscribe(...))`` streams the topic with these arguments.

    Args:
        feed: the topic or run.
        after, where, buffer, policy: as `Topic.subscribe` says.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value.
    """

    def __init__(
        self,
        feed: Feed,
        after: str | None,
        where: Where | None,
        buffer: int | Buffer,
        policy: Policy | None,
    ) -> None:
        if after is not None and not isinstance(after, str):
            raise TypeError(f"after must be the id of an event, not a {type(after).__qualname__}")
        if where is not None and not callable(where):
            raise TypeError(
                f"where must be a function of an event, not a {type(where).__qualname__}"
            )
        self.feed = feed
        self.buffer: Buffer = Buffer.of(buffer)
        self.terms: Terms = Terms(check_policy(policy, feed), after, where, controls=True)
        self._receiver: _Receiver | None = None

    async def __aenter__(self) -> Subscription:
        """Subscribe, and return the subscription.

        Raises:
            RuntimeError: it was entered before.
        """
        if self._receiver is not None:
            raise RuntimeError("this subscription was used already: call subscribe() again")
        self._receiver = receiver = _Receiver(self.buffer, self.terms.policy)
        receiver.cursor = self.feed.join(receiver, None, self.terms)
        return Subscription(receiver, receiver.cursor)

    async def __aexit__(self, *raised: object) -> None:
        """Leave the topic."""
        assert self._receiver is not None
        self._receiver.leave()

    async def run(self, out: Outlet) -> None:
        """Put each event into `out`, as any other source of one client does."""
        async with self as events:
            await out.send_each(events)


def check_policy(policy: Policy | None, feed: Feed) -> Policy:
    """Return the policy of a client of `feed`, by default the feed's own.

    Raises:
        TypeError: the argument is not a policy.
        ValueError: the policy could make a publisher wait for ever.
    """
    if policy is None:
        return feed.policy
    if not isinstance(policy, Policy):
        raise TypeError(f"policy must be a Policy such as DropOldest(), not {policy!r}")
    if isinstance(policy, Block) and policy.timeout is None:
        raise ValueError(
            "Block() without a timeout would let one client stop a topic for all: use "
            "Block(timeout=seconds)"
        )
    return policy


def _event(piece: Any) -> Event:
    if isinstance(piece, Gap):
        return Event(piece._asdict(), type="gap")
    event: Event = piece.event
    return event
