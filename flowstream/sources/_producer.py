"""Producer functions: ``async def produce(out): await out.send(item)``.

The form for whatever an async generator cannot do safely: nurseries and cancel scopes that
stay open while items are sent, and several tasks that send.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from flowstream.buffer._outlet import Outlet
from flowstream.sources._source import Source


class Producer(Source):
    """A producer function."""

    def __init__(self, function: Callable[[Outlet], Awaitable[None]]) -> None:
        self._function = function

    async def run(self, out: Outlet) -> None:
        """Call the function; the stream is complete when it returns."""
        await self._function(out)
