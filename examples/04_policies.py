"""The slow-consumer policies side by side: one feed, one buffer size, six fates.

    flowstream serve examples/04_policies.py:app
    curl -sN --limit-rate 20k http://127.0.0.1:8000/drop-oldest | grep --line-buffered -A1 'event:'

The first gap shows when the kernels' buffers are full, after ten seconds or so. Try /block,
/sample, /drop-newest, /conflate and /disconnect, and read each one's report in the server's output.
"""

import itertools

import trio
from quart import abort
from quart_trio import QuartTrio

from flowstream import Block, Conflate, Disconnect, DropNewest, DropOldest, Event, Sample, sse
from flowstream.quart import Flowstream

app = QuartTrio(__name__)
Flowstream(app)

POLICIES = {
    "block": Block(),
    "drop-oldest": DropOldest(),
    "drop-newest": DropNewest(),
    "sample": Sample(every=10),
    "conflate": Conflate(),
    "disconnect": Disconnect(),
}


async def feed():
    """Fifty large events a second, about eight things in turn; each hundredth must arrive."""
    for n in itertools.count(1):
        yield Event({"n": n, "pad": "." * 4000}, key=n % 8, essential=n % 100 == 0)
        await trio.sleep(0.02)


@app.get("/<name>")
async def show(name):
    if name not in POLICIES:
        abort(404)
    return sse(feed, policy=POLICIES[name], buffer=16, on_reconnect="restart", on_close=print)
