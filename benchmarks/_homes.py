"""The four homes of a stream, so that no benchmark measures only the cheapest of them.

A benchmark writes what it serves once, as views: functions that take the query's values and
return a stream, or something to be answered as JSON. `HOMES` makes an app of them for each home;
``app, about = HOMES[home](views)``. A path is matched exactly.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version
from typing import Any
from urllib.parse import parse_qsl

View = Callable[[dict[str, str]], Awaitable[Any]]
Views = Mapping[str, View]


def versions(*names: str) -> str:
    """Return the installed versions of these distributions, for the lines under a table."""
    return ", ".join(f"{name} {version(name)}" for name in names)


def bare(views: Views) -> tuple[Any, str]:
    """Serve them by an ASGI application without a framework."""
    import flowstream.asgi.response

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise RuntimeError("HTTP only")  # which is how an app says that it has no lifespan
        result = await views[scope["path"]](dict(parse_qsl(scope["query_string"].decode())))
        if isinstance(result, flowstream.asgi.response.StreamResponse):
            await result(scope, receive, send)
            return
        body = json.dumps(result).encode()
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app, versions("hypercorn", "trio")


def quart(views: Views) -> tuple[Any, str]:
    """Serve them by a Quart-Trio app."""
    from quart import jsonify, request
    from quart_trio import QuartTrio

    from flowstream.asgi.response import StreamResponse
    from flowstream.quart import Flowstream

    app = QuartTrio("benchmark")
    Flowstream(app)

    def endpoint(view: View) -> Any:
        async def answer() -> Any:
            result = await view(request.args.to_dict())
            return result if isinstance(result, StreamResponse) else jsonify(result)

        return answer

    for path, view in views.items():
        app.add_url_rule(path, path, endpoint(view))
    return app, versions("quart", "quart-trio", "hypercorn", "trio")


def starlette(views: Views) -> tuple[Any, str]:
    """Serve them by a Starlette app."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from flowstream.asgi.response import StreamResponse

    def endpoint(view: View) -> Any:
        async def answer(request: Request) -> Any:
            result = await view(dict(request.query_params))
            return result if isinstance(result, StreamResponse) else JSONResponse(result)

        return answer

    app = Starlette(routes=[Route(path, endpoint(view)) for path, view in views.items()])
    return app, versions("starlette", "hypercorn", "trio")


def fastapi(views: Views) -> tuple[Any, str]:
    """Serve them by a FastAPI app."""
    from fastapi import FastAPI, Request

    from flowstream.asgi.response import StreamResponse
    from flowstream.starlette import response

    app = FastAPI()

    def endpoint(view: View) -> Any:
        async def answer(request: Request) -> Any:
            result = await view(dict(request.query_params))
            return response(result) if isinstance(result, StreamResponse) else result

        # The annotation is text in this module, and FastAPI cannot see this function's imports.
        answer.__annotations__ = {"request": Request}
        return answer

    for path, view in views.items():
        app.add_api_route(path, endpoint(view), response_model=None)
    return app, versions("fastapi", "starlette", "hypercorn", "trio")


HOMES: dict[str, Callable[[Views], tuple[Any, str]]] = {
    "bare": bare,
    "quart": quart,
    "starlette": starlette,
    "fastapi": fastapi,
}
"""What makes an app of views, by the home's name."""

HOME_LABELS = {
    "bare": "bare ASGI",
    "quart": "Quart-Trio",
    "starlette": "Starlette",
    "fastapi": "FastAPI",
}
