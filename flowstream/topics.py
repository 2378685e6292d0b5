"""Topics by name: made when somebody asks, forgotten when nobody needs them.

::

    topics = Topics(authorize=may_read)

    @app.get("/rooms/<name>")
    async def room(name):
        return sse(await topics.open(name, request))

    await topics.publish("lobby", "hello")

A topic that was forgotten is closed: who kept it and publishes to it is told so, where else
the events would go to nobody, since its name would by then stand for another.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import trio

from flowstream._closing import CloseReason
from flowstream._errors import FlowstreamError
from flowstream._joined import Joined
from flowstream._timers import Timer, start_timer
from flowstream.abc import Encoder, Policy
from flowstream.limits import positive, whole
from flowstream.sources._feed import Feed, Sink, Subscriber
from flowstream.topic import Topic

Authorize = Callable[[str, Any], Any]

# An idle topic is looked for so many times in its idle time.
_LOOKS = 4


class NotAuthorizedError(FlowstreamError):
    """`authorize` said no. Raised before the status line: a 403, most likely.

    Args:
        name: the topic's name.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"not authorized for the topic {name!r}")
        self.name = name


class TooManyTopicsError(FlowstreamError):
    """There are as many topics as there may be, and all are in use: a 503, most likely."""


@dataclass(frozen=True, slots=True)
class TopicsStatistics:
    """A moment of all topics."""

    topics: int
    """How many there are."""
    limit: int
    """How many there may be."""
    subscribers: int
    """Streams and subscriptions of all of them."""
    opened: int
    """Streams among them that were authorized, and that `revoke` can end."""
    forgotten: int
    """Topics that were forgotten so far."""


