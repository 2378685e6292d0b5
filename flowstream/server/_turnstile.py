"""Who may begin with more requests when many come at once: one connection at a turn of the loop.

Trio runs all tasks that can run before it looks at sockets and deadlines again. Five thousand
requests over HTTP/2 come in a few kilobytes a connection. Begun as they come, they are as many
applications in one such turn, and other clients' events wait for all of them.
"""

from __future__ import annotations

import trio


class Turnstile:
    """Lets one task through at each turn of the loop, in the order in which they came."""

    def __init__(self) -> None:
        self._lock = trio.StrictFIFOLock()

    async def go_through(self) -> None:
        """Wait for one's turn, which is at least a checkpoint."""
        # Whoever waits is woken for the next turn, and wakes the one behind it for the turn after.
        async with self._lock:
            pass
