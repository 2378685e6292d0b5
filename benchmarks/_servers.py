"""The Python servers that the benchmarks measure, each run in a process of its own.

``python _servers.py SIDE`` listens on a free port of 127.0.0.1, prints one line of JSON
(``{"port": ..., "about": ...}``) and serves until it is killed.
``GET /stream?events=N`` streams N events.

The peers are as cheap as their frameworks allow: bytes that were put together beforehand,
no routing, no access log, no ids to count. Only flowstream's side formats each event.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

from _homes import HOMES, versions

PAYLOAD = "x" * 99 + "~"
"""100 characters; the tilde occurs nowhere else on the wire, so counting it counts events."""

FRAMED = f"id: 0123abcd.1000000\ndata: {PAYLOAD}\n\n"
"""What flowstream makes of the payload, with an id of its usual length."""


def announce(port: int, about: str) -> None:
    print(json.dumps({"port": port, "about": about}), flush=True)


def wanted(scope: dict[str, Any]) -> int:
    """Return the number of events that the request asks for."""
    return int(scope["query_string"].partition(b"=")[2])


# Trio sides


def serve_trio(
    app: Any,
    about: str,
    *,
    plain: bool = False,
    beside: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Serve `app` by flowstream, or by plain Hypercorn's Trio worker, over HTTP/1.1.

    `beside` is a task that runs in the same event loop.
    """
    import hypercorn.trio
    import trio

    import flowstream
    from flowstream.server import streaming_config

    serve: Any = hypercorn.trio.serve if plain else flowstream.serve

    config = streaming_config(bind=["127.0.0.1:0"], loglevel="ERROR")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            if beside is not None:
                nursery.start_soon(beside)
            addresses = await nursery.start(serve, app, config)
            announce(int(addresses[0].rsplit(":", 1)[1]), about)

    trio.run(main)


def flowstream_in(home: str) -> None:
    """Serve `flowstream.sse()` of an async generator that yields plain text, in one home."""
    import flowstream

    async def stream(given: dict[str, str]) -> Any:
        async def events() -> AsyncIterator[str]:
            for _ in range(int(given["events"])):
                yield PAYLOAD

        return flowstream.sse(events())

    app, about = HOMES[home]({"/stream": stream})
    serve_trio(app, about)


def hypercorn_plain() -> None:
    """Serve ready-made bytes by one ASGI send an event, on plain Hypercorn."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        chunk = FRAMED.encode()
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(wanted(scope)):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    serve_trio(app, versions("hypercorn", "trio"), plain=True)


# asyncio sides


def serve_uvicorn(app: Any, about: str) -> None:
    """Serve `app` on uvicorn with uvloop, and httptools if that is installed."""
    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    parser = "httptools" if find_spec("httptools") else "h11"
    announce(listener.getsockname()[1], f"{about}, {versions('uvicorn', 'uvloop', parser)}")
    config = uvicorn.Config(
        app, loop="uvloop", http=parser, lifespan="off", log_level="warning", access_log=False
    )
    uvicorn.Server(config).run(sockets=[listener])


def starlette_raw() -> None:
    """Serve a `StreamingResponse` of ready-made bytes."""
    from starlette.responses import StreamingResponse

    chunk = FRAMED.encode()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        async def events() -> AsyncIterator[bytes]:
            for _ in range(wanted(scope)):
                yield chunk

        response = StreamingResponse(events(), media_type="text/event-stream")
        await response(scope, receive, send)

    serve_uvicorn(app, versions("starlette"))


def sse_starlette() -> None:
    """Serve sse-starlette's `EventSourceResponse`, which formats each event as we do."""
    from sse_starlette.sse import EventSourceResponse, ServerSentEvent

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        async def events() -> AsyncIterator[ServerSentEvent]:
            for n in range(wanted(scope)):
                yield ServerSentEvent(data=PAYLOAD, id=f"0123abcd.{n}", sep="\n")

        await EventSourceResponse(events())(scope, receive, send)

    serve_uvicorn(app, versions("sse-starlette", "starlette"))


SIDES = {
    **{f"flowstream-{home}": partial(flowstream_in, home) for home in HOMES},
    "starlette": starlette_raw,
    "hypercorn": hypercorn_plain,
    "sse-starlette": sse_starlette,
}

if __name__ == "__main__":
    SIDES[sys.argv[1]]()
