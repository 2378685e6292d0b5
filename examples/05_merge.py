"""A producer function: two sources merged into one stream, by a nursery that stays open.

    flowstream serve examples/05_merge.py:app
    curl -N http://127.0.0.1:8000/events

In an async generator a nursery must not stay open across a yield. Here it may: `send` is an
ordinary call. When the client goes, the nursery and both its tasks are cancelled.
"""

import os

import trio
from quart_trio import QuartTrio

from flowstream import Event, sse
from flowstream.quart import Flowstream

app = QuartTrio(__name__)
Flowstream(app)


async def ticks(out):
    n = 0
    while True:
        n += 1
        await out.send(Event(n, type="tick"))
        await trio.sleep(0.5)


async def load(out):
    while True:
        await out.send(Event(os.getloadavg()[0], type="load"))
        await trio.sleep(2)


async def both(out):
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ticks, out)
            nursery.start_soon(load, out)
    finally:
        print("both are gone")


@app.get("/events")
async def events():
    return sse(both)
