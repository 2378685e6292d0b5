"""The Python servers of `fanout.py`, each run in a process of its own.

``python _fanout_servers.py SIDE`` (``flowstream-HOME`` or ``sse-starlette``) listens on
a free port of 127.0.0.1, prints one line of JSON
(``{"port": ..., "about": ...}``) and serves until it is killed.

* ``GET /events`` streams what is published.
* ``GET /statistics`` tells of flowstream's direct writes (`_counted.py`).
* ``GET /publish?events=N&rate=R&how=H`` publishes N events, R a second or (0) without a pause,
  and answers when all were handed on. The answer to ``&ticks=1`` has how late a ticker in the
  same event loop was meanwhile, in seconds.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any
from urllib.parse import parse_qs

from _counted import CountedTopic
from _homes import HOMES, versions
from _servers import serve_trio, serve_uvicorn

PADDING = "x" * 79
TICK = 0.005  # seconds between two ticks
BURST = 16  # events that are published without waiting, one after the other


def payload() -> str:
    """Return 100 characters that end in the time; the tilde occurs nowhere else."""
    return f"{PADDING}{time.monotonic_ns():020d}~"


def query(scope: dict[str, Any]) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}


async def answer(send: Any, value: object) -> None:
    body = json.dumps(value).encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


# Trio sides


class Fanout:
    """A topic, and the views that stream it and publish to it."""

    def __init__(self) -> None:
        import flowstream

        self.counted = CountedTopic()
        self.topic = self.counted.topic
        # A stalled client is to stay for as long as the others are measured.
        self.limits = flowstream.Limits(stall_timeout=3600)

    def views(self) -> dict[str, Any]:
        return {
            "/events": self.events,
            "/publish": self.ask,
            "/statistics": self.counted.statistics,
        }

    async def events(self, given: dict[str, str]) -> Any:
        import flowstream

        block = flowstream.Block(timeout=60) if given else None
        return self.counted.stream(limits=self.limits, policy=block)

    async def ask(self, given: dict[str, str]) -> list[float]:
        import trio

        ticks: list[float] = []
        async with trio.open_nursery() as nursery:
            if given.get("ticks"):
                nursery.start_soon(tick, ticks)
            await self.publish(int(given["events"]), float(given["rate"]), given["how"])
            nursery.cancel_scope.cancel()
        return ticks

    async def publish(self, events: int, rate: float, how: str) -> None:
        import trio

        start = trio.current_time()
        for n in range(events):
            if how == "publish":
                await self.topic.publish(payload())
            else:
                self.topic.publish_nowait(payload())
            if rate:
                await trio.sleep_until(start + (n + 1) / rate)
            elif how == "nowait" and n % BURST == BURST - 1:
                await self.topic.publish(payload())  # **waits** for those before it, too


async def tick(ticks: list[float]) -> None:
    """Note how late this task is woken, for ever."""
    import trio

    while True:
        due = trio.current_time() + TICK
        await trio.sleep_until(due)
        ticks.append(trio.current_time() - due)


def flowstream_in(home: str) -> None:
    """Serve `sse(topic)` in one of the homes."""
    app, about = HOMES[home](Fanout().views())
    serve_trio(app, about)


# asyncio side


class SseStarletteApp:
    """A queue for each client, as its documentation has it."""

    def __init__(self) -> None:
        self.queues: set[asyncio.Queue[Any]] = set()
        self.number = 0

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        from sse_starlette.sse import EventSourceResponse

        if scope["path"] == "/events":
            queue: asyncio.Queue[Any] = asyncio.Queue()
            self.queues.add(queue)

            async def events() -> Any:
                while True:
                    yield await queue.get()

            try:
                await EventSourceResponse(events())(scope, receive, send)
            finally:
                self.queues.discard(queue)
            return
        given = query(scope)
        await self.publish(int(given["events"]), float(given["rate"]))
        await answer(send, {})

    async def publish(self, events: int, rate: float) -> None:
        from sse_starlette.sse import ServerSentEvent

        start = time.monotonic()
        for n in range(events):
            self.number += 1
            event = ServerSentEvent(data=payload(), id=f"0123abcd.{self.number}", sep="\n")
            for queue in self.queues:
                queue.put_nowait(event)
            # Without a pause the others run once between two events, as they do in Node's.
            await asyncio.sleep(max(0, start + (n + 1) / rate - time.monotonic()) if rate else 0)


def sse_starlette() -> None:
    """Serve sse-starlette's `EventSourceResponse` from an `asyncio.Queue` per client."""
    serve_uvicorn(SseStarletteApp(), versions("sse-starlette", "starlette"))


if __name__ == "__main__":
    side = sys.argv[1]
    if side == "sse-starlette":
        sse_starlette()
    else:
        flowstream_in(side.removeprefix("flowstream-"))
