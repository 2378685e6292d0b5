"""Snapshots of a topic: the state that its events lead to, and the last event that is in it.

When the replay no longer has what a client missed, the client gets a snapshot and the events after
it. After a restart a thousand clients come at once. So the first one calls the app's function, and
all share the result (single flight). If the client that made the call leaves, the next one that
waits calls it again.

`LatestByKey` needs no function. While events are published, each client that comes needs a new
snapshot, in which little has changed. So the JSON of each key is made once, and a snapshot joins
these texts.
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
from flowstream.topics._history import History, Missing
from flowstream.topics._published import Published

logger = logging.getLogger("flowstream")

# Formats that copy ready-made JSON. A class derived from one of them may want the values.
_COPYING: tuple[type[Encoder], ...] = (SSE, NDJSON, JSONSequence, Frames)

# How many formats, or ways to write JSON, have their encodings kept. If an app passes each request
# another function as `encode=`, there are as many as requests, and none is needed twice.
_MAX_FORMATS = 8


class AsOf:
    """A snapshot and its encodings so far, which many clients may share.

    Args:
        history: the topic's history.
        number: the number of the last event in it.
        make: returns the snapshot for a format; for None, as the app's values.

    Attributes:
        number, id: those of the last event in it.
        data: returns what `make` returns.
    """

    __slots__ = ("_encodings", "data", "id", "number")

    def __init__(
        self, history: History, number: int, make: Callable[[Encoder | None], Any]
    ) -> None:
        self.number = number
        self.id = history.id_of(number)  # now: later the id may be forgotten
        self.data = make
        self._encodings: dict[Hashable, bytes] = {}

    def encoded(self, format: Hashable, encode: Callable[[], bytes]) -> bytes:
        """Return its encoding. `encode` makes it, once for each `format`."""
        found = self._encodings.get(format)
        if found is None:
            found = encode()
            if len(self._encodings) >= _MAX_FORMATS:
                del self._encodings[next(iter(self._encodings))]
            self._encodings[format] = found
        return found


class Snapshots(Protocol):
    """Makes a topic's snapshots."""

    @property
    def waits(self) -> bool:
        """Whether `get` may take long, because the app makes the snapshots."""
        ...

    def published(self, published: Published) -> None:
        """Take note of an event, which has been encoded in at least one format."""

    async def get(self, number: int) -> AsOf:
        """Return a snapshot that includes event `number`, as far as the app can tell."""
        ...

    def clear(self) -> None:
        """Forget all events."""


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
        history: the topic's history.
        bounds: how much is kept.
        name: the topic's name, for the log.
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

    def clear(self) -> None:
        """Forget all events."""
        self._latest.clear()
        self._size = 0
        self._made = None

    def published(self, published: Published) -> None:
        """Replace the last event of the same key."""
        key = published.event.key
        if key is None:
            return
        latest, bounds = self._latest, self._bounds
        before = latest.pop(key, None)
        if before is not None:
            self._size -= before.size
        latest[key] = _Latest(key, published.event.data, published.size)
        self._size += published.size
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
        """Return a snapshot of the newest events."""
        made, head = self._made, self._history.head
        if made is None or made.number != head:
            make = partial(self._data, tuple(self._latest.values()))
            made = self._made = AsOf(self._history, head, make)
        return made

    def _data(self, kept: Sequence[_Latest], encoder: Encoder | None) -> Any:
        """Return these events as a list; for a format that can copy JSON, as JSON."""
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
        # Make a new dict, so that texts which are in no snapshot any more are freed.
        self._texts[writer] = dict(zip(kept, texts, strict=True))
        return msgspec.Raw(b"[" + b",".join(texts) + b"]")


class FromApp:
    """The snapshots that an app's async function makes.

    Args:
        history: the topic's history.
        function: returns the snapshot. If it knows the last event in it, it returns an `Event` with
            that id. Otherwise the snapshot counts as including all events before the call.
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
        """Do nothing: the app itself has the events."""

    def clear(self) -> None:
        """Do nothing: the app itself has the events."""

    async def get(self, number: int) -> AsOf:
        """Return the result of the running call, or of a new one.

        Args:
            number: the call must have begun after this event was published.

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
                    number = await self._place(data.id, number)
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

    async def _place(self, id: str, at_the_call: int) -> int:
        """Return the number of the last event in the snapshot, as the app says."""
        located = self._history.locate(id)
        if not isinstance(located, Missing):
            return located
        if located.missed is not None:
            return self._history.head - located.missed
        return at_the_call  # a forgotten id of its own: at least these events are in it


class _Flight:
    """One call of the app's function, and the clients that wait for it."""

    __slots__ = ("failed", "landed", "number", "result")

    def __init__(self, number: int) -> None:
        self.number = number
        self.landed = trio.Event()
        self.result: AsOf | None = None
        self.failed = False


def unusable(why: str, *arguments: object) -> PublicError:
    """Log why a snapshot can't be used, and return the error for the client."""
    logger.error(f"a snapshot is of no use: {why}", *arguments)
    return _failure()


def _failure() -> PublicError:
    return PublicError("snapshot", "the state could not be read", retryable=True)
