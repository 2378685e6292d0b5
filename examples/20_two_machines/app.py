"""A wall on two machines, which share it in one Valkey; `start.py` starts it.

A message has a key, and is sent until it is answered. So it is published once, whoever was killed
meanwhile. A page that loses its machine goes on at the other, behind the last event that it has.
The buttons that kill are for you to see that. No app should have them.
"""

import json
import os
import signal
from pathlib import Path

from quart import request
from quart_trio import QuartTrio

from flowstream import LatestByKey, Replay, Topic, sse
from flowstream.quart import Flowstream

MACHINE = os.environ.get("MACHINE", "A")
PROCESSES = Path(os.environ.get("PROCESSES", os.devnull))

app = QuartTrio(__name__)
Flowstream(app)  # the log's URL is in FLOWSTREAM_LOG_URL
wall = Topic("wall", replay=Replay(items=10_000), snapshot=LatestByKey(keys=1000))
page = Path(__file__).with_name("page.html").read_text()


@app.get("/")
async def show():
    return page


@app.get("/wall/<uuid:tab>")
async def read(tab):
    # A page can't read the headers of an EventSource, but it can read a cookie.
    cookie = f"{tab}={MACHINE}; Path=/; Max-Age=10; SameSite=Strict"
    return sse(wall, headers={"set-cookie": cookie})


@app.post("/wall")
async def write():
    key = request.headers["Idempotency-Key"]
    message = {"key": key, "text": (await request.get_json())["text"][:1000], "machine": MACHINE}
    return {"id": await wall.publish(message, key=key, idempotency_key=key)}, 201


def running():
    """Return who runs: ``{name: process id}``. `start.py` writes that down."""
    return json.loads(PROCESSES.read_text() or "{}")


app.add_url_rule("/processes", view_func=running)


@app.post("/kill/<name>/<int:pid>")
async def kill(name, pid):
    if running().get(name) == pid:
        os.kill(pid, signal.SIGKILL)
    return "", 204
