"""The publishing side of a topic: each way to publish in it, with its arguments and promises.

====================== ============ ===========================================================
call                   returns      for
====================== ============ ===========================================================
`publish`              the id       a task that may wait
`publish_many`         the ids      several events that belong together
`publish_soon`         None         a function that can't wait, over any log
`publish_nowait`       the id       the same, over a log in memory
`publish_from_thread`  the id       a thread
`publish_from`         a `Feeder`   a source, for as long as the app is served
`outbox`               a statement  a transaction of the app, over a log in its database
====================== ============ ===========================================================

What they do is in `Publisher`.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import trio

from flowstream._event import Event
from flowstream.abc import Log, OutboxStatement, ParameterStyle
from flowstream.limits import Replay
from flowstream.logs._append_arguments import check_idempotency
from flowstream.sources._as_source import SourceMaker
from flowstream.tasks._retry import Retry
from flowstream.topics._envelope import log_entry, name_in_log
from flowstream.topics._feeder import Feeder, Feeders
from flowstream.topics._publish_arguments import fed
from flowstream.topics._publisher import Publisher

_type = type  # below, an event has one

# What Python can iterate and an app does not mean as several items.
_ONE_ITEM = (str, bytes, bytearray, memoryview, Mapping, Event)


class PublishingSide(abc.ABC):
    """What a topic has to publish with."""

    name: str
    _publisher: Publisher
    _feeders: Feeders
    _is_bound: bool
    _replay: Replay

    @property
    @abc.abstractmethod
    def _is_keyed(self) -> bool:
        """Whether a log keeps the newest event of each key."""

    @abc.abstractmethod
    def _log_of_transactions(self) -> Log:
        """Return the log that transactions of the app publish in; it need not be open."""

    @abc.abstractmethod
    def _bind(self) -> Publisher:
        """Find the topic's log, if it has one, and return its publisher from now on."""

    async def publish(
        self,
        data: Any,
        *,
        type: str | None = None,
        id: str | None = None,
        key: object = None,
        essential: bool = False,
        idempotency_key: str | None = None,
        idempotency_seconds: float = 300.0,
    ) -> str:
        """Publish one event, and **wait** until every subscriber was handed it.

        The event is published at once. While it is handed to the subscribers, other tasks run
        about once a millisecond. A subscriber with `Block(timeout=...)` makes it wait until
        there is room; when its time is up, it is disconnected with `slow_consumer`. If this call
        is cancelled, the event is still delivered.

        Args:
            data: the item. It is not copied: don't change it afterwards.
            type: the event's name.
            id: the app's own id. By default the event gets one, such as ``1lgppmf8l75.d1042``; such
                ids sort as the events do. If you use an id twice, it means the first event with it
                that is still kept.
            key: what the event is about, for `Conflate` and `LatestByKey`.
            essential: no policy drops it. A subscriber whose buffer is full of essential events
                is disconnected with `slow_consumer`.
            idempotency_key: a name for this call, up to 1,024 characters, so that it can be made
                again when it is not known whether it succeeded. A call with a key that is still
                remembered publishes nothing, and returns the id of the event published with it.
            idempotency_seconds: how long the key is remembered, from its first event.

        Returns:
            The event's id.

        Raises:
            LogFullError: the topic remembers 100,000 keys, as many as it may. Nothing is published.
            EncodingError: no format of the subscribers can carry it (or SSE, if there are none).
                Nothing is published. If only some formats can, the streams of the others end
                with `error`.
            trio.ClosedResourceError: the topic is closed.
            TypeError, ValueError: `type` or `id` can't stand in an event, `id` is empty, longer
                than 2,048 characters or in the form of flowstream's own, `key` can't be hashed, or
                one of the others is not what is said above.
        """
        event = Event(data, type=type, id=id, key=key, essential=essential)
        publisher = self._publisher if self._is_bound else self._bind()
        return await publisher.publish(event, idempotency_key, idempotency_seconds)

    async def publish_many(self, items: Iterable[Any]) -> list[str]:
        """Publish several events at once, all or none, with no other between them.

        **Waits** as `publish` does, until every subscriber was handed all of them.

        Args:
            items: their data, up to 1,024. An `Event` keeps its type, key and id, but gets a new
                id if it is an event of another topic or run.

        Returns:
            The events' ids, in the same order.

        Raises:
            ValueError: they are more than 1,024, or than 1 MiB and `Replay.bytes`.
            TypeError: `items` is one item, and not several.
            Exception: as `publish`. Nothing is published.
        """
        if isinstance(items, _ONE_ITEM) or not isinstance(items, Iterable):
            raise TypeError(
                f"publish_many takes several items, not a {type(items).__name__}: write "
                "publish_many([first, second]), or publish(item)"
            )
        events = [fed(item) for item in items]
        publisher = self._publisher if self._is_bound else self._bind()
        return await publisher.publish_many(events)

    def publish_soon(
        self,
        data: Any,
        *,
        type: str | None = None,
        id: str | None = None,
        key: object = None,
        essential: bool = False,
        on_lost: Callable[[Event, Exception], object] | None = None,
    ) -> None:
        """Publish one event without waiting, and without its id; a task hands it to subscribers.

        Args:
            data: the item. It is not copied: don't change it afterwards.
            type: the event's name.
            id: the app's own id, as for `publish`.
            key: what the event is about.
            essential: no policy drops it.
            on_lost: ``on_lost(event, error)`` is called if the event was taken and is lost after
                all. In memory that can't happen.

        Raises:
            trio.WouldBlock: too many events wait for subscribers with `Block(timeout=...)`: 1,024
                or 1 MiB, or what `Replay` keeps if that is more. This one is not published.
            TypeError: `on_lost` is no function.
            Exception: as `publish`. Nothing is published.
        """
        if on_lost is not None and not callable(on_lost):
            raise TypeError(
                "on_lost must be a function of the event and the error, not "
                f"{_type(on_lost).__name__}"
            )
        event = Event(data, type=type, id=id, key=key, essential=essential)
        publisher = self._publisher if self._is_bound else self._bind()
        publisher.publish_soon(event, on_lost)

    def publish_nowait(
        self,
        data: Any,
        *,
        type: str | None = None,
        id: str | None = None,
        key: object = None,
        essential: bool = False,
    ) -> str:
        """Publish one event without waiting.

        Up to 256 subscribers get it at once; a task hands it to the others, and lets other tasks
        run in between. In a loop that only publishes, use `publish`.

        Args, Returns, Raises: as `publish`, and
            trio.WouldBlock: a subscriber with `Block(timeout=...)` has no room. Nothing is
                published.
        """
        event = Event(data, type=type, id=id, key=key, essential=essential)
        publisher = self._publisher if self._is_bound else self._bind()
        return publisher.publish_nowait(event)

    def publish_from_thread(
        self,
        data: Any,
        *,
        type: str | None = None,
        id: str | None = None,
        key: object = None,
        essential: bool = False,
        idempotency_key: str | None = None,
        idempotency_seconds: float = 300.0,
    ) -> str:
        """Do as `publish` does, from a thread outside the event loop; **blocks** the thread.

        Raises:
            RuntimeError: called in a thread that Trio did not start, and the topic was not yet
                used in an event loop, so it can't know which one is meant. Or called in the
                event loop itself, which it would block.
            trio.RunFinishedError: that event loop has ended.
            Exception: as `publish`.
        """

        async def publish() -> str:
            return await self.publish(
                data,
                type=type,
                id=id,
                key=key,
                essential=essential,
                idempotency_key=idempotency_key,
                idempotency_seconds=idempotency_seconds,
            )

        if trio.lowlevel.in_trio_run():
            raise RuntimeError(
                "publish_from_thread blocks, and here it would block the event loop: write "
                "`await topic.publish(...)`"
            )
        try:
            trio.from_thread.check_cancelled()
            token = None  # Trio started this thread, and knows the event loop
        except RuntimeError:
            token = self._publisher.token
            if token is None:
                raise RuntimeError(
                    f"publish_from_thread does not know the event loop of the topic {self.name!r}: "
                    "start the thread with trio.to_thread.run_sync, or use the topic once in "
                    "the event loop first"
                ) from None
        return trio.from_thread.run(publish, trio_token=token)

    def outbox(
        self,
        data: Any,
        *,
        type: str | None = None,
        key: object = None,
        essential: bool = False,
        idempotency_key: str | None = None,
        idempotency_seconds: float = 300.0,
        notify: bool = True,
        style: ParameterStyle = "format",
    ) -> OutboxStatement:
        """Return a statement that publishes one event when a transaction of the app commits.

        Execute it anywhere in the transaction, with the app's own connection to the database that
        the topic's `PostgresLog` is in::

            event = orders.outbox({"id": 7, "state": "paid"})
            await connection.execute(event.sql, event.parameters)

        A rollback publishes nothing. The events of one transaction keep their order. Their ids
        are not known before the commit, so there are none here.

        It is a value: making one needs no event loop, no app that is served and no open log. So
        a view that runs in a thread and a program without flowstream's server can make one. There
        the topic needs ``log=PostgresLog(...)``, or ``FLOWSTREAM_LOG_URL``.

        Args:
            data: the item.
            type: the event's name.
            key: what the event is about.
            essential: no policy drops it.
            idempotency_key: as for `publish`.
            idempotency_seconds: as for `publish`.
            notify: whether all workers are told at once. Commits that tell them wait for each
                other; without it, they find the event within 10 s.
            style: how the driver writes parameters: ``"format"`` for ``%s`` (psycopg),
                ``"dollar"`` for ``$1`` (asyncpg), ``"named"`` for ``:name`` (SQLAlchemy).

        Raises:
            NotImplementedError, RuntimeError: the topic is in no `PostgresLog`.
            trio.ClosedResourceError: it takes no more events.
            TypeError, ValueError: an argument can't be stored.
            EncodingError: `data` has no form in JSON.
        """
        if self._publisher.ending is not None:
            raise trio.ClosedResourceError(f"{self._publisher.name} takes no more events")
        event = Event(data, type=type, key=key, essential=essential)
        if idempotency_key is not None:
            check_idempotency(idempotency_key, idempotency_seconds)
        entry = log_entry(event, self._is_keyed, idempotency_key, idempotency_seconds)
        return self._log_of_transactions().outbox_statement(
            name_in_log("topic", self.name), entry, keep=self._replay, notify=notify, style=style
        )

    def publish_from(
        self,
        source: SourceMaker,
        *,
        retry: Retry | None = Retry(),  # noqa: B008  # a frozen value
        cleanup_timeout: float = 5.0,
    ) -> Feeder:
        """Start a task that publishes each item of `source`, and that survives failures.

        It runs in the nursery that `Flowstream(app)` keeps open while the app is served. So call
        it when the app starts: in Quart's ``before_serving``, or inside
        ``flowstream.starlette.lifespan``. If it fails, nothing else is disturbed.

        **Emits** each item; an `Event` keeps its type, key and id, but gets a new id if it is an
        event of another topic or run. **Backpressures** as `publish` does. **Completes** when the
        source ends, when the topic is closed, when the app shuts down, or by `Feeder.stop`. When
        the source fails, the log has the traceback, and the source runs again after a wait. An item
        that can't be published, or that the source rejects (`Outlet.reject`), is left out.
        `statistics` counts both.

        Args:
            source: a generator function, a producer function, or a function without arguments
                that returns a source; it is called for each run, the first time at once. Or a
                list, or a source that can run again, such as `postgres_notifications`.
            retry: how long to wait after a failure. None runs the source once; then a generator
                or a channel will do.
            cleanup_timeout: seconds that the source may take to end when it is told to.

        Returns:
            A `Feeder`, which stops the task and has its statistics. You need not keep it.

        Raises:
            SourceError: `source` is not a source, or can run only once although there is a `retry`.
            RuntimeError: there is no `Flowstream` to run it in, or Trio does not run here.
            trio.ClosedResourceError: the topic is closed.
            TypeError, ValueError: another argument is not what is said above.
            Exception: what the function raised that should return a source.
        """
        return self._feeders.start(source, retry, cleanup_timeout)

    async def position(self) -> str:
        """Return the id of the newest event; before the first, the place where that will follow.

        A client that comes back with it gets what is published from now on. Call it before you
        read the state for a snapshot: `Event(state, id=position)` then says exactly what is in it,
        and a client gets what is missing, perhaps with some that is not. It has the form of
        flowstream's own ids, also if the event has one of the app's.
        """
        publisher = self._publisher if self._is_bound else self._bind()
        return await publisher.position()
