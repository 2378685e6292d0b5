"""A run whose worker is gone, and the source that goes on with it.

The app's function is asked in the task of the run, on the one worker that has got the lease. So it
may take its time: the lease is renewed meanwhile.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from flowstream._errors import PublicError, SourceError
from flowstream._event import Event
from flowstream.buffer._outlet import Outlet
from flowstream.runs._run_end import owner_lost
from flowstream.sources import Source, as_source


class LostRun:
    """A run whose worker is gone, as the function ``on_owner_lost`` gets it.

    Args:
        key: the run's key.
        events: its events that are kept, oldest first.
    """

    def __init__(self, key: str, events: Sequence[Event]) -> None:
        self._key = key
        self._events = tuple(events)

    @property
    def key(self) -> str:
        """The run's key."""
        return self._key

    @property
    def events(self) -> tuple[Event, ...]:
        """Its events that are kept, oldest first: what clients have, or will get."""
        return self._events

    @property
    def after(self) -> str | None:
        """The id of its last event; None if there is none."""
        return self._events[-1].id if self._events else None


Resume = Callable[[LostRun], Awaitable[Any] | Any]
"""Makes a source that goes on with a run; None to end it with ``owner_lost``."""


class ResumedSource(Source):
    """What an app goes on with a run with.

    Args:
        resume: makes it.
        read: **waits** for the run as it was left.
    """

    def __init__(self, resume: Resume, read: Callable[[], Awaitable[LostRun]]) -> None:
        self._resume = resume
        self._read = read

    async def run(self, out: Outlet) -> None:
        """Ask the app for a source, and run that.

        Raises:
            PublicError: the app does not go on; the run ends with ``owner_lost``.
            SourceError: what it gave is not a source.
        """
        made = self._resume(await self._read())
        if inspect.isawaitable(made):
            made = await made
        if made is None:
            error = owner_lost().error
            raise error or PublicError("owner_lost", "")
        source = as_source(made)
        if not isinstance(source, Source):
            raise SourceError("on_owner_lost must return a source, and a topic is none")
        await source.run(out)
