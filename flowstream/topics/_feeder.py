"""A feeder: the task that publishes the items of a source in a topic, and survives failures.

::

    run ──► failed ──► wait (back-off) ──┐      an item that is bad: counted, logged, left out
     ▲                                   │      ended, stopped, shut down, closed: over
     └───────────────────────────────────┘

A run (`Production`) is one answer: it fails once, and its clients are told. A topic's clients wait
for the next event, wherever it comes from. So a feeder tries again, and reports failures to the
people who run the app: in the log and in the statistics.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import trio

from flowstream._clock import clock
from flowstream._errors import EncodingError, SourceError
from flowstream._event import Event
from flowstream._live_stream import BufferStatistics
from flowstream.limits import check_positive
from flowstream.sources import Source
from flowstream.sources._as_source import SourceMaker, first_and_next
from flowstream.sources._relay import Relay
from flowstream.sources._running import run_to_end
from flowstream.tasks._failure import first_of, is_refusal
from flowstream.tasks._retry import Backoff, Retry
from flowstream.tasks._supervised import before_startup, supervised_nursery
from flowstream.topics._publish_arguments import fed
from flowstream.topics._publisher import Publisher

logger = logging.getLogger("flowstream")

# Seconds between two lines of the log about bad items: a source may make only bad ones.
_BAD_ITEMS_EVERY = 10.0


@dataclass(frozen=True, slots=True)
class FeederStatistics:
    """A moment of one feeder."""

    topic: str
    """The name of the topic that it feeds."""
    running: bool
    """Whether its source runs now: not while it waits to try again, and not after its end."""
    over: bool
    """Whether it has ended."""
    published: int
    """Items published so far."""
    failures: int
    """Times that its source failed so far."""
    failures_in_a_row: int
    """Failures since its source last ran for at least `Retry.longest` seconds."""
    bad_items: int
    """Items left out, because they could not be made or published."""


class FeedCounts:
    """Counts of failures and bad items of all feeders of one topic, ended ones included."""

    def __init__(self) -> None:
        self.failures = 0
        self.bad_items = 0


class Feeder:
    """The task that feeds a topic; made by `Topic.publish_from`."""

    def __init__(self, feeding: Feeding) -> None:
        self._feeding = feeding

    async def stop(self) -> None:
        """Stop it, and **wait** until its source has cleaned up."""
        self._feeding.shut_down()
        await self._feeding.over.wait()

    def statistics(self) -> FeederStatistics:
        """Return how it is doing."""
        return self._feeding.statistics()


class Feeding:
    """The work of a feeder, in the nursery that outlives requests.

    Args:
        topic: the topic's name.
        publisher: where the items go.
        sources: the source for the first run, and the one for each later run.
        retry: how long to wait after a failure; None for one run only.
        cleanup_timeout: seconds that a source may take to end when it is told to.
        counts: counts failures and bad items for the topic.
        ended: called when the feeder has ended.

    Attributes:
        name: its name in the log.
        over: set when it has ended.
    """

    def __init__(
        self,
        topic: str,
        publisher: Publisher,
        sources: tuple[Source, Source | None],
        retry: Retry | None,
        cleanup_timeout: float,
        counts: FeedCounts,
        ended: Callable[[Feeding], None],
    ) -> None:
        self.name: str = f"what feeds the topic {topic!r}"
        self._topic = topic
        self._publisher = publisher
        self._first, self._later = sources
        self._retry = retry
        self._backoff = Backoff(retry or Retry())
        self._cleanup_timeout = cleanup_timeout
        self._counts = counts
        self._ended = ended
        self._scope: trio.CancelScope | None = None  # of the source, while it runs
        self._told = trio.Event()  # set when it is told to stop
        self.over: trio.Event = trio.Event()
        self._error: BaseException | None = None  # the failure of the last run
        self._published = 0
        self._failures = 0
        self._bad_items = 0
        self._bad_untold = 0  # bad items since the log last had a line about them
        self._bad_told = -math.inf  # the time of that line

    def shut_down(self) -> None:
        """Stop it: cancel its source, which may clean up, or the wait before the next try."""
        self._told.set()
        if self._scope is not None:
            self._scope.cancel()

    def statistics(self) -> FeederStatistics:
        """Return how it is doing."""
        return FeederStatistics(
            topic=self._topic,
            running=self._scope is not None,
            over=self.over.is_set(),
            published=self._published,
            failures=self._failures,
            failures_in_a_row=self._backoff.failures,
            bad_items=self._bad_items,
        )

    async def run(self) -> None:
        """Run the source again and again, until it ends without a failure or is told to."""
        source: Source | None = self._first
        try:
            if self._told.is_set():
                await self._discard()
            while source is not None and not self._told.is_set():
                lasted = await self._try(source)
                if self._error is None:
                    if not self._told.is_set():
                        logger.info("%s has come to its end", self.name)
                    break
                wait = self._failed(self._error, lasted)
                self._error = None  # so that it does not hold its frames while we wait
                source = self._later if self._retry is not None else None
                if source is not None:
                    with trio.move_on_after(wait):
                        await self._told.wait()
        finally:
            self._tell_bad_items()
            self.over.set()
            self._ended(self)

    async def _try(self, source: Source) -> float:
        """Run `source` to its end; return how many seconds it ran."""
        began = clock.current_time()
        self._scope = scope = trio.CancelScope(shield=True)
        try:
            await run_to_end(
                source,
                Relay(self._publish, self._statistics, self._publish_nowait, self._reject),
                scope,
                self._cleanup_timeout,
                name=self.name,
                failed=self._note,
            )
        finally:
            self._scope = None
        return clock.current_time() - began

    async def _discard(self) -> None:
        with trio.move_on_after(self._cleanup_timeout, shield=True):
            await self._first.discard()

    def _note(self, error: BaseException) -> None:
        if not self._told.is_set():
            self._error = error
        elif not is_refusal(error):
            logger.error("%s failed while it was stopped", self.name, exc_info=error)

    def _failed(self, error: BaseException, lasted: float) -> float:
        """Count and log a failure; return the seconds to wait."""
        wait = self._backoff.fail(lasted)
        self._failures += 1
        self._counts.failures += 1
        then = f"it is tried again in {wait:.1f} s" if self._retry is not None else "it is over"
        row = self._backoff.failures
        if row == 1:
            logger.error("%s failed; %s", self.name, then, exc_info=error)
        else:
            told = _line(error)
            logger.error("%s failed (%s), %d times in a row; %s", self.name, told, row, then)
        return wait

    # -- items -----------------------------------------------------------------------------

    async def _publish(self, item: Any) -> None:
        if self._told.is_set():
            await trio.lowlevel.checkpoint()  # raises Cancelled in the source's own tasks
            raise _refusal()
        try:
            await self._publisher.publish(fed(item))
        except trio.ClosedResourceError:
            self.shut_down()
            await trio.lowlevel.checkpoint()  # noqa: ASYNC120  # Cancelled, as in any stop
            raise _refusal() from None
        except (EncodingError, TypeError, ValueError) as error:
            self._reject(error)
            await trio.lowlevel.checkpoint()  # all items may be bad
        else:
            self._published += 1

    def _publish_nowait(self, item: Any) -> None:
        if self._told.is_set():
            raise _refusal()
        try:
            if self._publisher.is_shared:
                self._publisher.publish_soon(fed(item), self._lost)
            else:
                self._publisher.publish_nowait(fed(item))
        except trio.ClosedResourceError:
            self.shut_down()
            raise _refusal() from None
        except (EncodingError, TypeError, ValueError) as error:
            self._reject(error)
        else:
            self._published += 1

    def _lost(self, event: Event, error: Exception) -> None:
        self._published -= 1
        self._reject(error)

    def _reject(self, error: Exception) -> None:
        self._bad_items += 1
        self._counts.bad_items += 1
        if self._bad_items == 1:
            self._bad_told = clock.current_time()
            logger.error("%s made a bad item; it is left out", self.name, exc_info=error)
            return
        self._bad_untold += 1
        if clock.current_time() >= self._bad_told + _BAD_ITEMS_EVERY:
            self._tell_bad_items(f" (the last: {_line(error)})")

    def _tell_bad_items(self, last: str = "") -> None:
        if self._bad_untold:
            logger.error("%s made %d more bad items%s", self.name, self._bad_untold, last)
            self._bad_untold, self._bad_told = 0, clock.current_time()

    def _statistics(self) -> BufferStatistics:
        """Return how full the topic's replay is, since the source fills that."""
        offered = self._published + self._bad_items
        return self._publisher.statistics(offered, dropped=self._bad_items)


