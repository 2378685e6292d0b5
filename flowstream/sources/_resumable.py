"""Resumable sources: a producer that goes on where its client left off.

It reads the app's own history, in place of a topic's; or it can find a place in what it reads.
"""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable
from typing import Any

from flowstream._errors import SourceError
from flowstream.buffer._outlet import Outlet
from flowstream.sources._source import Source


class Resumable(Source):
    """A producer that can go on where a client left off: its events have ids."""

    @abc.abstractmethod
    def resumed(self, after: str | None) -> Source:
        """Return a new source for one stream, given the last id that its client saw, or None.

        An app may make one `Resumable` and stream it to all its clients.
        """


class ResumableFunction(Resumable):
    """A function that makes the producer for a client; made by `resumable`."""

    def __init__(
        self, function: Callable[[str | None], Any], open_source: Any, after: str | None = None
    ) -> None:
        self._function = function
        self._open = open_source  # `as_source`, which knows this class
        self._after = after

    def resumed(self, after: str | None) -> Source:
        """Return the source for one client."""
        return ResumableFunction(self._function, self._open, after)

    async def run(self, out: Outlet) -> None:
        """Call the function, and put all items of what it returns into `out`.

        Raises:
            SourceError: the function returned something that can't be streamed to one client.
        """
        made = self._function(self._after)
        if inspect.isawaitable(made):
            made = await made
        source = self._open(made)
        if not isinstance(source, Source):
            raise SourceError("resumable() is an app's own history: a topic has one already")
        await source.run(out)


def resumable_with(open_source: Any, function: Callable[[str | None], Any]) -> Resumable:
    """Return `function` as a source, checked.

    Raises:
        SourceError: it is not a function of one argument.
    """
    if not callable(function):
        raise SourceError(f"resumable() takes a function, not a {type(function).__name__}")
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        raise SourceError(
            "resumable() takes a function of one argument, the id that the client saw last or "
            "None: `async def history(after): ... yield Event(data, id=...)`"
        ) from None
    except ValueError:
        pass  # a builtin, whose signature Python does not know
    return ResumableFunction(function, open_source)
