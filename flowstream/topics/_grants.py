"""Grants: clients' leave to subscribe to a topic, and what ends it.

A grant is there from the moment the app's `authorize` is asked. So what is revoked while it is
asked ends that stream, too, as soon as it begins.

A revocation by subject reaches all workers, as a control message (`Control`). It carries a digest
of the subject, so that no user's name or address gets into the log.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import trio

from flowstream._closing import CloseReason
from flowstream._errors import FlowstreamError, PublicError
from flowstream.abc import Encoder
from flowstream.sources._feed import Feed, FeedCursor, FeedOrigin, SingleFeed, Subscriber, Terms
from flowstream.topics._app_log import has_log
from flowstream.topics._control import Control
from flowstream.topics._joined import Joined
from flowstream.topics.topic import Topic


class TooManyTopicsError(FlowstreamError):
    """There are `limit` topics, and all are in use; usually answered with a 503."""


class Grants:
    """The grants of one `Topics` that are waiting or have streams.

    Attributes:
        by_subject: whether they have subjects.
    """

    def __init__(self, *, by_subject: bool) -> None:
        self.by_subject: bool = by_subject
        self._open: weakref.WeakSet[Grant] = weakref.WeakSet()
        self._controls: weakref.WeakSet[Control] = weakref.WeakSet()

    def add(self, grant: Grant) -> None:
        """Have it ended when it is revoked."""
        self._open.add(grant)

    def discard(self, grant: Grant) -> None:
        """Forget it: it has no streams any more."""
        self._open.discard(grant)

    @property
    def streams(self) -> int:
        """How many streams they have."""
        return sum(grant.streams for grant in self._open)

    def listen(self, control: Control | None) -> None:
        """Hear what other workers of a log revoke, and tell them."""
        if control is not None and self.by_subject and control not in self._controls:
            self._controls.add(control)
            control.add(self)

    # -- revoking --------------------------------------------------------------------------

    def revoke(self, predicate: Callable[[str, Any], object]) -> int:
        """End those for which `predicate` is true, here; return how many streams they had."""
        chosen = [grant for grant in self._open if predicate(grant.name, grant.request)]
        return self._stop(chosen, "Topics.revoke()")

    async def revoke_subject(self, subject: str, name: str | None) -> int:
        """End those of a subject, on all workers; return how many streams they had here.

        Raises:
            LogUnavailableError: other workers may not hear of it.
        """
        tag = tag_of(subject)
        count = self._revoke_tag(tag, name)
        for control in list(self._controls):
            await control.send("revoked", subject=tag, name=name)
        await trio.lowlevel.checkpoint()
        return count

    def hear_control(self, what: str, fields: Mapping[str, Any]) -> None:
        """End what another worker has revoked."""
        tag, name = fields.get("subject"), fields.get("name")
        if what == "revoked" and isinstance(tag, str) and isinstance(name, str | None):
            self._revoke_tag(tag, name)

    def miss_control(self) -> None:
        """End all that have a subject: who knows which were revoked? Clients may come back."""
        for grant in list(self._open):
            if grant.tag is not None:
                grant.end(CloseReason.SHUTDOWN, "a revocation may have been missed")

    def _revoke_tag(self, tag: str, name: str | None) -> int:
        chosen = [grant for grant in self._open if grant.tag == tag and name in (None, grant.name)]
        return self._stop(chosen, "Topics.revoke_subject()")

    def _stop(self, chosen: list[Grant], detail: str) -> int:
        count = sum(grant.streams for grant in chosen)
        for grant in chosen:
            grant.end(CloseReason.STOPPED, detail)
        return count


class Grant(SingleFeed):
    """One client's leave to subscribe to a topic, and what can end that.

    Args:
        grants: where it is, as long as it can be revoked.
        find: returns the topic of a name, which is made if there is none.
        name: the topic's.
        request: what the app knows the client by.
        subject: whose stream it is; None if nobody's.

    Attributes:
        name, request: the same.
        tag: a digest of the subject; None if there is none.
    """

    def __init__(
        self,
        grants: Grants,
        find: Callable[[str], Topic],
        name: str,
        request: Any,
        subject: str | None = None,
    ) -> None:
        self._grants = grants
        self._find = find
        self._topic: Topic | None = None
        self._subscribers: dict[Subscriber, None] = {}
        self._ending: tuple[CloseReason, str] | None = None
        self.name: str = name
        self.request: Any = request
        self.tag: str | None = None if subject is None else tag_of(subject)

    def topic(self) -> Topic:
        """Return the topic, or the new one of its name if it was forgotten.

        Raises:
            TooManyTopicsError: there is no room for it.
        """
        if self._topic is None or self._topic.closed:
            self._topic = self._find(self.name)
        return self._topic

    def join(self, subscriber: Subscriber, encoder: Encoder | None, terms: Terms) -> FeedCursor:
        """Have `subscriber` get what is published in the topic.

        Raises:
            PublicError: it was forgotten since the view asked, and there is no room for it.
        """
        try:
            topic = self.topic()
        except TooManyTopicsError as error:
            raise PublicError("busy", "there are too many topics", retryable=True) from error
        self._grants.listen(topic._bind().control)
        terms = replace(terms, left=partial(self._left, subscriber))
        cursor = topic._feed.join(subscriber, encoder, terms)
        self._subscribers[subscriber] = None
        self._grants.add(self)
        if self._ending is not None:
            subscriber.close(*self._ending)
        return cursor

    def _left(self, subscriber: Subscriber) -> None:
        self._subscribers.pop(subscriber, None)
        if not self._subscribers:
            self._grants.discard(self)

    def end(self, reason: CloseReason, detail: str) -> None:
        """End the streams, also those that have not begun yet."""
        self._ending = reason, detail
        for subscriber in list(self._subscribers):
            subscriber.close(reason, detail)

    @property
    def streams(self) -> int:
        """How many there are."""
        return len(self._subscribers)

    @property
    def is_shared(self) -> bool:
        """Whether the topic is in a durable log, or will be if it is not made yet."""
        return has_log() if self._topic is None else self._topic._feed.is_shared

    @property
    def origin(self) -> FeedOrigin:
        """That of the topic, which is made if there is none."""
        return self.topic()._feed.origin

    def beside(self, others: Sequence[SingleFeed]) -> Feed:
        """Return a feed of this one and `others`."""
        return Joined([self, *others])


def tag_of(subject: str) -> str:
    """Return a digest of a subject, any text."""
    return hashlib.blake2b(subject.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
