"""How much pointless work a client may make.

A request that is reset before it was answered costs the client two small frames and the
server an application's start (CVE-2023-44487, "rapid reset"; CVE-2025-8671 has the server
do the reset). Browsers do this, too, when a user leaves a page: a hundred at once, and then
not again for a while. nghttp2's figures.
"""

from __future__ import annotations

import trio

_BURST = 1000
_PER_SECOND = 33


class ResetLimit:
    """Runs out after a thousand trials at once, or 33 a second for long."""

    def __init__(self) -> None:
        self._left = float(_BURST)
        self._at = trio.current_time()

    def try_once(self) -> bool:
        """Count one trial; return whether it is within the limit."""
        now = trio.current_time()
        self._left = min(_BURST, self._left + (now - self._at) * _PER_SECOND) - 1
        self._at = now
        return self._left >= 0
