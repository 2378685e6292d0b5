"""Topics by name: made when somebody asks, forgotten when nobody needs them.

::

    topics = Topics(authorize=may_read)

    @app.get("/rooms/<name>")
    async def room(name):
        return sse(await topics.open(name, request))

    await topics.publish("lobby", "hello")

A topic that is forgotten is closed. So code that kept it, and publishes in it, gets an error.
Otherwise its events would be lost, because the name would by then mean another topic.
"""

from __future__ import annotations

import heapq
import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import trio

from flowstream._clock import clock
from flowstream._errors import FlowstreamError
from flowstream.abc import Log
from flowstream.limits import check_count, check_positive
from flowstream.sources._feed import Feed, Feeds
from flowstream.tasks._timers import Timer, start_timer
from flowstream.topics._app_log import find_log
from flowstream.topics._grants import Grant, Grants, TooManyTopicsError
from flowstream.topics.topic import Topic

__all__ = [
    "NotAuthorizedError",
    "TooManyTopicsError",
    "TopicNameError",
    "Topics",
    "TopicsStatistics",
]

Authorize = Callable[[str, Any], Any]
Subject = Callable[[str, Any], str | None]

# An idle topic is looked for so many times in its idle time.
_LOOKS = 4

# Where there is no room, one unused topic in so many is forgotten at once: finding them takes a
# look at all.
_SHARE = 16


