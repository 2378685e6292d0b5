"""A wall that two workers share, and that outlives both of them.

    flowstream serve examples/18_two_workers.py:app --workers 2
    # open http://127.0.0.1:8000/ in two tabs, write, and kill a worker

The events are in a file of SQLite. So it does not matter which worker takes a message, and which
one a page reads from. A page that loses its worker comes back to the other, and has missed nothing.
A message whose answer was lost is sent again with the same key, and is published once.

The button "Kill a worker" is for you to see that. No app should have it.
"""

import os
import signal
from pathlib import Path

from quart import request
from quart_trio import QuartTrio

from flowstream import LatestByKey, Replay, Topic, sse
from flowstream.quart import Flowstream

app = QuartTrio(__name__)
Flowstream(app, log=os.environ.get("FLOWSTREAM_LOG_URL", "sqlite:///wall.db"))
wall = Topic("wall", replay=Replay(items=10_000), snapshot=LatestByKey(keys=200))
page = Path(__file__).with_suffix(".html").read_text()


@app.get("/")
async def show():
    return page


@app.get("/wall")
async def read():
    return sse(wall)


@app.post("/wall")
async def write():
    key = request.headers["Idempotency-Key"]
    text = (await request.get_json())["text"][:1000]
    message = {"key": key, "text": text, "worker": os.getpid()}
    return {"id": await wall.publish(message, key=key, idempotency_key=key)}, 201


@app.post("/kill")
async def kill():
    os.kill(os.getpid(), signal.SIGKILL)
