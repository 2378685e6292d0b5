"""The Python servers of `connections.py`, each run in a process of its own.

``python _connection_servers.py SIDE`` (``flowstream-HOME`` or ``sse-starlette``) listens on a
free port of 127.0.0.1, prints one line of JSON (``{"port": ..., "about": ...}``) and serves until
it is killed. ``GET /first`` streams one event and then nothing; ``GET /idle`` streams a topic to
which nobody publishes, behind a first comment. ``GET /publish`` has one event published to it, and
``GET /statistics`` tells which way it went (`_counted.py`).
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any

from _counted import CountedTopic
from _homes import HOMES, versions
from _servers import PAYLOAD, serve_trio, serve_uvicorn


def flowstream_in(home: str) -> None:
    """Serve both in one of the homes."""
    import trio

    import flowstream

    counted = CountedTopic()

    async def first(given: dict[str, str]) -> Any:
        async def events() -> AsyncIterator[str]:
            yield PAYLOAD
            await trio.sleep_forever()

        return flowstream.sse(events())

    async def idle(given: dict[str, str]) -> Any:
        return counted.stream()

    async def publish(given: dict[str, str]) -> None:
        await counted.topic.publish(PAYLOAD)

    views = {
        "/first": first,
        "/idle": idle,
        "/publish": publish,
        "/statistics": counted.statistics,
    }
    app, about = HOMES[home](views)
    serve_trio(app, about)


def sse_starlette() -> None:
    """Serve both by sse-starlette's `EventSourceResponse` in a Starlette app."""
    import asyncio

    from sse_starlette.sse import EventSourceResponse, ServerSentEvent
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.routing import Route

    async def events() -> AsyncIterator[ServerSentEvent]:
        yield ServerSentEvent(data=PAYLOAD, id="0123abcd.1", sep="\n")
        await asyncio.Event().wait()

    async def stream(request: Request) -> Any:
        return EventSourceResponse(events())

    app = Starlette(routes=[Route("/first", stream), Route("/idle", stream)])
    serve_uvicorn(app, versions("sse-starlette", "starlette"))


if __name__ == "__main__":
    if sys.argv[1] == "sse-starlette":
        sse_starlette()
    else:
        flowstream_in(sys.argv[1].removeprefix("flowstream-"))
