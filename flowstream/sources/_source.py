"""Source: where items come from, in one form.

Everything that an app passes becomes a `Source`. It runs once, in a task of flowstream, and puts
items into an outlet. An app may derive its own source type from it.
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

    The response gets it as its ``Content-Length`` if the format sends bytes as they are and
    no policy drops any. A source that makes more or fewer fails its stream.
    """

    typed: bool = False
    """Whether it sends events of a type of its own, for which a table has no room."""

    repeatable: bool = False
    """Whether `run` may be called again when it has ended: each call begins anew."""

    @abc.abstractmethod
    async def run(self, out: Outlet) -> None:
        """Put all items into `out`, and release what the items came from, however it ends.

        When the client leaves, Cancelled is raised in here once. What you await after that
        is shielded, for `Limits.cleanup_timeout` seconds.
        """

    async def discard(self) -> None:  # noqa: B027  # most sources hold nothing yet
        """Release what the source holds, because `run` will never be called.

        Called for a HEAD request and for a reconnect that is refused.
        """