class NotAuthorizedError(FlowstreamError):
    """`authorize` refused. Raised before the status line; usually answered with a 403.

    Args:
        name: the topic's name.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"not authorized for the topic {name!r}")
        self.name = name


class TopicNameError(FlowstreamError, ValueError):
    """The name of a topic is too long, or no text; usually answered with a 400.

    Args:
        length: characters of the name.
        limit: characters that one may have.
    """

    def __init__(self, length: int, limit: int) -> None:
        if length > limit:
            super().__init__(f"a topic's name may have {limit} characters, not {length}")
        else:
            super().__init__("a topic's name must not have a NUL or half a surrogate in it")
        self.length = length
        self.limit = limit


@dataclass(frozen=True, slots=True)
class TopicsStatistics:
    """A moment of all topics."""

    topics: int
    """How many there are."""
    limit: int
    """Most topics allowed."""
    subscribers: int
    """Streams and subscriptions of all of them."""
    opened: int
    """Streams made with `open`, which `revoke` can end."""
    forgotten: int
    """Topics forgotten so far."""


class Topics(Feeds):
    """Topics by name, each made when it is first used. Use it inside one Trio run only.

    Args:
        factory: makes a topic, given its name; `Topic` by default.
        idle: seconds without a subscriber and without an event after which a topic is
            forgotten, with all that it keeps; or up to a quarter later.
        limit: how many topics there may be. To make room for one more, topics without
            subscribers are forgotten: first those in which nothing was ever published, then
            those not used for the longest time.
        authorize: ``authorize(name, request)``, a function or an async function. It refuses by
            returning something false or by raising. None admits everybody, to every name.
        subject: ``subject(name, request)``, a function that returns whose stream it is: a text
            such as a user's id, or None for nobody's. `revoke_subject` ends streams by it. It is
            called before `authorize`.
        name_limit: characters that a name may have.
        log: the log that the topics are in, unless `factory` gives one its own: see `Topic`.

    Raises:
        TypeError, ValueError: an argument is not what is said above.
    """

    _one = "await topics.open(name, request)"

    def __init__(
        self,
        factory: Callable[[str], Topic] = Topic,
        *,
        idle: float = 60.0,
        limit: int = 10_000,
        authorize: Authorize | None = None,
        subject: Subject | None = None,
        name_limit: int = 256,
        log: Log | None = None,
    ) -> None:
        check_positive("idle", idle, unit="seconds")
        check_count("limit", limit, unit="topics")
        check_count("name_limit", name_limit, unit="characters")
        functions = {"factory": factory, "authorize": authorize, "subject": subject}
        for name, function in functions.items():
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be a function, not {type(function).__name__}")
        if log is not None and not isinstance(log, Log):
            raise TypeError(f"log must be a log such as MemoryLog(), not {type(log).__name__}")
        self._factory = factory
        self._log = log
        self._idle = idle
        self._limit = limit
        self._name_limit = name_limit
        self._authorize = authorize
        self._topics: dict[str, Topic] = {}
        self._subject = subject
        self._grants = Grants(by_subject=subject is not None)
        self._forgotten = 0
        self._timer: Timer | None = None

    def __getitem__(self, name: str) -> Topic:
        """Return the topic of that name, which is made if there is none.

        Raises:
            TooManyTopicsError: there are `limit` topics already, all in use.
            TopicNameError: `name` is longer than `name_limit`.
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
        """Return the topic for one client, to pass to `sse()`; **waits** for `authorize`.

        Call it in the view, so that a refusal is an ordinary HTTP error. The topic itself is
        made when its stream begins; a HEAD request makes none.

        Args:
            name: the topic's.
            request: passed on to `authorize` and `revoke`: the framework's request, or a user.

        Raises:
            NotAuthorizedError: `authorize` refused.
            TooManyTopicsError: there is no room for another topic.
            TopicNameError: `name` is longer than `name_limit`; `authorize` was not asked.
            TypeError: `name` is no `str`, or `subject` returned neither a `str` nor None.
            RuntimeError: there is a `subject`, and the log of the app is not open.
            Exception: what `authorize` or `subject` raises.
        """
        self._check_name(name)
        # Quart's `request` is a proxy, which means another request in another task.
        actual = getattr(request, "_get_current_object", None)
        request = request if actual is None else actual()
        grant = Grant(self._grants, self.__getitem__, name, request, self._whose(name, request))
        self._grants.add(grant)  # from here on: what is revoked while it is asked for, too
        if self._authorize is not None:
            allowed = self._authorize(name, grant.request)
            if inspect.isawaitable(allowed):
                allowed = await allowed
            if not allowed:
                raise NotAuthorizedError(name)
        if name not in self._topics and len(self._topics) >= self._limit:
            self._make_room()
        return grant

    async def publish(
        self,
        name: str,
        data: Any,
        *,
        type: str | None = None,
        id: str | None = None,
        key: object = None,
        essential: bool = False,
        idempotency_key: str | None = None,
        idempotency_seconds: float = 300.0,
    ) -> str:
        """Publish one event in the topic of that name: `Topic.publish`."""
        return await self[name].publish(
            data,
            type=type,
            id=id,
            key=key,
            essential=essential,
            idempotency_key=idempotency_key,
            idempotency_seconds=idempotency_seconds,
        )

    def revoke(self, predicate: Callable[[str, Any], object]) -> int:
        """End, with reason `stopped`, the streams of this process for which `predicate` is true.

        A stream that was opened and has not begun yet ends as soon as it begins. A function can't
        be sent to other workers: with several of them, use `revoke_subject`.

        Args:
            predicate: called with the topic's name and the request of each open stream that was
                made with `open`.

        Returns:
            How many open streams it ended.
        """
        return self._grants.revoke(predicate)

    async def revoke_subject(self, subject: str, name: str | None = None) -> int:
        """End, with reason `stopped`, the streams of a subject, on all workers of the log.

        Make `authorize` refuse first, or else a client that comes back is admitted. A stream that
        was opened and has not begun yet ends as soon as it begins. This process's streams end at
        once. Then it **waits** until the revocation is in the log. Other workers end theirs as
        soon as they hear of it: within milliseconds, or 10 s if a hint was lost. One that was
        frozen or cut off, for so long that the log no longer has all revocations of that time (an
        hour, or 1,000), ends all streams that have a subject, and their clients may come back.
        All `Topics` of the same log that have a `subject` are meant.

        Args:
            subject: what the function `subject` returned for the streams.
            name: only streams of the topic of that name; None for all topics.

        Returns:
            How many open streams of this process it ended.

        Raises:
            LogUnavailableError: the log is away, for longer than the patience of publishers. Other
                workers may not have heard of it: call it again.
            RuntimeError: there is no function `subject`, or the log of the app is not open.
            TypeError: `subject` or `name` is no `str`.
        """
        if self._subject is None:
            raise RuntimeError(
                "there are no subjects to revoke: write Topics(subject=lambda name, request: ...)"
            )
        if not isinstance(subject, str):
            raise TypeError(f"a subject is a str, not {type(subject).__name__}")
        if name is not None:
            self._check_name(name)
        self._listen(name or "")
        return await self._grants.revoke_subject(subject, name)

    async def delete(self, name: str) -> None:
        """Forget the events of the topic of that name, and end its subscribers: `Topic.delete`.

        In a log it is deleted for all workers, also if this process has no such topic.

        Raises:
            LogUnavailableError: the log is away: see `Topic.delete`.
            TopicNameError: `name` is longer than `name_limit`.
            TypeError: `name` is no `str`.
        """
        topic = self._topics.get(name)
        if topic is None:
            topic = self._new(name)
        await topic.delete()

    async def aclose(self) -> None:
        """Close all topics: their subscribers get what is left, and end with `completed`."""
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        topics, self._topics = self._topics, {}
        async with trio.open_nursery() as nursery:
            for topic in topics.values():
                nursery.start_soon(topic.aclose)

    def statistics(self) -> TopicsStatistics:
        """Return how many topics and subscribers there are."""
        return TopicsStatistics(
            topics=len(self._topics),
            limit=self._limit,
            subscribers=sum(topic.subscribers for topic in self._topics.values()),
            opened=self._grants.streams,
            forgotten=self._forgotten,
        )

    def _make(self, name: str) -> Topic:
        self._check_name(name)
        if len(self._topics) >= self._limit:
            self._make_room()
        topic = self._new(name)
        topic._touch()
        if self._timer is None:
            self._timer = start_timer(clock.current_time() + self._idle / _LOOKS, self._look)
        return topic

    def _new(self, name: str) -> Topic:
        self._check_name(name)
        topic = self._factory(name)
        if not isinstance(topic, Topic):
            raise TypeError(f"factory must return a Topic, not {type(topic).__name__}")
        topic._prefer_log(self._log)
        return topic

    def _whose(self, name: str, request: Any) -> str | None:
        """Return whose stream it will be, and hear from now on what others revoke."""
        if self._subject is None:
            return None
        self._listen(name)
        subject = self._subject(name, request)
        if subject is not None and not isinstance(subject, str):
            raise TypeError(
                "subject must return a str or None, and must not be async, so that a revocation "
                f"can't miss it; it returned {type(subject).__name__}"
            )
        return subject

    def _listen(self, name: str) -> None:
        opened = find_log(name, self._log, was_in_log=False)
        if opened is not None and opened.engine is not None:
            self._grants.listen(opened.engine.control)

    def _check_name(self, name: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"a topic's name must be a str, not {type(name).__name__}")
        if len(name) > self._name_limit or not _is_text(name):
            raise TopicNameError(len(name), self._name_limit)

    def _look(self, now: float) -> float:
        for name, topic in list(self._topics.items()):
            if not topic.subscribers and topic._idle_for >= self._idle:
                self._forget(name)
        if self._topics:
            return now + self._idle / _LOOKS
        self._timer = None
        return math.inf

    def _make_room(self) -> None:
        """Forget some of the topics that nobody is subscribed to.

        Names that somebody made up have nothing to lose, so they go before what has a past.

        Raises:
            TooManyTopicsError: there are none.
        """
        unused = {
            name: (not topic._is_used, topic._idle_for)
            for name, topic in self._topics.items()
            if not topic.subscribers
        }
        if not unused:
            raise TooManyTopicsError(f"there are {self._limit} topics, and all are in use")
        for name in heapq.nlargest(1 + self._limit // _SHARE, unused, key=unused.__getitem__):
            self._forget(name)

    def _forget(self, name: str) -> None:
        self._topics.pop(name)._close_idle()
        self._forgotten += 1


def _is_text(name: str) -> bool:
    """Return whether a log could have a topic of that name."""
    try:
        return b"\0" not in name.encode()
    except UnicodeEncodeError:
        return False
