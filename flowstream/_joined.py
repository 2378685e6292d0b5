"""Several topics on one connection: browsers have six a host, and a page has more to hear.

Each event bears the positions in all of them, so that one ``Last-Event-ID`` resumes them all:
the topics' own ids, joined by ``~``. Which is whose is known by the epoch, so the order in
which the topics are named does not matter. The bytes are one client's own then, and made for
it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote

from flowstream._buffer import EventBuffer
from flowstream._closing import CloseReason
from flowstream._queue import Gap
from flowstream.abc import Encoder, Policy
from flowstream.sources._feed import Feed, Sink, Subscriber

_SEPARATOR = "~"


class Joined(Feed):
    """Several feeds as one.

    Args:
        feeds: they; each can tell whether an id is its own.
    """

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = list(feeds)

    def join(
        self,
        sink: Sink,
        encoder: Encoder | None,
        *,
        policy: Policy,
        after: str | None,
        where: Callable[[Any], object] | None,
        controls: bool,
        name: Callable[[str], str] | None = None,
    ) -> Subscriber:
        """Have `sink` get what is published in any of them."""
        return _JoinedSubscriber(
            self._feeds, sink, encoder, policy=policy, after=after, where=where, controls=controls
        )

    def knows(self, id: str) -> bool:
        """Return whether `id` is one of theirs."""
        return any(feed.knows(id) for feed in self._feeds)

    def beside(self, others: Sequence[Feed]) -> Feed:
        """Return a feed of all of them."""
        return Joined([*self._feeds, *others])


class _JoinedSubscriber:
    """One stream's places in several feeds."""

    def __init__(
        self,
        feeds: list[Feed],
        sink: Sink,
        encoder: Encoder | None,
        *,
        policy: Policy,
        after: str | None,
        where: Callable[[Any], object] | None,
        controls: bool,
    ) -> None:
        self._open = len(feeds)
        self._sink = sink
        self._places: list[Subscriber] = []
        parts = [] if after is None else [unquote(part) for part in after.split(_SEPARATOR)]
        for index, feed in enumerate(feeds):
            own = next((part for part in parts if feed.knows(part)), after)
            name = self._namer(index)
            self._places.append(
                feed.join(
                    _Part(sink, self._ended),
                    None if encoder is None else _Renaming(encoder, name),
                    policy=policy,
                    after=own,
                    where=where,
                    controls=controls,
                    name=name,
                )
            )

    @property
    def behind(self) -> bool:
        """Whether there are events to pull in any of them."""
        return any(place.behind for place in self._places)

    @property
    def position(self) -> str:
        """The id that resumes all of them here."""
        return _SEPARATOR.join(_quoted(place.position) for place in self._places)

    async def pull(self, limit: int) -> list[bytes | Gap]:
        """Return what follows in the first that is behind."""
        for place in self._places:
            if place.behind:
                return await place.pull(limit)
        return []

    def leave(self) -> None:
        """Leave all of them."""
        for place in self._places:
            place.leave()

    def _namer(self, index: int) -> Callable[[str], str]:
        def name(id: str) -> str:
            return _SEPARATOR.join(
                _quoted(id if place_index == index else place.position)
                for place_index, place in enumerate(self._places)
            )

        return name

    def _ended(self) -> None:
        self._open -= 1
        if not self._open:
            self._sink.feed_ended()


class _Part:
    """The stream, as one of several feeds knows it."""

    def __init__(self, sink: Sink, ended: Callable[[], None]) -> None:
        self._sink = sink
        self._has_ended = False
        self._tell_ended = ended
        self.buffer: EventBuffer = sink.buffer
        self.wrote = sink.wrote
        self.give_up = sink.give_up
        self.fail = sink.fail

    @property
    def direct(self) -> Callable[[bytes], bool] | None:
        """Writes to the connection, or None."""
        return self._sink.direct

    def close(self, reason: CloseReason) -> None:
        """End the stream, though other feeds go on: what it was asked for is not there."""
        self._sink.close(reason)

    def feed_ended(self) -> None:
        """End the stream if the others have ended, too."""
        if not self._has_ended:
            self._has_ended = True
            self._tell_ended()


class _Renaming(Encoder):
    """An encoder that puts all positions into the id. It is one stream's own."""

    def __init__(self, encoder: Encoder, name: Callable[[str], str]) -> None:
        self._encoder = encoder
        self._name = name

    def start(self) -> Encoder:
        """Return another: nobody may share what this one writes."""
        return _Renaming(self._encoder, self._name)

    def encode(
        self,
        data: Any,
        *,
        id: str | None = None,
        type: str | None = None,
        key: object = None,
        retry: int | None = None,
    ) -> bytes:
        """Return the event's bytes with the positions in all feeds for an id."""
        named = None if id is None else self._name(id)
        return self._encoder.encode(data, id=named, type=type, key=key, retry=retry)

    def control(
        self, name: str, body: Any, *, id: str | None = None, retry: int | None = None
    ) -> bytes:
        """Return a control event's bytes, its id likewise."""
        named = None if id is None else self._name(id)
        return self._encoder.control(name, body, id=named, retry=retry)


def _quoted(id: str) -> str:
    # Only an app's own ids can have these in them.
    return id.replace("%", "%25").replace(_SEPARATOR, "%7E")
