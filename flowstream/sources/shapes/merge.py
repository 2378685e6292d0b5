"""merge: run several sources in one stream, each in a task of its own.

There is no queue in between: all sources send into one outlet. When the outlet is full, it admits
them in turn; when it is not, each lets the others run after some items. So a source that floods
can't keep the others out. The items of one source stay in order.
"""

from __future__ import annotations

import logging
from functools import partial

from flowstream._errors import SourceError
from flowstream.buffer._outlet import Outlet
from flowstream.sources._as_source import as_source
from flowstream.sources._feed import Feed
from flowstream.sources._nurseries import run_together
from flowstream.sources._resumable import Resumable
from flowstream.sources._source import Source
from flowstream.sources._source_like import SourceLike
from flowstream.sources.shapes._wrapper import shared
from flowstream.tasks._failure import passes

__all__ = ["merge"]

logger: logging.Logger = logging.getLogger("flowstream")


def merge(*sources: SourceLike) -> Source:
    """Return one source that runs all of `sources` at once.

    **Emits** each item as it comes. **Waits** where the stream does, each source in its own
    ``send``. **Ends** when all have ended, or with the first failure: then the others are
    cancelled, and when they have cleaned up, the failure is raised unchanged.

    Args:
        sources: what `stream` takes, at least one; except a topic or a run (pass several topics
            as a list to `stream`), and except a `resumable`, because one id can't say where
            several sources should go on.

    Raises:
        TypeError: there is none.
        SourceError: one is not a source of one client, or is resumable.
    """
    if not sources:
        raise TypeError("merge() takes at least one source")
    opened: list[Source] = []
    for given in sources:
        one = as_source(given)
        if isinstance(one, Feed):
            raise shared("merge")
        if isinstance(one, Resumable):
            raise SourceError(
                "merge() takes no resumable() source: one Last-Event-ID cannot say where "
                "several sources are to go on; merge inside of the function instead"
            )
        opened.append(one)
    return _Merged(opened)


class _Merged(Source):
    def __init__(self, sources: list[Source]) -> None:
        self._sources = sources

    async def run(self, out: Outlet) -> None:
        """Run all sources."""
        await run_together([partial(source.run, out) for source in self._sources])

    async def discard(self) -> None:
        """Release what each source holds, even if another one fails at it.

        Raises:
            Exception: what the first source raised; what others raised is logged.
        """
        failure: BaseException | None = None
        for source in self._sources:
            try:
                await source.discard()
            except BaseException as error:  # noqa: ASYNC103  # see `passes`
                if passes(error):
                    raise
                if failure is not None:
                    logger.exception("a merged source failed while it was closed")
                failure = failure or error
        if failure is not None:
            raise failure
