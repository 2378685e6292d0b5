"""A subscriber's place in a topic that is in a log.

A `Cursor` moves in the window. A client may be further back: it comes with an id from before this
process began, or it was slow, or events are missing from the window. Then it reads pages of the
log, until it meets the window::

    opening ──► in the window ◄──┐
       │             │ the window has lost what comes next
       └──────► in the log ──────┘ it has read up to the window

Each step that waits for the log is made by `prepare`, while the stream sends heartbeats.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import trio

from flowstream.abc import Encoder, Position
from flowstream.ids._event_id import event_id, parse_event_id
from flowstream.sources._feed import Subscriber, Terms
from flowstream.tasks._failure import passes
from flowstream.topics._cursor import VAIN_SNAPSHOTS, Cursor
from flowstream.topics._fanout import Fanout
from flowstream.topics._follower import Follower
from flowstream.topics._log_pages import LogPage, LogPages, encoded_once
from flowstream.topics._log_reader import insist
from flowstream.topics._published import Published
from flowstream.topics._snapshots import AsOf, Snapshots, unusable
from flowstream.topics._window import Window


class LogCursor(Cursor):
    """One stream's place in a topic that is in a log.

    Args:
        follower: keeps the window in step.
        pages: what the log has.
        decode: makes an event of a record.
        window, fanout, snapshots, subscriber, encoder, terms: see `Cursor`.
    """

    def __init__(
        self,
        follower: Follower,
        pages: LogPages,
        window: Window,
        fanout: Fanout,
        snapshots: Snapshots | None,
        subscriber: Subscriber,
        encoder: Encoder | None,
        terms: Terms,
    ) -> None:
        self._follower = follower
        self._pages = pages
        self._window = window
        self._opening = not window.is_open
        self._reading: Position | None = None
        self._page: LogPage | None = None  # from `prepare`
        self._goes_on = False  # whether it has come to the end of a page
        self._came_with = terms.after  # until the log knows it
        self._vain_reads = 0  # snapshots in a row from which it did not get to the window
        super().__init__(window, fanout, snapshots, subscriber, encoder, replace(terms, after=None))
        self._wants_snapshot = terms.after is None and snapshots is not None
        self._member.behind = True
        if not self._opening:
            self._begin(window.head)

    # -- where it is -----------------------------------------------------------------------

    def _begin(self, number: int) -> None:
        """Take the place that it came for; `number` is where a new client begins."""
        self._opening = False
        after, window = self._came_with, self._window
        self._member.joined = window.head
        if after is not None:
            position = parse_event_id(after)
            found = None if position is None else window.number_of(position)
            if position is None:
                self._lost, self._came_with = True, None
            elif found is not None and window.has(found):
                self._follower.counts.add(window_hits=1)
                self._recognize()
                number = found
            else:
                self._follower.counts.add(window_misses=1)
                self._reading = position
        self._member.number = number
        self.catch_up()

    def _recognize(self) -> None:
        """Note that the log knows the id that the client came with."""
        if self._came_with is not None:
            self._member.queue.pass_by(0, self._member.named(self._came_with))
            self._came_with = None

    def _leave_window(self) -> None:
        """Read from the log what the window no longer has."""
        self._goes_on = False
        self._reading = self._window.position_of(self._member.number)

    def _meet_window(self) -> None:
        """Go on in the window, if it has all that follows."""
        assert self._reading is not None
        number = self._window.number_of(self._reading)
        if number is not None and self._window.has(number):
            self._reading = None
            self._member.number = number
            self._settle()

    @property
    def behind(self) -> bool:
        """Whether there are events that the stream has to pull, or may be."""
        return self._member.behind or self._opening or self._reading is not None

    @property
    def waits(self) -> bool:
        """Whether `pull` would wait for the log, or for a snapshot that the app makes."""
        if self._opening or self._reading is not None:
            return self._page is None
        return super().waits or self._lacks_window

    @property
    def _lacks_window(self) -> bool:
        member = self._member
        return (
            member.behind
            and not (self._lost or self._wants_snapshot)
            and not self._window.has(member.number)
        )

    def lacks(self) -> int | None:
        """Return how many events the stream still has to pull; None if that is unknown."""
        if self._opening or self._reading is not None:
            return None
        return super().lacks()

    @property
    def position(self) -> str | None:
        """The id that a client comes back with if it has got all events that were passed on."""
        if self._opening:
            return self._came_with
        if self._reading is not None:
            return event_id(*self._reading)
        return super().position

    def catch_up(self) -> None:
        """Let the topic push again, unless there is something to pull."""
        if not self._opening and self._reading is None:
            super().catch_up()

    # -- what it reads ---------------------------------------------------------------------

    async def prepare(self) -> None:
        """**Wait** until `pull` would not wait.

        Raises:
            PublicError: the snapshot could not be made.
        """
        if self._opening:
            await self._follower.until_open()
            self._begin(self._window.opened)
        if self._reading is None and self._lacks_window:
            self._leave_window()
        if self._reading is not None:
            if self._page is None:
                self._page = await self._fetch(self._reading)
        elif super().waits:
            await super().prepare()

    async def _fetch(self, position: Position) -> LogPage:
        """Return what follows `position`, as soon as there is something, or the window has it.

        The window is then as far as the page. If events are missing behind a place in the page, the
        client goes on in the window, which counts from that place and has a snapshot behind it.
        """
        follower = self._follower

        def read() -> Awaitable[LogPage]:
            return self._pages.after(
                follower.topic, position, follower.decode, goes_on=self._goes_on
            )

        while True:
            page = await insist(read)
            if page.known and (page.events or page.end != position):
                await follower.until(page.events[-1].position if page.events else position)
                return page
            # It goes on in the window, when that has come as far.
            if await follower.until(page.end) is not None or not page.known:
                return page

    async def pull(self, limit: int) -> list[Any]:
        """Return the next events, up to about `limit` bytes.

        Raises:
            PublicError: the snapshot could not be made.
        """
        if self._page is None and (
            self._opening or self._reading is not None or self._lacks_window
        ):
            await self.prepare()
        if self._reading is None:
            return await super().pull(limit)
        page, self._page = self._page, None
        assert page is not None
        pieces = self._read(page, limit)
        if not pieces:
            await trio.lowlevel.checkpoint()  # it wanted none of these
        return pieces

    def _read(self, page: LogPage, limit: int) -> list[Any]:
        """Return what the stream wants of a page, with gaps for what is missing in it."""
        if not page.known:
            self._lose()
            return []
        self._recognize()
        pieces = self._take_page(page, limit) if page.events else self._pass_over(page.end)
        if self._reading is not None and self._page is None:
            self._meet_window()
        return pieces

    def _take_page(self, page: LogPage, limit: int) -> list[Any]:
        """Return events of a page up to `limit` bytes, or the gap in front of them."""
        member, size = self._member, 0
        oldest = self._window.oldest_stamp
        pieces: list[Any] = []
        last: str | None = None
        for place, (position, published) in enumerate(page.events):
            self._page = page.from_place(place)  # what is left, if this is as far as it gets
            if published is None or published.stamp < oldest:
                continue  # the next one sees that it is missing
            if self._misses(position):
                return self._passed(pieces, last) or self._pass_over((position[0], position[1] - 1))
            try:
                if member.where is None or member.where(published.event):
                    encoded = self._encoded_of_page(published)
                    if pieces and size + len(encoded) > limit:
                        return self._passed(pieces, last)
                    pieces.append(encoded)
                    size += len(encoded)
                    last = published.id
            except BaseException as error:
                if pieces and not passes(error):
                    # These first: the next call raises it again.
                    return self._passed(pieces, last)  # noqa: ASYNC104  # see `passes`
                raise
            self._reading = position
        if self._reading != page.events[-1].position:  # it can't have the last ones
            return self._passed(pieces, last) or self._pass_over(page.events[-1].position)
        self._page = None
        self._goes_on = True
        return self._passed(pieces, last)

    def _passed(self, pieces: list[Any], last: str | None) -> list[Any]:
        """Count pieces as delivered, the last of which has the id `last`."""
        if last is not None:
            self._member.queue.pass_by(len(pieces), self._member.named(last))
        return pieces

    def _encoded_of_page(self, published: Published) -> Any:
        encoder = self._member.encoder
        if encoder is None or not self._shared:
            return self._encoded(published)
        return encoded_once(published, encoder)

    def _misses(self, position: Position) -> bool:
        """Return whether an event does not follow on what was read."""
        assert self._reading is not None
        epoch, number = self._reading
        return position != (epoch, number + 1)

    def _pass_over(self, position: Position) -> list[Any]:
        """Announce that what lies up to `position` is missing, and go on behind it.

        Where there is a snapshot it follows, and holds what was missing.

        Raises:
            PublicError: behind one snapshot after the other, events are missing.
        """
        assert self._reading is not None
        if position == self._reading:
            return []
        if self._snapshots is not None:
            self._lose()
            return []
        epoch, number = self._reading
        missed = position[1] - number if position[0] == epoch else None
        self._reading = position
        return [self._member.queue.lose(missed if self._member.where is None else None)]

    def _lose(self) -> None:
        """Go on in the window, as a client does that has lost events: see `Cursor.pull`."""
        assert self._reading is not None
        if self._snapshots is not None:
            self._vain_reads += 1
            if self._vain_reads > VAIN_SNAPSHOTS:
                raise unusable("what follows on it is not in the log, which has to keep more")
        self._lost = True
        self._seen = None if self._came_with else self._window.number_of(self._reading)
        self._came_with = self._reading = self._page = None
        self._member.number = self._window.head

    # -- what a `Cursor` asks --------------------------------------------------------------

    def _settle(self) -> None:
        if self._window.has(self._member.number):
            self._vain_reads = 0
        super()._settle()

    def _missed(self, seen: int, number: int) -> int | None:
        if self._window.crosses(seen, number):
            return None
        return super()._missed(seen, number)

    def _reaches(self, snapshot: AsOf) -> bool:
        return True  # what the window no longer has is in the log
