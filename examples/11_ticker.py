"""A ticker for everybody who looks: one topic, and for each client what it can take.

    flowstream serve examples/11_ticker.py:app
    open http://127.0.0.1:8000/ in a browser, in several windows
    curl -sN --limit-rate 1k http://127.0.0.1:8000/ticker/newest

The page reconnects by itself and goes on where it left off. A client that comes anew gets the state
first. One that is too slow sees the newest (newest), each price only as it is now (current), or is
sent away and begins anew with the state (complete).
"""

import itertools
import math

import trio
from quart import abort
from quart_trio import QuartTrio

from flowstream import Conflate, Disconnect, DropOldest, LatestByKey, Replay, Topic, sse
from flowstream.quart import Flowstream

app = QuartTrio(__name__)
Flowstream(app)

prices = Topic("prices", replay=Replay(items=500, seconds=60), snapshot=LatestByKey())
POLICIES = {"newest": DropOldest(), "current": Conflate(), "complete": Disconnect()}
PAGE = """<!doctype html><title>Ticker</title><table id=t></table><p id=note></p><script>
const cells = {}, source = new EventSource("/ticker/current");
const note = (text) => document.getElementById("note").textContent = text;
function show({ name, price }) {
  cells[name] ??= document.getElementById("t").insertRow().insertCell();
  cells[name].textContent = `${name} ${price}`;
}
source.onmessage = (event) => show(JSON.parse(event.data));
const showAll = (event) => JSON.parse(event.data).forEach(({ data }) => show(data));
source.addEventListener("snapshot", showAll);
source.addEventListener("gap", (event) => note(`missed ${JSON.parse(event.data).missed}`));
</script>"""


@app.before_serving
async def start():
    app.nursery.start_soon(tick)


async def tick():
    for n in itertools.count():
        name = ("ACME", "Globex", "Initech")[n % 3]
        await prices.publish({"name": name, "price": round(100 + 9 * math.sin(n / 9), 2)}, key=name)
        await trio.sleep(0.05)


@app.get("/")
async def page():
    return PAGE


@app.get("/ticker/<how>")
async def ticker(how):
    return sse(prices, policy=POLICIES[how], buffer=64) if how in POLICIES else abort(404)
