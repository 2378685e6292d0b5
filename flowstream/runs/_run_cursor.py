"""A client's place in a run that is in a log.

It begins with all that is kept: the client came for the past. If the client's id is not of this
run, a gap of unknown size goes first. The run's last record is no event and no gap: behind the
event before it the client has everything.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from flowstream.abc import Encoder, Head, Position
from flowstream.ids._event_id import parse_event_id
from flowstream.runs._run_end import RunEnd, no_longer_kept
from flowstream.runs._run_follower import RunFollower
from flowstream.sources._feed import Subscriber, Terms
from flowstream.topics._fanout import Fanout
from flowstream.topics._log_cursor import LogCursor
from flowstream.topics._log_pages import LogEvent, LogPage, LogPages
from flowstream.topics._log_reader import insist
from flowstream.topics._window import Window


class RunCursor(LogCursor):
    """One stream's place in a run.

    Args:
        follower, pages, window, fanout, subscriber, encoder, terms: see `LogCursor`.
    """

    def __init__(
        self,
        follower: RunFollower,
        pages: LogPages,
        window: Window,
        fanout: Fanout,
        subscriber: Subscriber,
        encoder: Encoder | None,
        terms: Terms,
    ) -> None:
        self._run = follower
        self._is_stranger = False  # has an id that is not of this run, and is to be told
        super().__init__(follower, pages, window, fanout, None, subscriber, encoder, terms)

    def _begin(self, number: int) -> None:
        after = self._came_with
        if after is not None and parse_event_id(after) is not None:
            super()._begin(number)
            return
        self._opening = False
        self._member.joined = self._member.number = self._window.head
        self._came_with = None
        self._is_stranger = after is not None
        self._reading = self._window.beginning
        if not self._is_stranger:
            self._meet_window()

    @property
    def waits(self) -> bool:
        """Whether `pull` would wait for the log."""
        return not self._is_stranger and super().waits

    async def pull(self, limit: int) -> list[Any]:
        """Return the next events, up to about `limit` bytes.

        Raises:
            PublicError: they are no longer kept.
        """
        if self._is_stranger:
            self._is_stranger = False
            return [self._member.queue.lose(None)]
        return await super().pull(limit)

    async def _fetch(self, position: Position) -> LogPage:
        run = self._run
        if position == run.end:
            await run.until_over()
            return LogPage(Head(((position[0], 1),), position[1], 1), True, ())

        def read() -> Awaitable[LogPage]:
            return self._pages.after(run.topic, position, run.decode, goes_on=self._goes_on)

        while True:
            page = await insist(read)
            if page.events:
                return self._without_end(page)
            if not page.known or page.end != position:
                return page
            if await run.until(position) is not None:
                return page

    def _without_end(self, page: LogPage) -> LogPage:
        """Return a page in which the run's last record is no event; learn what it says."""
        at, published = page.events[-1]
        if published is None or not isinstance(published.event.data, RunEnd):
            return page
        self._run.learn(at, published.event.data)
        return LogPage(page.head, page.known, (*page.events[:-1], LogEvent(at, None)))

    def _meet_window(self) -> None:
        run = self._run
        if run.is_over and run.end is not None:
            epoch, number = run.end
            if self._reading is not None and self._reading >= (epoch, number - 1):
                self._reading = None
                self._member.number = self._window.head
                self._settle()
                return
        super()._meet_window()

    def _pass_over(self, position: Position) -> list[Any]:
        if position == self._reading:
            return []
        if position == self._run.end:
            before = position[0], position[1] - 1
            if self._reading != before:
                return super()._pass_over(before)
            self._reading = position
            return []
        return super()._pass_over(position)

    def _lose(self) -> None:
        """Go on with the oldest event that is kept, behind a gap of unknown size.

        Raises:
            PublicError: nothing of this run is kept.
        """
        if self._reading == self._window.beginning:
            raise no_longer_kept()
        self._came_with = self._page = None
        self._goes_on = False
        self._is_stranger = True
        self._reading = self._window.beginning
        self._member.number = self._window.head
