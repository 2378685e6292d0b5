"""Which way a topic's events take to its clients: the count that a benchmark prints beside times.

A server streams `CountedTopic.stream()` and answers ``/statistics`` by `CountedTopic.statistics`.
The benchmark asks for that with `taken(port)` and prints the answer. A fast path that is lost
shows there whatever the machine does, and with it the reason.
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any


class CountedTopic:
    """A topic, and the last stream that was made of it.

    Attributes:
        topic: to publish to.
    """

    def __init__(self) -> None:
        import flowstream

        self.topic = flowstream.Topic("events")
        # One alone: all come the same way, and what idle streams take of memory is measured.
        self._last: Any = None

    def stream(self, **options: Any) -> Any:
        """Return `sse` of the topic; `options` are those of `sse`."""
        import flowstream

        self._last = flowstream.sse(self.topic, **options)
        return self._last

    async def statistics(self, given: dict[str, str]) -> dict[str, Any]:
        """Answer a request: deliveries, direct ones, and why the last stream has none."""
        moment = self.topic.statistics()
        why_not = None if self._last is None else self._last.statistics().why_not_direct
        return {
            "deliveries": moment.deliveries,
            "direct": moment.direct_deliveries,
            "why_not": why_not,
        }


@dataclass(frozen=True)
class Taken:
    """What a server has delivered so far, and how."""

    deliveries: int
    direct: int
    """Those that were written to the client's connection directly."""
    why_not: str | None
    """Why the last stream may not be written to directly; None if it may."""

    def __str__(self) -> str:
        share = self.direct / max(1, self.deliveries)
        text = f"{share:6.1%} of {self.deliveries:,} deliveries were direct writes"
        return text if self.why_not is None else f"{text}; none now: {self.why_not}"


def taken(port: int) -> Taken:
    """Ask the server at this port."""
    return Taken(**ask(port, "/statistics"))


def ask(port: int, path: str) -> Any:
    """Return what a server answers to a GET, out of JSON."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(300)
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        answer = b""
        while data := connection.recv(1 << 16):
            answer += data
    return json.loads(answer.partition(b"\r\n\r\n")[2])
