"""A source that was made for a run which goes on already: it is released.

What a view passes to `Runs.get_or_start` may hold a connection. It is released by a job of the app,
since the view does not wait.
"""

from __future__ import annotations

from typing import Any

import trio

from flowstream._errors import SourceError
from flowstream.sources import Source, as_source


def opened_source(source: Any) -> Source:
    """Return the source of a run.

    Raises:
        SourceError: it is none, or a topic.
    """
    opened = as_source(source)
    if not isinstance(opened, Source):
        raise SourceError("a topic needs no run: it has no client to outlive")
    return opened


class UnneededSource:
    """Releases a source that is not needed, because its run exists already."""

    name = "a source that was not needed"

    def __init__(self, source: Source, timeout: float) -> None:
        self._source = source
        self._timeout = timeout

    async def run(self) -> None:
        with trio.move_on_after(self._timeout, shield=True):
            await self._source.discard()

    def shut_down(self) -> None:
        """Do nothing: it ends soon by itself."""
