"""Snapshots of a topic: what its events so far amount to, and up to which of them.

A client that can't be given what it missed is given a snapshot and what came after it. A
thousand of them come at once after a restart, so the app's function is called by the first
and all share the result (single flight). It belongs to no task: if the client that called
it goes, the next one that waits calls it again.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Protocol

import trio

from flowstream._errors import PublicError
from flowstream._event import Event
from flowstream._failure import passes
from flowstream._history import History, Missing
from flowstream.limits import whole

logger = logging.getLogger("flowstream")


class AsOf:
    """A snapshot, and its encodings so far: many clients may be given the same.

    Attributes:
        number, id: those of the last event that it has in it.
        data: what the app made.
    """

    __slots__ = ("_frames", "data", "id", "number")

    def __init__(self, history: History, number: int, data: Any) -> None:
        self.number = number
        self.id = history.id_of(number)  # once: later it may be known no longer
        self.data = data
        self._frames: dict[Hashable, bytes] = {}

    def frame(self, format: Hashable, encode: Callable[[], bytes]) -> bytes:
        """Return it encoded; `encode` does that, once for each `format`."""
        found = self._frames.get(format)
        if found is None:
            found = self._frames[format] = encode()
        return found


class Snapshots(Protocol):
    """Where a topic's snapshots come from."""

    @property
    def waits(self) -> bool:
        """Whether `get` may take long: the app makes them."""
        ...

    def published(self, event: Event) -> None:
        """Hear of an event."""

    async def get(self, number: int) -> AsOf:
        """Return a snapshot that has event `number` in it, if the app can tell."""
        ...


class LatestByKey:
    """A snapshot that a topic keeps by itself: the newest event of each `Event.key`.

    On the wire it is one event, a list of ``{"key": ..., "data": ...}`` in the order in which
    the keys were last published. Events without a key are not in it.

    Args:
        keys: how many; with more the one that was not published for the longest time goes,
            and a warning is logged once.

    Raises:
        TypeError, ValueError: `keys` is no `int` of 1 or more.
    """

    def __init__(self, keys: int = 10_000) -> None:
        whole("keys", keys, unit="keys")
        self.keys = keys


class KeptByKey:
    """`LatestByKey` at work for one topic."""

    waits = False

    def __init__(self, history: History, keys: int, name: str) -> None:
        self._history = history
        self._limit = keys
        self._name = name
        self._latest: OrderedDict[object, Any] = OrderedDict()
        self._made: AsOf | None = None
        self._warned = False

    def published(self, event: Event) -> None:
        """Take the place of the last event of its key."""
        if event.key is None:
            return
        self._latest[event.key] = event.data
        self._latest.move_to_end(event.key)
        if len(self._latest) > self._limit:
            self._latest.popitem(last=False)
            if not self._warned:
                self._warned = True
                logger.warning(
                    "the topic %r has more than %d keys: its snapshots lack the oldest",
                    self._name,
                    self._limit,
                )

    async def get(self, number: int) -> AsOf:
        """Return the newest events as they are now."""
        made, head = self._made, self._history.head
        if made is None or made.number != head:
            data = [{"key": key, "data": data} for key, data in self._latest.items()]
            made = self._made = AsOf(self._history, head, data)
        return made


class FromApp:
    """The snapshots that an app's async function makes.

    Args:
        history: of the topic.
        function: returns the snapshot; as an `Event` with an id if it knows the last event
            that is in it, else it is taken to have in it what was published before the call.
        timeout: seconds that a call may take.
    """

    waits = True

    def __init__(
        self, history: History, function: Callable[[], Awaitable[Any]], timeout: float
    ) -> None:
        self._history = history
        self._function = function
        self._timeout = timeout
        self._flight: _Flight | None = None

    def published(self, event: Event) -> None:
        """Do nothing: the app knows."""

    async def get(self, number: int) -> AsOf:
        """Return the result of the call that is under way, or of one that is made now.

        Args:
            number: a call that began before this event was published will not do.

        Raises:
            PublicError: the function failed or took too long; the client may come back.
        """
        while True:
            flight = self._flight
            if flight is None:
                return await self._call()
            await flight.landed.wait()
            if flight.result is not None and flight.number >= number:
                return flight.result
            if flight.failed:
                raise _failure()

    async def _call(self) -> AsOf:
        number = self._history.head
        flight = self._flight = _Flight(number)
        try:
            with trio.fail_after(self._timeout):
                data = await self._function()
            if isinstance(data, Event):
                if data.id is not None:
                    number = self._number(data.id, number)
                data = data.data
            flight.result = AsOf(self._history, number, data)
            return flight.result
        except BaseException as error:
            if passes(error):
                raise
            flight.failed = True
            if isinstance(error, trio.TooSlowError):
                logger.exception("a snapshot function failed; it may take %g s", self._timeout)
            else:
                logger.exception("a snapshot function failed")
            raise _failure() from error  # noqa: ASYNC104  # see `passes`
        finally:
            self._flight = None
            flight.landed.set()

    def _number(self, id: str, at_the_call: int) -> int:
        """Return the number of the event that the app says is the last in its snapshot."""
        located = self._history.locate(id)
        if not isinstance(located, Missing):
            return located
        if located.missed is not None:
            return self._history.head - located.missed
        return at_the_call  # one of its own that is known no longer: at least these are in it


class _Flight:
    """One call of the app's function, and who waits for it."""

    __slots__ = ("failed", "landed", "number", "result")

    def __init__(self, number: int) -> None:
        self.number = number
        self.landed = trio.Event()
        self.result: AsOf | None = None
        self.failed = False


def unusable(why: str, *arguments: object) -> PublicError:
    """Log why a snapshot that was made is of no use, and return what the client is told."""
    logger.error(f"a snapshot is of no use: {why}", *arguments)
    return _failure()


def _failure() -> PublicError:
    return PublicError("snapshot", "the state could not be read", retryable=True)
