"""The log of an app: which one it is, when it is open, and how a topic finds it.

::

    Flowstream(app, log=...) ──► AppLog ──── while the app is served ────► OpenLog ◄── topics
                                (a wish)                             (a log and its engine)

A topic is bound when it is first used: in the log of the app that runs around it, or in memory if
there is none. Its app is found as a run finds its nursery: by the context, else the one that was
opened last. If an app of this process wants a log and none is open, the topic can't be used. An
event that is published too early would otherwise be in memory alone, and nobody would notice.

A log in memory has no engine. There each topic is its own log: nothing waits, and nothing is
encoded twice.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import trio

from flowstream._errors import LogUnavailableError
from flowstream.abc import Log
from flowstream.limits import Replay
from flowstream.logs._log_run import alone
from flowstream.logs._namespaced_log import NamespacedLog, check_namespace
from flowstream.logs._open_log import from_url
from flowstream.tasks._supervised import SupervisedNursery, nursery_of_context
from flowstream.topics._log_statistics import LogStatistics
from flowstream.topics._publisher import Publisher

if TYPE_CHECKING:
    from flowstream.topics._engine import Engine

URL_VARIABLE = "FLOWSTREAM_LOG_URL"
NAMESPACE_VARIABLE = "FLOWSTREAM_LOG_NAMESPACE"


class Bound(Protocol):
    """A topic, as the log sees it that it is bound to."""

    def _unbind(self) -> None:
        """Be bound to a log again at the next use: this one is closed."""


class OpenLog:
    """What the topics of an app are bound to, while it is served.

    Args:
        log: the log that the app was given; None if it was given none.
        engine: connects topics with it; None if they are in memory.

    Attributes:
        log, engine: the same.
        closed: whether it is closed again.
    """

    def __init__(self, log: Log | None, engine: Engine | None) -> None:
        self.log = log
        self.engine = engine
        self.closed = False
        self._topics: weakref.WeakSet[Bound] = weakref.WeakSet()

    def publisher(self, topic: str, replay: Replay, changed: Callable[[str], None]) -> Publisher:
        """Return a publisher for the topic of that name."""
        assert self.engine is not None
        publisher = self.engine.publisher("topic", topic, replay, changed)
        publisher.in_log = True
        return publisher

    def add(self, topic: Bound) -> None:
        """Unbind `topic` when this is closed."""
        self._topics.add(topic)

    def close(self) -> None:
        """Unbind the topics."""
        self.closed = True
        topics, self._topics = list(self._topics), weakref.WeakSet()
        for topic in topics:
            topic._unbind()


class AppLog:
    """The log that an app wants.

    Args:
        log: a log, or its URL. None for the URL in ``FLOWSTREAM_LOG_URL``, read when the app
            starts; without that, topics are in memory.
        namespace: goes before the names of topics in the log. None for the one in
            ``FLOWSTREAM_LOG_NAMESPACE``; without that, names are as they are.

    Raises:
        TypeError, ValueError: an argument is not what is said above.
    """

    def __init__(self, log: Log | str | None, namespace: str | None) -> None:
        if log is not None and not isinstance(log, (Log, str)):
            raise TypeError(
                "log must be a log such as SQLiteLog('events.db'), or a URL such as "
                f"'sqlite:///events.db', not {type(log).__name__}"
            )
        if isinstance(log, str):
            from_url(log)  # now, so that a wrong URL is told where it was written
        if namespace is not None:
            check_namespace(namespace)
        self._log = log
        self._namespace = namespace
        _wishes.add(self)

    @property
    def is_durable(self) -> bool:
        """Whether it is a log that outlives the process."""
        if self._log is None:
            url = os.environ.get(URL_VARIABLE, "")
            return bool(url) and not url.startswith("memory:")
        if isinstance(self._log, str):
            return not self._log.startswith("memory:")
        return not is_memory(self._log)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[OpenLog]:
        """Open the log, and **wait** until it is open; at the end of the block close it.

        Raises:
            LogUnavailableError: it can't be opened; or a variable of the environment is wrong.
        """
        _wishes.add(self)
        log = self._choose()
        if log is None or is_memory(log):
            opened = OpenLog(log, None)
            try:
                yield opened
            finally:
                opened.close()
            return
        engine = make_engine(self._in_namespace(log))
        opened = OpenLog(log, engine)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(engine.run)
                _open.set((*_open.get(), opened))
                try:
                    yield opened
                finally:
                    _open.set(tuple(one for one in _open.get() if one is not opened))
                    _wishes.discard(self)
                    nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # A block that fails is to fail as it would without a nursery around it.
            error = alone(group)
            raise error from error.__cause__
        finally:
            opened.close()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[SupervisedNursery]:
        """Open the log, and inside of it the nursery for what outlives requests."""
        async with self.open() as opened, SupervisedNursery(opened) as nursery:
            yield nursery

    def log(self) -> Log | None:
        """Return the log that it wants, in its namespace; None if it wants none.

        Raises:
            LogUnavailableError: a variable of the environment is wrong.
        """
        log = self._choose()
        return None if log is None else self._in_namespace(log)

    def wants(self, log: Log) -> bool:
        """Return whether it was given this log."""
        return self._log is log

    def _choose(self) -> Log | None:
        if isinstance(self._log, Log):
            return self._log
        return _log_of_environment() if self._log is None else from_url(self._log)

    def _in_namespace(self, log: Log) -> Log:
        if self._namespace is not None:
            return NamespacedLog(log, self._namespace)
        return _in_namespace_of_environment(log)


def _log_of_environment() -> Log | None:
    url = os.environ.get(URL_VARIABLE)
    if not url:
        return None
    try:
        return from_url(url)
    except ValueError as error:
        raise LogUnavailableError(f"{URL_VARIABLE}: {error}") from None


def _in_namespace_of_environment(log: Log) -> Log:
    namespace = os.environ.get(NAMESPACE_VARIABLE)
    if not namespace:
        return log
    try:
        return NamespacedLog(log, namespace)
    except ValueError as error:
        raise LogUnavailableError(f"{NAMESPACE_VARIABLE}: {error}") from None


def make_engine(log: Log) -> Engine:
    """Return the engine for a log."""
    # Only now, so that an app without a log does not load it.
    from flowstream.topics._engine import Engine

    return Engine(log)


def is_memory(log: Log) -> bool:
    """Return whether a log is in memory, so that topics need none."""
    from flowstream.logs._memory_log import MemoryLog

    while isinstance(log, NamespacedLog):
        log = log.inner
    return isinstance(log, MemoryLog)


def find_log(topic: str, log: Log | None, *, was_in_log: bool) -> OpenLog | None:
    """Return the open log that a topic belongs in; None if it is in memory.

    Args:
        topic: its name, for the error.
        log: the log that it was given.
        was_in_log: whether it was bound to a log before, which is closed now.

    Raises:
        RuntimeError: the log that it belongs in is not open.
    """
    if log is not None:
        if is_memory(log):
            return None
        for found in _open.get():
            if found.log is log:
                return found
        raise _not_open(topic, "its log is not open")
    opened = _opened_by_app()
    if opened is not None and opened.engine is not None:
        if opened.closed:
            raise _not_open(topic, "the log of its app is closed")
        return opened
    if was_in_log:
        raise _not_open(topic, "the log that it was used with is closed")
    if opened is None and any(wish.is_durable for wish in list(_wishes)):
        raise _not_open(topic, "the log of its app is not open")
    return None


def log_of_transactions(topic: str, log: Log | None) -> Log:
    """Return the log that a transaction of the app publishes in; it need not be open.

    It is the one that `find_log` would find if the app were served. This works in threads, too,
    and in programs that serve nothing.

    Args:
        topic: its name, for the error.
        log: the log that it was given.

    Raises:
        RuntimeError: it is in memory, or it can't be told which of several logs it is in.
        LogUnavailableError: a variable of the environment is wrong.
    """
    wishes = [wish for wish in list(_wishes) if wish.is_durable]
    if log is not None:
        wishes = [wish for wish in wishes if wish.wants(log)]
    elif (opened := _opened_by_app()) is not None and opened.engine is not None:
        return opened.engine.log
    if len(wishes) > 1:
        raise RuntimeError(
            f"the topic {topic!r} can be in the log of each of {len(wishes)} apps: write "
            "Topic(..., log=...)"
        )
    if wishes:
        found = wishes[0].log()
    else:
        found = _log_of_environment() if log is None else log
        found = None if found is None else _in_namespace_of_environment(found)
    if found is None or is_memory(found):
        raise no_transaction(topic)
    return found


def no_transaction(topic: str) -> RuntimeError:
    """Return the error for a statement of a topic that is in memory."""
    return RuntimeError(
        f"the topic {topic!r} is in memory, and no transaction can publish in it: give it "
        f"log=PostgresLog(...) or set {URL_VARIABLE}; or write `await topic.publish(...)` behind "
        "the commit"
    )


def has_log() -> bool:
    """Return whether the app of this context has a log that outlives the process."""
    opened = _opened_by_app()
    return opened is not None and opened.engine is not None


def _opened_by_app() -> OpenLog | None:
    """Return what the app of this context has open; in a thread, if it was started by the app."""
    nursery = nursery_of_context()
    return nursery.owner if nursery is not None and isinstance(nursery.owner, OpenLog) else None


def log_statistics() -> LogStatistics | None:
    """Return what happened between this process and the log of its app, so far.

    The app is that of the context, else the one that was opened last. None if its topics are in
    memory, or no log is open. Call it in the event loop.
    """
    opened = _opened_by_app() or next(reversed(_open.get()), None)
    if opened is None or opened.closed or opened.engine is None:
        return None
    return opened.engine.statistics()


def _not_open(topic: str, why: str) -> RuntimeError:
    return RuntimeError(
        f"the topic {topic!r} can't be used: {why}. Use it while the app is served: in Quart's "
        "before_serving or later; on Starlette and FastAPI inside `lifespan(app, log=...)`; "
        "elsewhere inside `async with Flowstream(log=...)`. If it is to be in memory alone, make "
        "it with log=MemoryLog()"
    )


# Apps of this process that want a log, from when they are made until their log is closed.
_wishes: weakref.WeakSet[AppLog] = weakref.WeakSet()
# Logs that are open in this Trio run.
_open: trio.lowlevel.RunVar[tuple[OpenLog, ...]] = trio.lowlevel.RunVar("flowstream open logs", ())
