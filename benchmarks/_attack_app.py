"""What `attacks.py` attacks: one ASGI application, for flowstream's server and for Hypercorn's.

``/``          a small answer
``/paced``     20 events a second, each with the time at which it was due
``/flood``     events without a pause, 1 KiB each
``/read``      reads the request's body and counts it
``/unread``    looks at no body for two seconds
``/socket``    a WebSocket that takes what comes
``/file``      4 KiB from the disk
``/blocking``  a synchronous generator that blocks for three seconds
``/topics/N``  a topic of that name
``/latest``    the newest event of each of 10,000 keys, with 50 new ones a second
``/hang``      a topic whose snapshot function does not return
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import trio

from flowstream import LatestByKey, Topic, Topics, raw, sse
from flowstream.sources import file_chunks

RATE = 20  # events a second of a paced stream
KEYS = 10_000
HELLO = b"hello, world\n"
PAYLOAD = "x" * 1000


async def paced() -> AsyncIterator[str]:
    """Say when each event was due: one that is made late is late, too."""
    begin, number = time.monotonic(), 0
    while True:
        number += 1
        due = begin + number / RATE
        await trio.sleep(max(0.0, due - time.monotonic()))
        yield f"{due:.6f}"


async def flood() -> AsyncIterator[str]:
    """Never pause."""
    while True:
        yield PAYLOAD


def blocking() -> Iterator[str]:
    """Block a worker thread."""
    time.sleep(3)
    yield "at last"


async def hang() -> Any:
    """Never return a snapshot."""
    await trio.sleep_forever()


class Site:
    """The application, with its topics."""

    def __init__(self) -> None:
        self._topics = Topics()
        self._hung = Topic("hung", snapshot=hang)
        self._latest = Topic("latest", snapshot=LatestByKey(KEYS))
        self._wanted = trio.Event()  # the latest: filling it takes half a second

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve one request, WebSocket or lifespan."""
        path = scope.get("path", "")
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "websocket":
            await take_all(receive, send)
        elif path == "/paced":
            await sse(paced())(scope, receive, send)
        elif path == "/flood":
            await sse(flood())(scope, receive, send)
        elif path == "/blocking":
            await sse(blocking())(scope, receive, send)
        elif path == "/file":
            await raw(file_chunks(__file__))(scope, receive, send)
        elif path == "/hang":
            await sse(self._hung)(scope, receive, send)
        elif path == "/latest":
            self._wanted.set()
            await sse(self._latest)(scope, receive, send)
        elif path.startswith("/topics/"):
            name = path.removeprefix("/topics/")
            await sse(await self._topics.open(name, scope))(scope, receive, send)
        else:
            if path == "/read":
                await read(receive)
            elif path == "/unread":
                await trio.sleep(2)
            headers = [(b"content-length", b"%d" % len(HELLO))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": HELLO})

    async def _lifespan(self, receive: Any, send: Any) -> None:
        async with trio.open_nursery() as nursery:
            await receive()
            nursery.start_soon(self._publish)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            nursery.cancel_scope.cancel()
        await send({"type": "lifespan.shutdown.complete"})

    async def _publish(self) -> None:
        await self._wanted.wait()
        for key in range(KEYS):
            await self._latest.publish({"price": key}, key=key)
        key = 0
        while True:
            key = (key + 1) % KEYS
            await self._latest.publish({"price": key}, key=key)
            await trio.sleep(0.02)


async def read(receive: Any) -> None:
    """Read a body to its end."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return


async def take_all(receive: Any, send: Any) -> None:
    """Accept a WebSocket, and look at nothing that comes."""
    await receive()
    await send({"type": "websocket.accept"})
    # None is held while the next one comes.
    while (await receive())["type"] != "websocket.disconnect":
        pass


app = Site()