class Feeders:
    """All feeders of one topic.

    Args:
        topic: the topic's name.
        publisher: returns where the items go.

    Attributes:
        counts: their counts, ended feeders included.
    """

    def __init__(self, topic: str, publisher: Callable[[], Publisher]) -> None:
        self._topic = topic
        self._publisher = publisher
        self._running: set[Feeding] = set()
        self.counts: FeedCounts = FeedCounts()

    def __len__(self) -> int:
        """Return how many feeders there are now."""
        return len(self._running)

    def start(self, source: SourceMaker, retry: Retry | None, cleanup_timeout: float) -> Feeder:
        """Start a feeder. Takes and raises what `Topic.publish_from` says."""
        _check_arguments(retry, cleanup_timeout)
        if not trio.lowlevel.in_trio_run():
            raise before_startup("publish_from")
        supervised = supervised_nursery()
        publisher = self._publisher()
        if publisher.ending is not None:
            raise trio.ClosedResourceError(f"the topic {self._topic!r} takes no more events")
        first, later = first_and_next(source)
        if retry is not None and later is None:
            raise SourceError(
                f"this {type(source).__name__} is used up by one run, and could not begin anew "
                "after a failure: pass the function that makes it, without calling it "
                "(`publish_from(items)`, or `publish_from(lambda: items(argument))`), or say "
                "retry=None to run it once"
            )
        feeding = Feeding(
            self._topic,
            publisher,
            (first, later),
            retry,
            cleanup_timeout,
            self.counts,
            self._running.discard,
        )
        supervised.start(feeding)
        self._running.add(feeding)
        return Feeder(feeding)

    def stop(self) -> None:
        """Tell all feeders to stop."""
        for feeding in list(self._running):
            feeding.shut_down()


def _check_arguments(retry: object, cleanup_timeout: float) -> None:
    """Raise if one of these is not what `Topic.publish_from` takes."""
    if retry is not None and not isinstance(retry, Retry):
        raise TypeError(
            f"retry must be a Retry or None, not {type(retry).__name__}: Retry(first=1.0, "
            "longest=60.0) waits for up to a second after the first failure"
        )
    check_positive("cleanup_timeout", cleanup_timeout, unit="seconds")
    if cleanup_timeout == math.inf:
        raise ValueError("cleanup_timeout must be finite: a cleanup that hangs would never end")


def _refusal() -> trio.BrokenResourceError:
    return trio.BrokenResourceError("this no longer feeds the topic")


def _line(error: BaseException) -> str:
    """Return the type and text of an error, or of the first of a group, in one line."""
    first = first_of(error)
    text = " ".join(str(first).split())
    return f"{type(first).__name__}: {text}"[:200]
