"""An app's own history, in place of a topic's: a producer that is told where to go on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from flowstream._errors import SourceError
from flowstream._outlet import Outlet
from flowstream.sources._source import Source


class Resumable(Source):
    """A producer that can go on where a client left off; made by `resumable`."""

    def __init__(self, function: Callable[[str | None], Any], open_source: Any) -> None:
        self._function = function
        self._open = open_source  # `as_source`, which knows this class
        self._after: str | None = None

    def resume_after(self, id: str | None) -> None:
        """Say what the client saw last; called once, before `run` or `discard`."""
        self._after = id

    async def run(self, out: Outlet) -> None:
        """Call the function, and put all items of what it returns into `out`."""
        made = self._function(self._after)
        if inspect.isawaitable(made):
            made = await made
        await self._open(made).run(out)


def resumable_with(open_source: Any, function: Callable[[str | None], Any]) -> Resumable:
    """Return `function` as a source, checked.

    Raises:
        SourceError: it is no function of one argument.
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
    return Resumable(function, open_source)
