"""What ``flowstream serve`` serves: an app on Starlette, or on Quart-Trio."""

from __future__ import annotations

from typing import Any

from flowstream.abc import Log

from .streams import disguised, make_topics, perhaps_planted, stream


def _on_starlette(log: Log | str, batch: int) -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.routing import Route

    from flowstream.starlette import lifespan

    topics = make_topics(batch)

    async def read(request: Request) -> Any:
        return stream(topics[request.path_params["name"]], request.query_params)

    return Starlette(routes=[Route("/{name}", read)], lifespan=lifespan(log=log))


def _on_quart(log: Log | str, batch: int) -> Any:
    from quart import request
    from quart_trio import QuartTrio

    from flowstream.quart import Flowstream

    quart = QuartTrio(__name__)
    Flowstream(quart, log=log)
    topics = make_topics(batch)

    @quart.get("/<name>")
    async def read(name: str) -> Any:
        return stream(topics[name], request.args)

    return quart


_role, _log = disguised()
_make = _on_quart if _role.home == "quart" else _on_starlette
app = perhaps_planted(_role, _make(_log, _role.batch))
