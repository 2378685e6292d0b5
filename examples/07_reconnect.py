"""What a browser gets that comes back: nothing, everything again, or what it missed.

    flowstream serve examples/07_reconnect.py:app
    curl -N http://127.0.0.1:8000/once
    curl -i -H 'Last-Event-ID: 1a2b3c4d.2' http://127.0.0.1:8000/once
    curl -N -H 'Last-Event-ID: 3' http://127.0.0.1:8000/resumed

An EventSource reconnects by itself when a response ends, with the id of the last event it saw. A
generator that has run cannot go on from there. A 204 stops the EventSource, so that it does not run
an expensive producer again every few seconds.
"""

import trio
from quart import request
from quart_trio import QuartTrio

from flowstream import Event, sse
from flowstream.quart import Flowstream

app = QuartTrio(__name__)
Flowstream(app)


async def count(start=1):
    for n in range(start, 6):
        yield Event({"n": n}, id=str(n))
        await trio.sleep(0.1)


@app.get("/once")
async def once():
    """The default: whoever was here before gets a 204, and the generator is not run."""
    return sse(count)


@app.get("/again")
async def again():
    """Runs again for everybody, but not after its own `end`, which is final."""
    return sse(count, on_reconnect="restart")


@app.get("/resumed")
async def resumed():
    """The app knows what comes after an id of its own, so it begins there."""
    last = request.headers.get("Last-Event-ID", "0")
    start = int(last) + 1 if last.isdecimal() else 1
    return sse(count(start), on_reconnect="restart")
