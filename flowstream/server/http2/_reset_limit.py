"""Limit how much pointless work a client may cause.

A request that is reset before it was answered costs the client two small frames, and the server the
start of an application (CVE-2023-44487, "rapid reset"; in CVE-2025-8671 the client makes the server
reset). Browsers reset, too, when a user leaves a page: a hundred requests at once, and then none
for a while. The figures are nghttp2's.
"""

from __future__ import annotations

import trio

_BURST = 1000
_PER_SECOND = 33


class ResetLimit:
    """Is used up by a thousand resets at once, or by more than 33 a second for long."""

    def __init__(self) -> None:
        self._left = float(_BURST)
        self._at = trio.current_time()

    def try_once(self) -> bool:
        """Count one reset; return whether it is within the limit."""
        now = trio.current_time()
        self._left = min(_BURST, self._left + (now - self._at) * _PER_SECOND) - 1
        self._at = now
        return self._left >= 0
