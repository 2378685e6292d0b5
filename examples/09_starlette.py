"""Starlette and FastAPI on Trio: a route returns the stream, FastAPI's through one call.

flowstream serve examples/09_starlette.py:app
curl -N http://127.0.0.1:8000/ticks
curl -N http://127.0.0.1:8000/fast/ticks
"""

import trio
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from flowstream import sse
from flowstream.starlette import response


async def count():
    for n in range(1, 6):
        yield {"n": n}
        await trio.sleep(0.2)


async def ticks(request):
    return sse(count)


fast = FastAPI()


@fast.get("/ticks")
async def fast_ticks():
    return response(sse(count))


app = Starlette(routes=[Route("/ticks", ticks), Mount("/fast", fast)])
