"""A log in the browser: its last lines, then each new one; and the file itself, in parts.

    flowstream serve examples/15_follow_a_log.py:app
    open http://127.0.0.1:8000/ in a browser, and reload it
    curl -C - -O http://127.0.0.1:8000/work.log

The log is rotated every few seconds, and connections break: the page loses no line over either.
"""

import contextlib
import itertools
import logging
import tempfile
from logging.handlers import RotatingFileHandler
from pathlib import Path

import trio
from quart import request
from quart_trio import QuartTrio

from flowstream import raw, sse
from flowstream.quart import Flowstream
from flowstream.sources import file_chunks, follow

app = QuartTrio(__name__)
Flowstream(app)
directory = tempfile.TemporaryDirectory()
LOG = Path(directory.name) / "work.log"
PAGE = """<!doctype html><title>Log</title><pre id=log></pre><script>
const source = new EventSource("/log"), log = document.getElementById("log");
source.onmessage = (event) => log.append(event.data + "\\n");
source.addEventListener("gap", () => log.append("(some lines are missing)\\n"));
</script>"""


@app.before_serving
async def start():
    app.nursery.start_soon(work)


async def work():
    with contextlib.closing(RotatingFileHandler(LOG, maxBytes=500, backupCount=2)) as handler:
        for n in itertools.count():
            handler.emit(logging.makeLogRecord({"msg": f"step {n}"}))
            await trio.sleep(0.2)


@app.get("/")
async def page():
    return PAGE


@app.get("/log")
async def log():
    return sse(follow(LOG))


@app.get("/work.log")
async def download():
    return raw(file_chunks(LOG, request))
