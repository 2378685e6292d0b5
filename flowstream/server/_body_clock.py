"""How long a request's body may keep its application waiting.

A client that sends a head and then nothing, or a byte a minute, holds a connection and a task.
nginx bounds the time between two reads (``client_body_timeout``, 60 s), which a byte a minute
passes; Apache the rate as well (``RequestReadTimeout``, 500 bytes a second). Here one number does
both: the time spent waiting is taken from what is left of it, and what arrives gives some back.

It runs only while the application waits for the body. One that reads slowly has its own reasons.
"""

from __future__ import annotations

# Bytes that give back a second: Apache's MinRate. Two hundred times slower than UMTS.
_RATE = 500


class BodyClock:
    """What is left of the time for a body.

    Args:
        timeout: seconds to begin with, and at most.

    Attributes:
        left: seconds for which the application may still wait.
    """

    __slots__ = ("_timeout", "left")

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self.left = timeout

    def waited(self, seconds: float) -> None:
        """Take the time that was spent waiting."""
        self.left = max(0.0, self.left - seconds)

    def arrived(self, size: int) -> None:
        """Give back time for `size` bytes."""
        self.left = min(self._timeout, self.left + size / _RATE)
