"""The outlet of a stream: the producer's end of one client's buffer.

It encodes each item in the producer's task. So the buffer's bound in bytes is a bound on what is
really held, and an item that can't be encoded fails where it was made.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import trio

from flowstream._errors import unencodable
from flowstream._event import Event
from flowstream._live_stream import BufferStatistics
from flowstream.abc import Encoder
from flowstream.buffer._event_buffer import EventBuffer
from flowstream.buffer._outlet import Outlet
from flowstream.buffer._queue import Outcome
from flowstream.tasks._pace import Pace

_ADMITTED, _WAIT = Outcome.ADMITTED, Outcome.WAIT

# An event takes six to eight passes of the scheduler from a timer through generator, buffer, writer
# and server.
_TURNS_WHEN_DROPPING = 8

# An encoded event: payload, id, essential, key, bare, as EventBuffer.offer takes them.
_Encoded = tuple[bytes, str | None, bool, object, bytes | None]


class BufferOutlet(Outlet):
    """Encodes items and puts them into one client's buffer. The methods do what `Outlet` says.

    Args:
        buffer: the client's buffer.
        encoder: the stream's format.
        timeout: seconds that a producer waits for room; None for no bound.
        keyed: whether the policy keeps the newest item of each key.
        give_up: called when the client is too slow.
    """

    __slots__ = (
        "_buffer",
        "_closed",
        "_count",
        "_dropped",
        "_encode",
        "_filled",
        "_give_up",
        "_keyed",
        "_look",
        "_numbered",
        "_pace",
        "_prefix",
        "_queue",
        "_timeout",
        "_turn",
        "_unhurried",
    )

    def __init__(
        self,
        buffer: EventBuffer,
        encoder: Encoder,
        *,
        timeout: float | None,
        keyed: bool,
        give_up: Callable[[], None],
    ) -> None:
        self._buffer = buffer
        self._queue = buffer.queue
        self._filled = buffer.filled
        self._encode = encoder.encode
        self._prefix = buffer.prefix
        self._numbered = None if buffer.prefix is None else encoder.numbered(buffer.prefix)
        self._timeout = timeout
        self._keyed = keyed
        self._give_up = give_up
        self._turn = trio.StrictFIFOLock()
        self._closed = False
        self._unhurried = True  # nobody waits for room, and the outlet is open
        self._pace = Pace()
        self._count = 0  # items since other tasks ran
        self._dropped = 0  # how many items had been dropped when other tasks last ran
        self._look = 1  # the count at which to look at the pace

    async def send(self, item: Any) -> None:
        """Put one item into the buffer."""
        wait = self._put(item)
        if wait is not None:
            await wait

    def _put(self, item: Any) -> Awaitable[None] | None:
        """Put one item into the buffer; return what to await, or None."""
        if not self._unhurried:
            return self._send_in_turn(item)
        if self._keyed or isinstance(item, Event):
            encoded = self._encoded(item)
            outcome = self._offer(encoded)
        else:
            queue = self._queue
            try:
                if self._numbered is None:
                    payload = self._encode(item)
                else:
                    payload = self._numbered(item, queue.offered + 1)
            except Exception as error:
                raise unencodable(item, error) from error
            outcome = queue.offer_plain(payload)
            if self._filled.waiting:
                self._filled.ring()
            encoded = (payload, None, False, None, None)
        if outcome is not _ADMITTED:
            return self._settle(outcome, encoded)
        return self._let_others_run() if self._is_long() else None

    async def send_each(self, items: AsyncIterator[Any]) -> None:
        """Send every item.

        This repeats what `_put` does for a plain item with a numbered id, the usual item of busy
        streams, inline and with local names. That saves a tenth of an event's whole cost from the
        generator to the socket.
        """
        queue, offer, filled, numbered = (
            self._queue,
            self._queue.offer_plain,
            self._filled,
            self._numbered,
        )
        inline = numbered is not None and not self._keyed
        pace = Pace()
        count, look = 0, 1
        async for item in items:
            # It is faster to see that it is text than that it does not derive from Event.
            plain = item.__class__ is str or not isinstance(item, Event)
            if plain and inline and self._unhurried:
                try:
                    payload = numbered(item, queue.offered + 1)  # type: ignore[misc]  # inline
                except Exception as error:
                    raise unencodable(item, error) from error
                outcome = offer(payload)
                if filled.waiting:
                    filled.ring()
                if outcome is not _ADMITTED:
                    await self._settle(outcome, (payload, None, False, None, None))
                count += 1
                if count >= look:
                    look = pace.next_look(count)
                    if not look:
                        await self._yield()
                        count, look = 0, pace.resume()
            else:
                wait = self._put(item)
                if wait is not None:
                    await wait

    def send_nowait(self, item: Any) -> None:
        """Put one item into the buffer, or raise `trio.WouldBlock`."""
        if self._closed:
            raise trio.BrokenResourceError("the stream is over")
        if self._turn.locked():
            raise trio.WouldBlock
        outcome = self._offer(self._encoded(item))
        if outcome is _WAIT:
            raise trio.WouldBlock
        if outcome is Outcome.DISCONNECT:
            self._give_up()
            raise trio.BrokenResourceError("the client was disconnected: it is too slow")

    def statistics(self) -> BufferStatistics:
        """Return how full the client's buffer is and what became of what was sent."""
        return self._buffer.statistics()

    def close(self) -> None:
        """Take no more items. Called by the stream when it is over."""
        self._closed = True
        self._unhurried = False

    async def _send_in_turn(self, item: Any) -> None:
        """Send an item that has others waiting before it."""
        await self._turn.acquire()
        try:
            if self._closed:
                await self._refuse()
            encoded = self._encoded(item)
            outcome = await self._wait_for_room(encoded)
        finally:
            self._end_turn()
        await self._settle(outcome, encoded)

    async def _settle(self, outcome: Outcome, encoded: _Encoded) -> None:
        """Do what is left to do after an offer that was not simply admitted."""
        if outcome is _WAIT:
            self._turn.acquire_nowait()
            try:
                outcome = await self._wait_for_room(encoded)
            finally:
                self._end_turn()
        if outcome is Outcome.DISCONNECT:
            self._give_up()
            await self._refuse()
        if self._is_long():
            await self._let_others_run()

    async def _wait_for_room(self, encoded: _Encoded) -> Outcome:
        # The number in the event's id stays right: other senders wait for their turn.
        self._unhurried = False
        with trio.move_on_after(math.inf if self._timeout is None else self._timeout):
            while (outcome := self._offer(encoded)) is _WAIT:
                await self._buffer.room.wait()
                if self._closed:
                    await self._refuse()
            return outcome
        return Outcome.DISCONNECT

    def _end_turn(self) -> None:
        self._turn.release()  # passes the lock to the next sender that waits, if there is one
        self._unhurried = not self._closed and not self._turn.locked()

    def _offer(self, encoded: _Encoded) -> Outcome:
        payload, id, essential, key, bare = encoded
        return self._buffer.offer(payload, id, essential=essential, key=key, bare=bare)

    def _encoded(self, item: Any) -> _Encoded:
        event = item if isinstance(item, Event) else None
        data = item if event is None else event.data
        id = None if event is None else event.id
        if id is None and self._prefix is not None:
            id = f"{self._prefix}{self._queue.offered + 1}"
        try:
            if event is None:
                payload = self._encode(data, id=id)
                bare = self._encode(data) if self._keyed and id is not None else None
                return payload, id, False, None, bare
            type, key, retry = event.type, event.key, event.retry
            payload = self._encode(data, id=id, type=type, key=key, retry=retry)
            bare = None
            if self._keyed and id is not None:
                bare = self._encode(data, type=type, key=key, retry=retry)
        except Exception as error:
            raise unencodable(data, error) from error
        return payload, id, event.essential, key, bare

    def _is_long(self) -> bool:
        """Count one item; return whether to let other tasks run now."""
        self._count += 1
        if self._count < self._look:
            return False
        self._look = self._pace.next_look(self._count)
        return not self._look

    async def _let_others_run(self) -> None:
        await self._yield()
        self._count, self._look = 0, self._pace.resume()

    async def _yield(self) -> None:
        """Let other tasks run once; several times if items of ours are dropped.

        An event of another client needs several passes of the scheduler from its source to its
        socket, and waits for a burst of ours in each. While our items are only dropped, they need
        not delay it.
        """
        await trio.lowlevel.checkpoint()
        if self._queue.dropped != self._dropped:
            self._dropped = self._queue.dropped
            for _ in range(_TURNS_WHEN_DROPPING - 1):
                await trio.lowlevel.checkpoint()

    async def _refuse(self) -> None:
        """Raise the error for a sender whose stream is over."""
        await trio.lowlevel.checkpoint()  # raises Cancelled in the producer's own tasks
        raise trio.BrokenResourceError("the stream is over")
