"""The servers of `log_delivery.py`, each a worker in a process of its own.

``python _log_delivery_servers.py HOME [URL]`` serves a topic in memory, or in the log that the URL
names, at a free port of 127.0.0.1. It prints one line of JSON (``{"port": ..., "about": ...}``) and
serves until it is killed. Its paths are those of `_fanout_servers.py`.
"""

from __future__ import annotations

import os
import sys
from contextlib import AsyncExitStack
from typing import Any

import trio
from _fanout_servers import Fanout
from _homes import HOMES
from _servers import announce

import flowstream
from flowstream.server import streaming_config


async def serve(home: str, url: str | None) -> None:
    """Serve until it is cancelled."""
    from flowstream.quart import Flowstream

    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        if url is not None and home == "bare":  # it has no lifespan that could open a log
            await stack.enter_async_context(Flowstream(log=url))
        app, about = HOMES[home](Fanout().views())
        if url is not None and home in ("starlette", "fastapi"):
            from flowstream.starlette import lifespan

            app.router.lifespan_context = lifespan(log=url)
        config = streaming_config(bind=["127.0.0.1:0"], loglevel="ERROR")
        addresses = await nursery.start(flowstream.serve, app, config)
        announce(int(addresses[0].rsplit(":", 1)[1]), about)


def main(home: str, url: Any = None) -> None:
    """Serve a topic in this home."""
    if url is not None and home == "quart":
        os.environ["FLOWSTREAM_LOG_URL"] = url  # its `Flowstream(app)` reads that
    trio.run(serve, home, url)


if __name__ == "__main__":
    main(*sys.argv[1:])
