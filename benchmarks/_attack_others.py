"""The other clients: those who only want their events and their answers while somebody attacks.

Twenty of them receive a paced stream, and one asks for something small every 50 ms, on a new
connection. An event's latency counts from the moment when it was due, and a request's from the
moment when it was to be made: what waits is counted with all of its wait.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio
from _attack_app import HELLO, RATE

from flowstream.decoders import SSEDecoder

READERS = 20
EVERY = 0.05  # seconds between two requests
PATIENCE = 5.0  # seconds that one may take


@dataclass(frozen=True)
class Latency:
    """Milliseconds."""

    count: int
    p50: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Latency:
        """Return the percentiles of some values; if nothing has come, of the longest wait."""
        ordered = sorted(values) or [PATIENCE * 1000]
        last = len(ordered) - 1
        at = [ordered[last * share // 100] for share in (50, 99)]
        return cls(len(ordered), *at, ordered[-1])


class Samples:
    """When something was due, in seconds, and the milliseconds that it was late."""

    def __init__(self) -> None:
        self._values: list[tuple[float, float]] = []

    def add(self, due: float) -> None:
        """Note that what was due has come."""
        self._values.append((due, (time.monotonic() - due) * 1000))

    def within(self, begin: float, end: float) -> list[float]:
        """Return the milliseconds of what was due in that time."""
        return [late for due, late in self._values if begin <= due < end]


class Others:
    """All of them.

    Args:
        port: of the server, in the clear.
        asks: the path of the requests.
    """

    def __init__(self, port: int, asks: str) -> None:
        self.events = Samples()
        self.requests = Samples()
        self.lost = 0
        """Streams that the server has ended, and requests that came to nothing."""
        self._port = port
        self._asks = asks
        self._newest = [0.0] * READERS  # of each reader: when its last event was due
        self._asking = 0

    async def run(self) -> None:
        """Read and ask until cancelled."""
        async with trio.open_nursery() as nursery:
            for number in range(READERS):
                # Not all at once, so that their events are spread over the time between two.
                nursery.start_soon(self._read, number, number / READERS / RATE)
            due = time.monotonic()
            while True:
                due += EVERY
                await trio.sleep(max(0.0, due - time.monotonic()))
                nursery.start_soon(self._ask, due)

    async def settled(self, moment: float) -> None:
        """Wait until all that was due before `moment` has come, or for some seconds."""
        with trio.move_on_after(PATIENCE):
            # Any of 21 tasks may be the last.
            while self._asking or min(self._newest) < moment:  # noqa: ASYNC110
                await trio.sleep(0.01)
            return
        for newest in self._newest:
            if newest < moment:
                self.events.add(max(newest, moment - 0.001))

    async def _read(self, number: int, delay: float) -> None:
        await trio.sleep(delay)
        while True:
            with survived():
                async with await trio.open_tcp_stream("127.0.0.1", self._port) as stream:
                    await stream.send_all(request("/paced"))
                    decoder = SSEDecoder()
                    async for data in stream:
                        for event in decoder.feed(bytes(data)):
                            if event.data[:1].isdigit():
                                self._newest[number] = float(event.data)
                                self.events.add(self._newest[number])
            self.lost += 1
            await trio.sleep(EVERY)

    async def _ask(self, due: float) -> None:
        self._asking += 1
        answer = b""
        with trio.move_on_after(PATIENCE), survived():
            async with await trio.open_tcp_stream("127.0.0.1", self._port) as stream:
                await stream.send_all(request(self._asks, closes=self._asks != "/"))
                async for data in stream:
                    answer += data
                    if answer.endswith(HELLO):
                        break  # any other answer ends with its connection
        if not answer.startswith(b"HTTP/1.1 200"):
            self.lost += 1
        self.requests.add(due)
        self._asking -= 1


@contextmanager
def survived() -> Iterator[None]:
    """Go on when a connection is refused or reset."""
    try:
        yield
    except* (OSError, trio.BrokenResourceError):
        pass


def request(path: str, *, closes: bool = False) -> bytes:
    """Return a GET over HTTP/1.1; whether the connection is to end behind the answer."""
    more = "Connection: close\r\n" if closes else ""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n".encode()