class Topics:
    """Topics by name, each made at its first use. For use inside one Trio run.

    Args:
        factory: makes a topic, given its name; `Topic` by default.
        idle: seconds without a subscriber and without an event after which a topic, and what
            it keeps, is forgotten; found out up to a quarter later.
        limit: how many there may be.
        authorize: ``authorize(name, request)``, a function or an async function: false, or an
            exception of the app's, refuses. None admits everybody.

    Raises:
        TypeError, ValueError: an argument is not what is said above.
    """

    def __init__(
        self,
        factory: Callable[[str], Topic] = Topic,
        *,
        idle: float = 60.0,
        limit: int = 10_000,
        authorize: Authorize | None = None,
    ) -> None:
        positive("idle", idle, unit="seconds")
        whole("limit", limit, unit="topics")
        for name, function in (("factory", factory), ("authorize", authorize)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be a function, not {type(function).__name__}")
        self._factory = factory
        self._idle = idle
        self._limit = limit
        self._authorize = authorize
        self._topics: dict[str, Topic] = {}
        self._grants: dict[_Grant, None] = {}
        self._forgotten = 0
        self._timer: Timer | None = None

    def __getitem__(self, name: str) -> Topic:
        """Return the topic of that name, which is made if there is none.

        Raises:
            TooManyTopicsError: there are `limit` topics already, all in use.
            TypeError: `name` is no `str`.
        """
        topic = self._topics.get(name)
        if topic is None:
            topic = self._topics[name] = self._make(name)
        return topic

    def __contains__(self, name: object) -> bool:
        """Return whether there is a topic of that name now."""
        return name in self._topics

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the topics that there are now."""
        return iter(list(self._topics))

    def __len__(self) -> int:
        """Return how many topics there are now."""
        return len(self._topics)

    async def open(self, name: str, request: Any = None) -> Feed:
        """Return the topic for one client, to be handed to `sse()`; **waits** for `authorize`.

        To be called in the view, so that a refusal is an ordinary HTTP error.

        Args:
            name: the topic's.
            request: what `authorize` and `revoke` go by: the framework's request, or a user.

        Raises:
            NotAuthorizedError: `authorize` said no.
            TooManyTopicsError: there is no room for another topic.
            Exception: what `authorize` raises.
        """
        # Quart's `request` is a proxy, which means another request in another task.
        actual = getattr(request, "_get_current_object", None)
        request = request if actual is None else actual()
        if self._authorize is not None:
            allowed = self._authorize(name, request)
            if inspect.isawaitable(allowed):
                allowed = await allowed
            if not allowed:
                raise NotAuthorizedError(name)
        return _Grant(self, name, request)

    async def publish(
        self,
        name: str,
        data: Any,
        *,
        type: str | None = None,
        id: str | None = None,
        key: object = None,
        essential: bool = False,
    ) -> str:
        """Publish one event in the topic of that name: `Topic.publish`."""
        return await self[name].publish(data, type=type, id=id, key=key, essential=essential)

    def revoke(self, predicate: Callable[[str, Any], object]) -> int:
        """End, with reason `stopped`, the streams for which `predicate` is true.

        Args:
            predicate: called with the topic's name and the request, of each stream that was
                made with `open` and that is open now.

        Returns:
            How many were ended.
        """
        count = 0
        for grant in list(self._grants):
            if predicate(grant.name, grant.request):
                grant.stop()
                count += 1
        return count

    async def aclose(self) -> None:
        """Close all topics: their subscribers get what is left, and end with `completed`."""
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        topics, self._topics = self._topics, {}
        for topic in topics.values():
            await topic.aclose()

    def statistics(self) -> TopicsStatistics:
        """Return how many there are, and who is there."""
        return TopicsStatistics(
            topics=len(self._topics),
            limit=self._limit,
            subscribers=sum(topic.subscribers for topic in self._topics.values()),
            opened=len(self._grants),
            forgotten=self._forgotten,
        )

    def _make(self, name: str) -> Topic:
        if len(self._topics) >= self._limit:
            self._forget(0.0)
            if len(self._topics) >= self._limit:
                raise TooManyTopicsError(f"there are {self._limit} topics, and all are in use")
        topic = self._factory(name)
        if not isinstance(topic, Topic):
            raise TypeError(f"factory must return a Topic, not {type(topic).__name__}")
        topic.touch()
        if self._timer is None:
            self._timer = start_timer(trio.current_time() + self._idle / _LOOKS, self._look)
        return topic

    def _look(self, now: float) -> float:
        self._forget(self._idle)
        if self._topics:
            return now + self._idle / _LOOKS
        self._timer = None
        return math.inf

    def _forget(self, idle: float) -> None:
        """Close the topics that nobody has used for so long."""
        for name, topic in list(self._topics.items()):
            if topic.idle_for >= idle and not topic.subscribers:
                del self._topics[name]
                topic.close_idle()
                self._forgotten += 1


class _Grant(Feed):
    """One client's leave to subscribe to a topic, and what can end that."""

    def __init__(self, topics: Topics, name: str, request: Any) -> None:
        self._topics = topics
        self._topic = topics[name]
        self._sinks: dict[Sink, None] = {}
        self.name = name
        self.request = request

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
        """Have `sink` get what is published in the topic."""
        if self._topic.closed:
            self._topic = self._topics[self.name]  # it was forgotten since the view asked
        subscriber = self._topic.join(
            sink,
            encoder,
            policy=policy,
            after=after,
            where=where,
            controls=controls,
            name=name,
        )
        self._sinks[sink] = None
        self._topics._grants[self] = None
        return _Granted(subscriber, self, sink)

    def left(self, sink: Sink) -> None:
        """Hear that a stream has left."""
        self._sinks.pop(sink, None)
        if not self._sinks:
            self._topics._grants.pop(self, None)

    def stop(self) -> None:
        """End the streams."""
        for sink in list(self._sinks):
            sink.close(CloseReason.STOPPED)

    def knows(self, id: str) -> bool:
        """Return whether `id` is one that the topic gave out."""
        return self._topic.knows(id)

    def beside(self, others: Sequence[Feed]) -> Feed:
        """Return a feed of this one and `others`."""
        return Joined([self, *others])


class _Granted:
    """A place in a topic, whose end the grant hears of."""

    def __init__(self, subscriber: Subscriber, grant: _Grant, sink: Sink) -> None:
        self._subscriber = subscriber
        self._grant = grant
        self._sink = sink
        self.pull = subscriber.pull

    @property
    def behind(self) -> bool:
        """Whether there are events to pull."""
        return self._subscriber.behind

    @property
    def position(self) -> str:
        """The id of the last event that was handed on."""
        return self._subscriber.position

    def leave(self) -> None:
        """Leave the topic."""
        self._subscriber.leave()
        self._grant.left(self._sink)
