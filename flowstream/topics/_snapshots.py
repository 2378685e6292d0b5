"""Snapshots of a topic: the state that its events lead to, and the last event that is in it.

When the replay no longer has what a client missed, the client gets a snapshot and the events after
it. After a restart a thousand clients come at once. So the first one calls the app's function, and
all share the result (single flight). If the client that made the call leaves, the next one that
waits calls it again.

`LatestByKey` needs no function. Clients that come while events are published each need a new
snapshot, in which little has changed. So the JSON of each key is made once, and a snapshot is these
texts put together.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import partial
from typing import Any, Protocol

import msgspec
import trio

from flowstream._errors import PublicError
from flowstream._event import Event
from flowstream.abc import Encoder
from flowstream.encoders import NDJSON, SSE, Frames, JSONSequence
from flowstream.encoders._controls import ControlEncoder
from flowstream.encoders._json import JSONWriter
from flowstream.limits import check_count
from flowstream.tasks._failure import passes
from flowstream.topics._history import History, Missing, Published

logger = logging.getLogger("flowstream")

# Formats that copy JSON that is there already. A class derived from one may want the values.
_COPYING: tuple[type[Encoder], ...] = (SSE, NDJSON, JSONSequence, Frames)

# Formats, or ways to write JSON, that encodings are kept for. An app that gives each request
# another function for `encode=` has as many as requests, and none is asked for twice.
_MAX_FORMATS = 8


class AsOf:
    """A snapshot, and its encodings so far: many clients may be given the same.

    Args:
        history: of the topic.
        number: that of the last event that it has in it.
        make: returns it for a format; for None, as an app has it.

    Attributes:
        number, id: those of the last event that it has in it.
        data: returns what `make` returns.
    """

    __slots__ = ("_encodings", "data", "id", "number")

    def __init__(
        self, history: History, number: int, make: Callable[[Encoder | None], Any]
    ) -> None:
        self.number = number
        self.id = history.id_of(number)  # once: later it may be known no longer
        self.data = make
        self._encodings: dict[Hashable, bytes] = {}

    def encoded(self, format: Hashable, encode: Callable[[], bytes]) -> bytes:
        """Return it encoded; `encode` does that, once for each `format`."""
        found = self._encodings.get(format)
        if found is None:
            found = encode()
            if len(self._encodings) >= _MAX_FORMATS:
                del self._encodings[next(iter(self._encodings))]
            self._encodings[format] = found
        return found


class Snapshots(Protocol):
    """Where a topic's snapshots come from."""

    @property
    def waits(self) -> bool:
        """Whether `get` may take long: the app makes them."""
        ...

    def published(self, published: Published) -> None:
        """Hear of an event; it was encoded in one format at least."""

    async def get(self, number: int) -> AsOf:
        """Return a snapshot that has event `number` in it, if the app can tell."""
        ...


class LatestByKey:
    """A snapshot that the topic keeps itself: the newest event of each `Event.key`.

    On the wire it is one event, a list of ``{"key": ..., "data": ...}`` in the order in which
    the keys were last published. Events without a key are not in it.

    Args:
        keys: how many keys to keep. With more, the key not published for the longest time is
            dropped, and a warning is logged once.
        bytes: bytes of their events, each as it was first encoded. With more, the same happens;
            one larger event is kept alone. The topic holds up to as much again for each format,
            and for each way to write JSON (`encode=`, `big_integers=`).

    Raises:
        TypeError, ValueError: `keys` or `bytes` is no `int` of 1 or more.
    """

    def __init__(self, keys: int = 10_000, bytes: int = 8 << 20) -> None:
        check_count("keys", keys, unit="keys")
        check_count("bytes", bytes, unit="bytes")
        self.keys = keys
        self.bytes = bytes


class _Latest:
    """The newest event of one key. Equal to no other."""

    __slots__ = ("data", "key", "size")

    def __init__(self, key: Hashable, data: Any, size: int) -> None:
        self.key = key
        self.data = data
        self.size = size

    def body(self) -> dict[str, Any]:
        return {"key": self.key, "data": self.data}


class KeptByKey:
    """`LatestByKey` at work for one topic.

    Args:
        history: of the topic.
        bounds: how much is kept.
        name: of the topic, for the log.
    """

    waits = False

    def __init__(self, history: History, bounds: LatestByKey, name: str) -> None:
        self._history = history
        self._bounds = bounds
        self._name = name
        self._latest: OrderedDict[object, _Latest] = OrderedDict()
        self._size = 0
        self._made: AsOf | None = None
        self._texts: OrderedDict[JSONWriter, dict[_Latest, bytes]] = OrderedDict()
        self._warned = False

    def published(self, published: Published) -> None:
        """Take the place of the last event of its key."""
        key = published.event.key
        if key is None:
            return
        latest, bounds = self._latest, self._bounds
        before = latest.pop(key, None)
        if before is not None:
            self._size -= before.size
        latest[key] = _Latest(key, published.event.data, published.weight)
        self._size += published.weight
        while len(latest) > bounds.keys or (self._size > bounds.bytes and len(latest) > 1):
            self._warn()
            self._size -= latest.popitem(last=False)[1].size

    def _warn(self) -> None:
        if self._warned:
            return
        self._warned = True
        bounds = self._bounds
        unit, bound = ("keys", bounds.keys)
        if len(self._latest) <= bounds.keys:
            unit, bound = ("bytes of the newest event of each key", bounds.bytes)
        logger.warning(
            "the topic %r has more than %d %s: its snapshots lack the oldest",
            self._name,
            bound,
            unit,
        )

    async def get(self, number: int) -> AsOf:
        """Return the newest events as they are now."""
        made, head = self._made, self._history.head
        if made is None or made.number != head:
            make = partial(self._data, tuple(self._latest.values()))
            made = self._made = AsOf(self._history, head, make)
        return made

    def _data(self, kept: Sequence[_Latest], encoder: Encoder | None) -> Any:
        """Return these events as a list; as JSON for a format that can copy that."""
        if not isinstance(encoder, ControlEncoder) or type(encoder) not in _COPYING:
            return [latest.body() for latest in kept]
        writer = encoder._json
        known = self._texts.pop(writer, {})
        for latest in kept:
            if latest not in known:
                known[latest] = writer.dumps(latest.body())
        texts = list(map(known.__getitem__, kept))
        if len(self._texts) >= _MAX_FORMATS:
            self._texts.popitem(last=False)
        # Anew, so that what is in no snapshot any more is let go.
        self._texts[writer] = dict(zip(kept, texts, strict=True))
        return msgspec.Raw(b"[" + b",".join(texts) + b"]")


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

    def published(self, published: Published) -> None:
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
            flight.result = AsOf(self._history, number, lambda _: data)
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
