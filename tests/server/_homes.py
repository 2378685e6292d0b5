"""One stream at home in each framework: a bare ASGI app, Quart-Trio, Starlette and FastAPI.

``HOMES[name](make)`` is an app that answers every GET with what ``make()`` returns.
"""

from fastapi import FastAPI
from quart_trio import QuartTrio
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from flowstream.quart import Flowstream
from flowstream.starlette import response


def bare(make):
    async def app(scope, receive, send):
        if scope["type"] == "http":
            await make()(scope, receive, send)

    return app


def quart(make, **options):
    app = QuartTrio("home")
    Flowstream(app, **options)

    @app.get("/")
    @app.get("/<path:path>")
    async def view(path=""):
        return make()

    return app


def starlette(make, middleware=()):
    async def view(request):
        return make()

    return Starlette(routes=[Route("/{path:path}", view)], middleware=middleware)


def fastapi(make, middleware=()):
    app = FastAPI(middleware=list(middleware))

    @app.get("/{path:path}")
    async def view() -> Response:
        return response(make())

    return app


HOMES = {"bare": bare, "quart": quart, "starlette": starlette, "fastapi": fastapi}
