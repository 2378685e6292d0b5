"""A live feed as server-sent events: the load of this machine, once a second.

    flowstream serve examples/02_system.py:app
    curl -N http://127.0.0.1:8000/system

A client that reads slowly gets the newest readings and is told how many it missed.
"""

import os
import time

import trio
from quart_trio import QuartTrio

from flowstream import DropOldest, Limits, sse
from flowstream.quart import Flowstream

app = QuartTrio(__name__)
Flowstream(app)


async def system():
    while True:
        load = [round(average, 2) for average in os.getloadavg()]
        yield {"time": round(time.time()), "load": load, "cpus": os.cpu_count()}
        await trio.sleep(1)


@app.get("/system")
async def live():
    return sse(
        system,
        policy=DropOldest(),
        buffer=10,
        limits=Limits(max_duration=3600),  # then the browser reconnects
        on_reconnect="restart",  # a feed has no end that a reconnect could repeat
    )
