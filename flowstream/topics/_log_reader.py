"""A reader: it keeps something here in step with one topic of a log.

News come as hints, which may be lost, late or double. What a hint can't tell has to be read: then
the reader is *stale*, and says so once. `catch_up` reads until nothing is left. What becomes stale
during a read is read, too, since it may not be in that read.
"""

from __future__ import annotations

import abc
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio

from flowstream._clock import clock
from flowstream._errors import LogUnavailableError
from flowstream.abc import Head, Log, Position, Record
from flowstream.tasks._retry import Backoff, Retry

T = TypeVar("T")

PAGE_ITEMS = 512
"""Events that are read from a log at once."""

RETRY = Retry(first=0.1, longest=2.0)
"""Between two tries to reach a log that is away."""


class LogReader(abc.ABC):
    """One topic of a log, as this process follows it.

    Args:
        topic: its name in the log.
        log: the log.
        stale: called when there is something to read: then `catch_up` is to be called.

    Attributes:
        topic: the same.
        is_stale: whether there is something to read.
    """

    def __init__(self, topic: str, log: Log, stale: Callable[[LogReader], None]) -> None:
        self.topic: str = topic
        self.is_stale: bool = False
        self._log = log
        self._tell_stale = stale
        self._is_reading = False

    @property
    @abc.abstractmethod
    def idle_since(self) -> float:
        """When it was last needed; infinity while it is."""

    @abc.abstractmethod
    def begin(self, head: Head) -> None:
        """Follow the topic from its head on. Hints of it come already."""

    @abc.abstractmethod
    def close(self) -> None:
        """Follow the topic no more."""

    @abc.abstractmethod
    def hear(self, before: int, records: Sequence[Record]) -> None:
        """Take a hint: committed events, and the number that they follow on."""

    @abc.abstractmethod
    def _place(self) -> Position | None:
        """Return the position behind what it has; None while it is closed."""

    @abc.abstractmethod
    async def _read(self) -> None:
        """Read once, and set `is_stale` if there is more."""

    def compare(self, head: Head) -> None:
        """Take the log's word for how far the topic has come."""
        place = self._place()
        if place is not None and (head.number > place[1] or head.epochs[-1][0] != place[0]):
            self.mark_stale()

    def mark_stale(self) -> None:
        """Note that there is something to read."""
        if self._place() is not None and not self.is_stale:
            self.is_stale = True
            if not self._is_reading:
                self._tell_stale(self)

    async def catch_up(self) -> None:
        """Read until it has come to the log's head.

        Raises:
            LogUnavailableError: the log can't be read. There is still something to read.
        """
        self._is_reading = True
        try:
            while self.is_stale and self._place() is not None:
                # What is marked from here on may not be in what is read.
                self.is_stale = False
                await self._read()
        except BaseException:
            self.is_stale = self._place() is not None
            raise
        finally:
            self._is_reading = False


async def insist(call: Callable[[], Awaitable[T]], patience: float | None = None) -> T:
    """Call until the log can be reached, and return what the call returned.

    Args:
        call: is called again after a while if the log is away.
        patience: seconds after which its error is raised; None to go on for ever.

    Raises:
        LogUnavailableError: it never succeeded.
    """
    since = clock.current_time()
    backoff = Backoff(RETRY)
    while True:
        try:
            return await call()
        except LogUnavailableError:
            wait = backoff.fail(0.0)
            if patience is not None and clock.current_time() + wait >= since + patience:
                raise
            await trio.sleep(wait)
