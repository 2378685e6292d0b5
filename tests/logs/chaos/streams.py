"""The topics of a run, and how they are streamed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl

from flowstream import LatestByKey, Replay, Topic, ndjson, sse
from flowstream._event import Event
from flowstream.abc import Log
from flowstream.limits import Buffer
from flowstream.logs._open_log import from_url
from flowstream.starlette import lifespan

from .disguise import PlantedLog, planted_in_stream, put_on
from .plan import Role
from .texts import passes


def make_topics(batch: int) -> dict[str, Topic]:
    """Return the topics by name, for events of which so many come at once.

    ``plain`` keeps all: there nobody may miss anything who reads all. ``keyed`` keeps what follows
    on a snapshot until a client has read that. ``small`` keeps little.
    """
    plain = Replay(items=10**7, bytes=1 << 40)
    keyed = Replay(items=max(2000, batch * 40))
    small = Replay(items=max(200, batch * 2))
    return {
        "plain": Topic("plain", replay=plain),
        "keyed": Topic("keyed", replay=keyed, snapshot=LatestByKey(keys=1000)),
        "small": Topic("small", replay=small),
    }


def disguised() -> tuple[Role, Log | str]:
    """Put on the disguise of this process; return its role, and its log as an app is given it."""
    role = Role.mine()
    put_on(role)
    if role.planted in ("acknowledge what was not appended", "another body"):
        return role, PlantedLog(from_url(role.url), role.planted)
    return role, role.url


@asynccontextmanager
async def open_topics(log: Log | str, batch: int) -> AsyncIterator[dict[str, Topic]]:
    """Open the log for a block of code, and give the topics by name."""
    async with lifespan(None, log=log):
        yield make_topics(batch)


def stream(topic: Topic, asked: Mapping[str, str]) -> Any:
    """Return a response for ``?format=ndjson&wants=thirds&buffer=64``."""
    items = int(asked["buffer"])
    where = None if asked["wants"] == "all" else _passes
    make = sse if asked["format"] == "sse" else ndjson
    buffer = Buffer(items=items, bytes=items << 12)
    return make(topic.subscribe(where=where, buffer=buffer), heartbeat=5.0)


def make_app(topics: Mapping[str, Topic]) -> Any:
    """Return an ASGI app that streams topics, for a process that has their log open."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["type"] == "http":
            asked = dict(parse_qsl(scope["query_string"].decode()))
            await stream(topics[scope["path"][1:]], asked)(scope, receive, send)

    return app


def perhaps_planted(role: Role, app: Any) -> Any:
    """Return an app, with the fault that is planted in its streams."""
    return planted_in_stream(role.planted, app) if role.planted in ("swallow", "twice") else app


def _passes(event: Event) -> bool:
    return passes(event.data)
