"""Source: the one form for everything that items come from.

Whatever an app passes to be streamed becomes a `Source`. It runs once, in a task of flowstream, and
puts items into an outlet. An app may derive its own source type from it.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence

from flowstream.buffer._outlet import Outlet


class Source(abc.ABC):
    """A producer that can be run once, or closed without running.

    If it is `repeatable`, it can be run again after that.
    """

    status: int | None = None
    """The HTTP status of its stream, unless the app gives another; None for the usual 200."""

    headers: Sequence[tuple[str, str]] = ()
    """Further headers of its stream. Headers of the app replace them."""

    length: int | None = None
    """The bytes of all items together, if that is known, so that a client can show progress.

    The response has it as ``Content-Length`` if the format sends bytes unchanged and no policy
    drops any. If the source makes more or fewer bytes, its stream fails.
    """

    typed: bool = False
    """Whether its events have a type of their own, which a table (CSV) can't show."""

    repeatable: bool = False
    """Whether `run` may be called again after it has ended. Each call begins from the start."""

    @abc.abstractmethod
    async def run(self, out: Outlet) -> None:
        """Put all items into `out`. Release all resources, in whatever way it ends.

        When the client leaves, Cancelled is raised in here once. Whatever you await after that is
        shielded, for `Limits.cleanup_timeout` seconds.
        """

    async def discard(self) -> None:  # noqa: B027  # most sources hold nothing yet
        """Release all resources, because `run` will never be called.

        Called for a HEAD request and for a reconnect that is refused.
        """
